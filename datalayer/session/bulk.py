"""Loads any number of rows in one transaction: by COPY where that is possible, else by INSERT with many parameters.

A row goes through four steps: it is *shaped* (an instance, a mapping or a tuple becomes values in one order), *filled*
(defaults and the times that the layer sets), *bound* (what the column's type makes of the value for the driver, and
encryption), and *sent* with its batch. One batch is in memory at a time, so that memory does not grow with the number
of rows. Rows of one batch have the same columns; others begin a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy import inspect
from sqlalchemy.orm import Mapper

from ..coherence.touched import MOST_KEYS
from ..crypto.column import EncryptedText, UnboundValue
from ..crypto.rows import row_name
from ..crypto.tables import sealed_columns
from ..crypto.vault import slot_of
from ..errors import ConfigError, EncodeError, InvalidModelError, MissingPrimaryKeyError
from ..models.columns import ColumnFlags, column_flags, utc_now
from ..models.hooks import run_before_set
from ..models.schema import Schema
from ..observe.bar import Bar
from ..tiers.copying import CopyIn, Row, Staged, Target, blamed, target_of
from ..tiers.failures import raised_by_driver
from ..tiers.upsert import changed_columns, upsert
from .hooked import hooks_of
from .session import Session

OnConflict = Literal["error", "update", "ignore"]
Progress = Callable[[int], object] | bool | None

_CHOICES = ("error", "update", "ignore")


class Shape(NamedTuple):
    """Rows that have the same attributes, in one order: what makes the tuple of their values."""

    names: tuple[str, ...]
    values: Callable[[Any], Row]


class BulkLoad:
    """One load of one model into one session's transaction."""

    def __init__(
        self,
        session: Session,
        schema: Schema,
        *,
        on_conflict: OnConflict,
        batch_size: int,
        columns: Sequence[str] | None,
        hooks: bool,
    ) -> None:
        if on_conflict not in _CHOICES:
            raise ConfigError(f"bulk_load: on_conflict is {on_conflict!r}, expected one of {', '.join(_CHOICES)}")
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ConfigError(f"bulk_load: batch_size is {batch_size!r}, expected a whole number from 1")
        self._session = session
        self._schema = schema
        self._mapper: Mapper[Any] = schema.mapper
        self._table: sa.Table = self._mapper.local_table  # type: ignore[assignment]
        self._on_conflict = on_conflict
        self._batch_size = batch_size
        self._order = _column_order(self._mapper, columns)
        own = hooks_of(self._mapper.class_) if hooks else None
        self._hooks = own if own is not None and own.before_set is not None else None
        self._key_names = [self._mapper.get_property_by_column(c).key for c in self._mapper.primary_key]
        self._noted = Noted(session, schema, births_only=on_conflict != "update")

    def run(self, rows: Iterable[Any], progress: Progress) -> int:
        """Load all rows; how many were written."""
        self._session.flush()
        connection = self._session.connection(bind_arguments={"mapper": self._mapper})
        written = taken = 0
        with ExitStack() as stack:
            told = _told(stack, progress, self._mapper.class_.__name__, rows)
            senders = Senders(self, connection, stack)
            for shape, batch in self._batches(rows):
                taken += len(batch)
                written += senders.send(shape, batch)
                if told is not None:
                    told(taken)
        if self._on_conflict == "update" and written:
            self._expire()
        return written if self._on_conflict == "ignore" else taken

    # -- shaping ---------------------------------------------------------------------------------------------------

    def _batches(self, rows: Iterable[Any]) -> Iterator[tuple[Shape, list[Row]]]:
        shape: Shape | None = None
        fits: Callable[[Any], bool] = bool
        batch: list[Row] = []
        for row in rows if self._hooks is None else map(self._asked, rows):
            if shape is None or not fits(row):
                if shape is not None and batch:
                    yield shape, batch
                    batch = []
                shape, fits = self._shape_of(row)
            batch.append(shape.values(row))
            if len(batch) == self._batch_size:
                yield shape, batch
                batch = []
        if shape is not None and batch:
            yield shape, batch

    def _shape_of(self, row: Any) -> tuple[Shape, Callable[[Any], bool]]:
        """How rows like this one become tuples, and whether another row is like it."""
        if isinstance(row, self._mapper.class_):
            return self._shape_of_instance(row)
        if isinstance(row, Mapping):
            return self._shape_of_mapping(row)
        if isinstance(row, tuple | list):
            return self._shape_of_tuple(row)
        raise InvalidModelError(
            f"bulk_load of {self._mapper.class_.__name__} got a {type(row).__name__!r}; "
            f"expected instances, mappings, or tuples in the order {', '.join(self._order)}"
        )

    def _shape_of_mapping(self, row: Mapping[str, Any]) -> tuple[Shape, Callable[[Any], bool]]:
        names, size = tuple(row), len(row)
        self._check_names(names)
        keys, pick = frozenset(names), _picker(names)

        def fits(other: Any) -> bool:
            return isinstance(other, Mapping) and len(other) == size and other.keys() == keys

        return Shape(names, pick), fits

    def _shape_of_instance(self, row: Any) -> tuple[Shape, Callable[[Any], bool]]:
        cls = type(row)
        known = [prop.key for prop in self._mapper.column_attrs]
        names = tuple(name for name in known if name in inspect(row).dict)
        pick, absent = _picker(names), [name for name in known if name not in names]

        def values(obj: Any) -> Row:
            return pick(obj.__dict__)

        def fits(other: Any) -> bool:
            if type(other) is not cls:
                return False
            loaded = other.__dict__
            return all(name in loaded for name in names) and not any(name in loaded for name in absent)

        return Shape(names, values), fits

    def _shape_of_tuple(self, row: Sequence[Any]) -> tuple[Shape, Callable[[Any], bool]]:
        size = len(self._order)

        def values(given: Any) -> Row:
            if len(given) != size:
                raise InvalidModelError(
                    f"bulk_load of {self._mapper.class_.__name__} got a tuple of {len(given)} values; "
                    f"expected {size}: {', '.join(self._order)} (or name them with columns=)"
                )
            return given if type(given) is tuple else tuple(given)

        def fits(other: Any) -> bool:
            return isinstance(other, tuple | list)

        return Shape(self._order, values), fits

    def _check_names(self, names: Iterable[Any]) -> None:
        for name in names:
            if name not in self._mapper.column_attrs:
                raise InvalidModelError(
                    f"bulk_load of {self._mapper.class_.__name__} got a mapping with the key {name!r}; "
                    f"expected some of {', '.join(self._order)}"
                )

    def _asked(self, row: Any) -> Any:
        """The row as an instance, after ``before_set`` has agreed to it and perhaps changed it."""
        cls = self._mapper.class_
        if isinstance(row, Mapping):
            self._check_names(row)
            row = cls(**row)
        elif isinstance(row, tuple | list):
            row = cls(**dict(zip(self._order, row, strict=True)))
        elif not isinstance(row, cls):
            self._shape_of(row)
        run_before_set(self._hooks, row)
        return row

    def _expire(self) -> None:
        """Instances that the session holds may be of rows that were changed."""
        for instance in list(self._session.identity_map.values()):
            if isinstance(instance, self._mapper.class_):
                self._session.expire(instance)


class Noted:
    """Tells the transaction's write set which rows a load concerns: their keys while they are few, then the table."""

    def __init__(self, session: Session, schema: Schema, *, births_only: bool) -> None:
        self._session = session
        self._schema = schema
        self._births_only = births_only
        self._left = MOST_KEYS
        self._types = [_python_type(column) for column in schema.mapper.primary_key]

    def note(self, connection: sa.Connection, keys: Collection[Row] | None, count: int) -> None:
        """Rows with these keys, or with keys that the database makes, will be written now."""
        caches = self._session._caches
        if caches is None:
            return
        written = caches.tracker.open(connection)
        caches.tracker.counts["sets"] += count
        if self._births_only:
            written.births.update(self._schema.tables)  # no row that exists is changed
        if keys is None:
            return
        self._left -= len(keys)
        if self._left >= 0 and all(map(self._exact, keys)):
            for key in keys:
                written.touch(self._schema.space, key, self._schema.tables)
        else:
            self._left = -1
            if not self._births_only:
                written.tables.update(self._schema.tables)

    def _exact(self, key: Row) -> bool:
        """Whether the database will read these very values back: text in a number's place would be another key."""
        return all(type(value) is kind for value, kind in zip(key, self._types, strict=True))


class Senders:
    """What sends the batches of one load, made once for each set of columns."""

    def __init__(self, load: BulkLoad, connection: sa.Connection, stack: ExitStack) -> None:
        self._load = load
        self._connection = connection
        self._stack = stack
        self._known: dict[tuple[str, ...], Callable[[list[Row]], int]] = {}
        self._target: Target | None = None

    def send(self, shape: Shape, batch: list[Row]) -> int:
        """Write a batch; how many rows of it were written."""
        sender = self._known.get(shape.names)
        if sender is None:
            sender = self._known[shape.names] = self._make(shape.names)
        return sender(batch)

    def _make(self, names: tuple[str, ...]) -> Callable[[list[Row]], int]:
        load = self._load
        keyed = all(name in names for name in load._key_names)
        if load._on_conflict == "update" and not keyed:
            raise MissingPrimaryKeyError(
                f"bulk_load of {load._mapper.class_.__name__} with on_conflict='update' needs the primary key of every "
                f"row ({', '.join(load._key_names)}), found {', '.join(names) or 'nothing'}"
            )
        if load._on_conflict != "error" and load._mapper.inherits is not None:
            raise InvalidModelError(
                f"bulk_load of {load._mapper.class_.__name__} writes several tables, where "
                f"on_conflict={load._on_conflict!r} cannot be answered; use set_many()"
            )
        key_of = _picker([names.index(name) for name in load._key_names]) if keyed else None
        return self._noting(self._by_copy(names) or self._by_insert(names), key_of)

    def _noting(
        self, send: Callable[[list[Row]], int], key_of: Callable[[Row], Row] | None
    ) -> Callable[[list[Row]], int]:
        load, connection = self._load, self._connection
        merges = load._on_conflict == "update"

        def noting(batch: list[Row]) -> int:
            keys = [key_of(row) for row in batch] if key_of is not None else None
            if merges and keys is not None:
                last = dict(zip(keys, batch, strict=True))  # of two rows with one key the later wins
                batch, keys = list(last.values()), list(last)
            load._noted.note(connection, keys, len(batch))
            return send(batch)

        return noting

    # -- COPY ------------------------------------------------------------------------------------------------------

    def _by_copy(self, names: tuple[str, ...]) -> Callable[[list[Row]], int] | None:
        """The sender that copies, or None where only INSERT does it right."""
        load, connection = self._load, self._connection
        if not _may_copy(load._mapper, connection):
            return None
        converter = Converter.of(load._mapper, names, connection.dialect)
        if converter is None:
            return None
        if self._target is None:
            self._target = target_of(connection, load._table)
        target = self._target
        columns = [column.name for column in converter.columns]
        if not target.copies or any(name not in target.types for name in columns):
            return None
        try:
            writer = self._writer(target, columns, converter)
        except Exception as error:
            raise raised_by_driver(error, connection) from error
        return _copying(writer, converter, connection, load._table)

    def _writer(self, target: Target, columns: list[str], converter: Converter) -> CopyIn | Staged:
        load, connection = self._load, self._connection
        caches = load._session._caches
        watching: Any = caches.watching if caches is not None else _unwatched
        types = [target.types[name] for name in columns]
        if load._on_conflict == "error":
            return CopyIn(connection, target.name, columns, types, watching)
        given = [column.key for column in converter.columns]
        changed = None
        if load._on_conflict == "update":
            changed = [load._table.c[key].name for key in changed_columns(load._table, given, once=converter.once)]
        version = load._mapper.version_id_col
        if version is not None and changed is not None:
            changed = [name for name in changed if name != version.name]
        staged = Staged(
            connection,
            target,
            columns,
            types,
            watching,
            keys=[column.name for column in load._table.primary_key],
            changed=changed,
            version=version.name if version is not None else None,
        )
        self._stack.callback(_closed, staged)
        return staged

    # -- INSERT ----------------------------------------------------------------------------------------------------

    def _by_insert(self, names: tuple[str, ...]) -> Callable[[list[Row]], int]:
        load, session = self._load, self._load._session
        mapper = load._mapper
        fill = {name: flags for name, flags in _flags(mapper).items() if flags.auto_now or flags.auto_now_add}
        once = {mapper.column_attrs[name].columns[0].key for name, flags in fill.items() if flags.auto_now_add}
        statement = self._statement(sorted({*names, *fill}), once)

        def send(batch: list[Row]) -> int:
            now = utc_now(None)
            rows = [dict(zip(names, row, strict=True)) for row in batch]
            for row in rows:
                for name, flags in fill.items():
                    if flags.auto_now or row.get(name) is None:
                        row[name] = now
            result: Any = session.execute(statement, rows, execution_options={"datalayer_keys_known": True})
            return int(result.rowcount) if load._on_conflict == "ignore" else len(rows)

        return send

    def _statement(self, given: list[str], once: set[str]) -> Any:
        load, dialect = self._load, self._connection.dialect.name
        mapper = load._mapper
        if load._on_conflict == "error":
            return sa.insert(mapper)
        keys = [mapper.column_attrs[name].columns[0].key for name in given]
        if load._on_conflict == "update":
            return upsert(dialect, load._table, keys, once=once, version=mapper.version_id_col, entity=mapper)
        return _ignoring(dialect, mapper)


class Converter:
    """Makes of an application's values what the driver sends, in the order of ``columns``."""

    def __init__(
        self,
        columns: list[sa.Column[Any]],
        width: int,
        fill: list[Callable[[], Any]],
        stamps: list[tuple[int, bool]],
        twins: list[int],
        bind: list[tuple[int, Callable[[Any], Any]]],
        bound: tuple[list[int], list[int]],
        once: set[str],
    ) -> None:
        self.columns = columns
        self.once = once
        self._width = width
        self._fill = fill
        self._stamps = stamps
        self._twins = twins
        self._bind = bind
        self._keys, self._bound = bound
        self.trivial = not (fill or stamps or twins or bind)

    @classmethod
    def of(cls, mapper: Mapper[Any], names: tuple[str, ...], dialect: sa.Dialect) -> Converter | None:
        """None when a default of a column is not to be had without SQLAlchemy's INSERT."""
        columns: list[Any] = [mapper.column_attrs[name].columns[0] for name in names]
        given = set(names)
        fill: list[Callable[[], Any]] = []
        once: set[str] = set()
        stamps: list[tuple[int, bool]] = []
        for name, flags in _flags(mapper).items():
            column = mapper.column_attrs[name].columns[0]
            if flags.auto_now or flags.auto_now_add:
                once |= {column.key} if flags.auto_now_add else set()
                if name in given:
                    stamps.append((names.index(name), flags.auto_now))
                    continue
            if name in given:
                continue
            default = _default_of(mapper, column)
            if default is _UNKNOWN:
                return None
            if default is not None:
                columns.append(column)
                fill.append(default)
        table: Any = mapper.local_table
        twins = []
        for sealed in sealed_columns(table):
            at = next((i for i, column in enumerate(columns) if column.key == sealed.key), None)
            if at is not None and sealed.blind is not None:
                columns.append(table.c[sealed.blind])
                twins.append(at)
        bind: Any = [(i, f) for i, c in enumerate(columns) if (f := c.type._cached_bind_processor(dialect)) is not None]
        bound = _row_binding(table, columns)
        return cls(columns, len(names), fill, stamps, twins, bind, bound, once)

    def rows(self, batch: list[Row]) -> list[Row]:
        """The batch as it is sent."""
        if self.trivial:
            return batch
        now, fill, twins, bind, stamps = utc_now(None), self._fill, self._twins, self._bind, self._stamps
        made: list[Row] = []
        for row in batch:
            values = [*row, *[default() for default in fill]]
            for i, always in stamps:
                if always or values[i] is None:
                    values[i] = now
            if twins:
                values += [values[i] for i in twins]
            key = [values[i] for i in self._keys] if self._bound else []
            for i, process in bind:
                values[i] = process(values[i])
            if self._bound:
                self._seal(values, key)
            made.append(tuple(values))
        return made

    def _seal(self, values: list[Any], key: list[Any]) -> None:
        for i in self._bound:
            value = values[i]
            if type(value) is UnboundValue:
                value.row = row_name(key)
                values[i] = value.sealed()


def _row_binding(table: Any, columns: list[sa.Column[Any]]) -> tuple[list[int], list[int]]:
    """Where the primary key is, and the ciphertext that is bound to it."""
    bound = [i for i, c in enumerate(columns) if isinstance(c.type, EncryptedText) and c.type.by_row]
    if not bound:
        return [], []
    at = {column.key: i for i, column in enumerate(columns)}
    missing = [column.key for column in table.primary_key if column.key not in at]
    if missing:
        raise EncodeError(
            f"{table.fullname}.{columns[bound[0]].name} is bound to its row (bind='row'), whose key the database would "
            f"choose; give {', '.join(missing)}"
        )
    return [at[column.key] for column in table.primary_key], bound


_UNKNOWN: Any = object()


def _default_of(mapper: Mapper[Any], column: Any) -> Callable[[], Any] | None:
    """What makes the value of a column that a row does not have: None for the database itself, else a function."""
    flags = column_flags(column)
    if flags.auto_now or flags.auto_now_add:
        return lambda: utc_now(None)
    if column is mapper.version_id_col and mapper.version_id_generator:
        return lambda: mapper.version_id_generator(None)  # type: ignore[operator,misc]
    default = column.default
    if default is None:
        return None
    if default.is_scalar:
        return lambda: default.arg
    # SQLAlchemy wraps functions without arguments; the others want to see the INSERT, which there is none of.
    if default.is_callable and getattr(default.arg, "__wrapped__", None) is not None:
        return lambda: default.arg(None)
    return _UNKNOWN  # type: ignore[no-any-return]


def _flags(mapper: Mapper[Any]) -> dict[str, ColumnFlags]:
    return {prop.key: column_flags(prop.columns[0]) for prop in mapper.column_attrs}  # type: ignore[arg-type]


def _may_copy(mapper: Mapper[Any], connection: sa.Connection) -> bool:
    dialect = connection.dialect
    if dialect.name != "postgresql" or dialect.driver != "psycopg" or connection._is_autocommit_isolation():
        return False
    if mapper.inherits is not None or mapper.polymorphic_on is not None or len(mapper.tables) != 1:
        return False
    if not isinstance(mapper.local_table, sa.Table) or connection.get_execution_options().get("schema_translate_map"):
        return False
    # While keys are exchanged, an INSERT also looks for the digests that a text has under the older ones.
    vault = slot_of(dialect).vault
    blind = any(column.blind is not None for column in sealed_columns(mapper.local_table))
    return not (blind and vault is not None and vault.in_transition)


def _copying(
    writer: CopyIn | Staged, converter: Converter, connection: sa.Connection, table: sa.Table
) -> Callable[[list[Row]], int]:
    def send(batch: list[Row]) -> int:
        rows = converter.rows(batch)
        try:
            written = writer.write(rows)
        except Exception as error:
            failure = raised_by_driver(error, connection)
            if failure is error:  # nothing that the database said: a value that the driver cannot write
                failure = blamed(table, converter.columns, rows, error)
            raise failure from error
        return len(batch) if written is None else written

    return send


def _closed(staged: Staged) -> None:
    """Drop the temporary table, unless the transaction has failed and takes it along."""
    if staged.driver.info.transaction_status.name == "INTRANS":
        staged.close()


def _ignoring(dialect: str, mapper: Mapper[Any]) -> Any:
    from sqlalchemy.dialects import postgresql, sqlite

    inserts: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
    if dialect not in inserts:
        raise ConfigError(f"bulk_load: on_conflict='ignore' needs PostgreSQL or SQLite, not {dialect}")
    return inserts[dialect](mapper).on_conflict_do_nothing()


def _column_order(mapper: Mapper[Any], columns: Sequence[str] | None) -> tuple[str, ...]:
    """The attributes that a tuple holds: those that were named, else all in the order of the table's columns."""
    if columns is not None:
        for name in columns:
            if name not in mapper.column_attrs:
                raise ConfigError(f"bulk_load: columns= has {name!r}, which {mapper.class_.__name__} has not")
        return tuple(columns)
    by_column: dict[Any, str] = {prop.columns[0]: prop.key for prop in mapper.column_attrs}
    return tuple(by_column[column] for column in mapper.local_table.c if column in by_column)


def _picker(names: Sequence[Any]) -> Callable[[Any], Row]:
    if len(names) == 1:
        (only,) = names
        return lambda row: (row[only],)
    return itemgetter(*names) if names else lambda row: ()


def _python_type(column: Any) -> type | None:
    try:
        found = column.type.python_type
    except NotImplementedError:
        return None
    return found if isinstance(found, type) else None


def _told(stack: ExitStack, progress: Progress, what: str, rows: Any) -> Callable[[int], object] | None:
    """Whom to tell of rows done: the application, a bar on the terminal, or nobody."""
    if progress is None or progress is False:
        return None
    if callable(progress):
        return progress
    bar = Bar(f"loading {what}", len(rows) if hasattr(rows, "__len__") else None)
    stack.callback(bar.close)
    return bar


def _unwatched(_connection: Any) -> ExitStack:
    return ExitStack()
