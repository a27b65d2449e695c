"""Loads any number of rows in one transaction: by COPY where that is possible, else by INSERT with many parameters.

A row is *shaped* (:mod:`.shapes`), *converted* (:mod:`.converter`) and *sent* with its batch. What is in memory is one
batch, or twenty thousand keys, so that memory does not grow with the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, suppress
from operator import itemgetter
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.exc import StaleDataError

from ..coherence.touched import MOST_KEYS
from ..crypto.tables import sealed_columns
from ..crypto.vault import slot_of
from ..errors import ConfigError, InvalidModelError, MissingPrimaryKeyError, NotFoundError
from ..models.columns import indispensable, utc_now
from ..models.hooks import run_before_set
from ..models.schema import Schema
from ..observe.bar import Bar
from ..tiers.copying import CopyIn, Staged, Target, blamed, target_of, unlimited
from ..tiers.failures import raised_by_driver
from ..tiers.upsert import changed_columns, insert_of, upsert
from .converter import Converter, flags_of
from .hooked import hooks_of
from .session import Session
from .shapes import Row, Shapes

OnConflict = Literal["error", "update", "ignore"]
Progress = Callable[[int], object] | bool | None

_CHOICES = ("error", "update", "ignore")


class BulkLoad:
    """One load of one model into one session's transaction.

    ``private``: nobody else uses the session, so that a COPY may stay open while the next rows are fetched.
    """

    def __init__(
        self,
        session: Session,
        schema: Schema,
        *,
        on_conflict: OnConflict,
        batch_size: int,
        columns: Sequence[str] | None,
        hooks: bool,
        private: bool,
    ) -> None:
        if on_conflict not in _CHOICES:
            raise ConfigError(f"bulk_load: on_conflict is {on_conflict!r}, expected one of {', '.join(_CHOICES)}")
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ConfigError(f"bulk_load: batch_size is {batch_size!r}, expected a whole number from 1")
        self.session = session
        self.schema = schema
        self.mapper: Mapper[Any] = schema.mapper
        self.on_conflict = on_conflict
        self.private = private
        self._batch_size = batch_size
        self._shapes = Shapes(self.mapper, columns)
        own = hooks_of(self.mapper.class_) if hooks else None
        self._hooks = own if own is not None and own.before_set is not None else None

    def run(self, rows: Iterable[Any], progress: Progress) -> int:
        """Load all rows; how many were written."""
        caches = self.session._caches
        for table in self.schema.tables if caches is not None else ():
            caches.tracker.check_direct(table, "COPY")  # type: ignore[union-attr]
        self.session.flush()
        taken = written = 0
        with ExitStack() as stack:
            told = _told(stack, progress, self.mapper.class_.__name__, rows)
            senders = Senders(self, stack)
            for names, batch in self._shapes.batches(self._asked(rows), self._batch_size):
                written += senders.send(names, batch)
                taken += len(batch)
                if told is not None:
                    told(taken)
            written += senders.flush()
        if self.on_conflict == "update":
            self._expire()
        return written if self.on_conflict == "ignore" else taken

    def _asked(self, rows: Iterable[Any]) -> Iterable[Any]:
        """The rows; as instances, to which ``before_set`` has agreed, if there is such a hook."""
        return rows if self._hooks is None else map(self._ask, rows)

    def _ask(self, row: Any) -> Any:
        instance = self._shapes.instance(row)
        run_before_set(self._hooks, instance)
        return instance

    def _expire(self) -> None:
        """Instances that the session holds may be of rows that were changed."""
        for instance in list(self.session.identity_map.values()):
            if isinstance(instance, self.mapper.class_):
                self.session.expire(instance)


class Noted:
    """Tells the transaction's write set which rows a load concerns: their keys while they are few, then the table."""

    def __init__(self, session: Session, schema: Schema, *, births_only: bool) -> None:
        self._caches = session._caches
        self._schema = schema
        self._births_only = births_only
        self._left = MOST_KEYS
        self._types = [_python_type(column) for column in schema.mapper.primary_key]

    @property
    def wants_keys(self) -> bool:
        return self._left >= 0

    def note(self, connection: sa.Connection, keys: Collection[Any] | None, count: int) -> None:
        """Rows with these keys (values of a single column, else tuples), or with keys that nobody knows yet."""
        if self._caches is None:
            return
        written = self._caches.tracker.open(connection)
        self._caches.tracker.counts["sets"] += count
        if self._births_only:
            written.births.update(self._schema.tables)  # no row that exists is changed
        if keys is None or self._left < 0:
            return
        self._left -= len(keys)
        tuples = [key if len(self._types) > 1 else (key,) for key in keys] if self._left >= 0 else []
        if self._left >= 0 and all(map(self._exact, tuples)):
            for key in tuples:
                written.touch(self._schema.space, key, self._schema.tables)
            return
        self._left = -1
        (written.reborn if self._births_only else written.tables).update(self._schema.tables)

    def _exact(self, key: Row) -> bool:
        """Whether the database will read these very values back: text in a number's place would be another key."""
        return all(type(value) is kind for value, kind in zip(key, self._types, strict=True))


class Senders:
    """What sends the batches of one load: one sender for each set of columns, and one at a time has unsent rows."""

    def __init__(self, load: BulkLoad, stack: ExitStack) -> None:
        self._load = load
        self._connection = load.session.connection(bind_arguments={"mapper": load.mapper})
        self._noted = Noted(load.session, load.schema, births_only=load.on_conflict != "update")
        self._stack = stack
        self._known: dict[tuple[str, ...], _Sender] = {}
        self._current: _Sender | None = None
        self._target: Target | None = None

    def send(self, names: tuple[str, ...], batch: list[Row]) -> int:
        """Write a batch; how many rows were written by now that had not been before."""
        sender = self._known.get(names)
        if sender is None or sender is not self._current:
            written = self.flush()  # rows in their order, whatever columns they have
            sender = self._current = self._known.get(names) or self._make(names)
            self._known[names] = sender
            return written + sender.send(batch)
        return sender.send(batch)

    def flush(self) -> int:
        return self._current.flush() if self._current is not None else 0

    def _make(self, names: tuple[str, ...]) -> _Sender:
        load = self._load
        key_names = [load.mapper.get_property_by_column(c).key for c in load.mapper.primary_key]
        keyed = all(name in names for name in key_names)
        _check_answerable(load, names, key_names, keyed)
        key_of = itemgetter(*[names.index(name) for name in key_names]) if keyed else None
        writer = self._copying(names) or _Inserting(load, names, self._connection)
        return _Sender(writer, key_of, self._noted, self._connection, merges=load.on_conflict == "update")

    def _copying(self, names: tuple[str, ...]) -> _Copying | None:
        """The writer that copies, or None where only INSERT does it right."""
        load, connection = self._load, self._connection
        if not _may_copy(load.mapper, connection):
            return None
        converter = Converter(load.mapper, names, connection.dialect)
        columns = [column.name for column in converter.columns]
        if not converter.complete or not columns:
            return None
        try:
            if self._target is None:
                self._target = target_of(connection, load.mapper.local_table)  # type: ignore[arg-type]
                if load.private:
                    unlimited(connection)
            if not self._target.copies or any(name not in self._target.types for name in columns):
                return None
            return _Copying(self._writer(self._target, names, columns, converter), converter, connection)
        except Exception as error:
            raise raised_by_driver(error, connection) from error

    def _writer(
        self, target: Target, names: Sequence[str], columns: list[str], converter: Converter
    ) -> CopyIn | Staged:
        load, connection = self._load, self._connection
        caches = load.session._caches
        watching: Any = caches.watching if caches is not None else _unwatched
        types = [target.types[name] for name in columns]
        if load.on_conflict == "error":
            return CopyIn(connection, target.name, columns, types, watching, patient=load.private)
        table: Any = load.mapper.local_table
        version = load.mapper.version_id_col
        changed = None
        if load.on_conflict == "update":
            given = [column.key for column in converter.columns]
            named = [table.c[key] for key in changed_columns(table, given, once=converter.once)]
            changed = [column.name for column in named if column is not version]
        staged = Staged(
            connection,
            target,
            columns,
            types,
            watching,
            patient=load.private,
            keys=[column.name for column in table.primary_key],
            changed=changed,
            version=version.name if version is not None else None,
            exists=load.on_conflict == "update" and bool(indispensable(load.mapper, names)),
        )
        self._stack.callback(_close, staged)
        return staged


class _Sender:
    """Sends the batches of one set of columns, and notes their keys."""

    def __init__(
        self,
        writer: _Copying | _Inserting,
        key_of: Callable[[Any], Any] | None,
        noted: Noted,
        connection: sa.Connection,
        *,
        merges: bool,
    ) -> None:
        self._writer = writer
        self._key_of = key_of
        self._noted = noted
        self._connection = connection
        self._merges = merges
        self.flush = writer.flush

    def send(self, batch: list[Row]) -> int:
        keys: list[Any] | None = None
        if self._key_of is not None and (self._merges or self._noted.wants_keys):
            keys = list(map(self._key_of, batch))
        if self._merges and keys is not None:
            last = dict(zip(keys, batch, strict=True))
            if len(last) < len(batch):  # of two rows with one key the later wins
                batch, keys = list(last.values()), list(last)
        self._noted.note(self._connection, keys, len(batch))
        return self._writer.write(batch, keys if self._merges and keys is not None else ())


class _Copying:
    """Rows by the driver, past SQLAlchemy: what goes wrong is said in its words all the same."""

    def __init__(self, writer: CopyIn | Staged, converter: Converter, connection: sa.Connection) -> None:
        self._writer = writer
        self._converter = converter
        self._connection = connection

    def write(self, batch: list[Row], keys: Collection[Any]) -> int:
        rows = self._converter.rows(batch)
        return self._guarded(lambda: self._writer.write(rows, keys), rows)

    def flush(self) -> int:
        return self._guarded(self._writer.flush, [])

    def _guarded(self, act: Callable[[], int], rows: Sequence[Any]) -> int:
        try:
            return act()
        except Exception as error:
            failure = raised_by_driver(error, self._connection)
            if failure is error and rows:  # nothing that the database said: a value that the driver cannot write
                failure = blamed(self._converter.columns, rows, error)
            raise failure from error


class _Inserting:
    """Rows by SQLAlchemy's INSERT: any database, any default, every rule for encrypted columns."""

    def __init__(self, load: BulkLoad, names: tuple[str, ...], connection: sa.Connection) -> None:
        self._load = load
        self._names = names
        flags = flags_of(load.mapper)
        self._now = [name for name, flag in flags.items() if flag.auto_now]
        self._once = [name for name, flag in flags.items() if flag.auto_now_add]
        self._statement = self._made(connection.dialect.name)

    def _made(self, dialect: str) -> Any:
        mapper: Any = self._load.mapper
        if self._load.on_conflict == "error":
            return sa.insert(mapper)
        if self._load.on_conflict == "ignore":
            return _ignoring(dialect, mapper)
        if indispensable(mapper, self._names):
            return sa.update(mapper)  # of rows that must exist, by the primary keys in their parameters
        given = [mapper.column_attrs[name].columns[0].key for name in dict.fromkeys([*self._names, *self._now])]
        once = [mapper.column_attrs[name].columns[0].key for name in self._once]
        return upsert(dialect, mapper.local_table, given, once=once, version=mapper.version_id_col, entity=mapper)

    def write(self, batch: list[Row], _keys: Collection[Any]) -> int:
        now = utc_now(None)
        stamps = dict.fromkeys(self._now, now)
        rows = [{**dict(zip(self._names, row, strict=True)), **stamps} for row in batch]
        options = {"datalayer_keys_known": True}
        if self._statement.is_update:
            return self._update(rows, options)
        for name in self._once:
            for row in rows:
                row[name] = row.get(name) or now
        result: Any = self._load.session.execute(self._statement, rows, execution_options=options)
        return len(result.all()) if self._load.on_conflict == "ignore" else len(rows)

    def _update(self, rows: list[dict[str, Any]], options: dict[str, Any]) -> int:
        for row in rows:
            for name in self._once:
                row.pop(name, None)
        try:
            self._load.session.execute(self._statement, rows, execution_options=options)
        except StaleDataError as error:
            raise NotFoundError(f"some of {len(rows)} rows do not exist") from error
        return len(rows)

    def flush(self) -> int:
        return 0


def _check_answerable(load: BulkLoad, names: Sequence[str], key_names: Sequence[str], keyed: bool) -> None:
    if load.on_conflict == "update" and not keyed:
        raise MissingPrimaryKeyError(
            f"bulk_load of {load.mapper.class_.__name__} with on_conflict='update' needs the primary key of every row "
            f"({', '.join(key_names)}), found {', '.join(names) or 'nothing'}"
        )
    if load.on_conflict != "error" and load.mapper.inherits is not None:
        raise InvalidModelError(
            f"bulk_load of {load.mapper.class_.__name__} writes several tables, where "
            f"on_conflict={load.on_conflict!r} cannot be answered; use set_many()"
        )


def _may_copy(mapper: Mapper[Any], connection: sa.Connection) -> bool:
    dialect = connection.dialect
    if dialect.name != "postgresql" or dialect.driver != "psycopg" or connection._is_autocommit_isolation():
        return False
    if mapper.inherits is not None or mapper.polymorphic_on is not None or len(mapper.tables) != 1:
        return False
    if not isinstance(mapper.local_table, sa.Table) or connection.get_execution_options().get("schema_translate_map"):
        return False
    # While keys are exchanged, an INSERT also looks for the digests that a text has under the older ones.
    blind = any(column.blind is not None for column in sealed_columns(mapper.local_table))
    vault = slot_of(dialect).vault if blind else None
    return vault is None or not vault.in_transition


def _close(staged: Staged) -> None:
    with suppress(Exception):  # the table goes with the transaction; a failure now must not hide the first one
        staged.close()


def _ignoring(dialect: str, mapper: Mapper[Any]) -> Any:
    if dialect not in ("postgresql", "sqlite"):
        raise ConfigError(f"bulk_load: on_conflict='ignore' needs PostgreSQL or SQLite, not {dialect}")
    return insert_of(dialect)(mapper).on_conflict_do_nothing().returning(*mapper.primary_key)


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
