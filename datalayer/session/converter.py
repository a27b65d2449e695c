"""What the driver is sent for a row that goes past SQLAlchemy's INSERT: defaults, times, encryption, bound values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapper

from ..crypto.column import EncryptedText, UnboundValue
from ..crypto.rows import row_name
from ..crypto.tables import sealed_columns
from ..errors import EncodeError
from ..models.columns import ColumnFlags, column_flags, utc_now

Row = Sequence[Any]


class Converter:
    """Turns rows with the attributes ``names`` into rows of ``columns``. Thread-safe; made once for each set of names.

    ``once`` are the keys of columns that only an insert may write: what is set once, and defaults.
    """

    def __init__(self, mapper: Mapper[Any], names: tuple[str, ...], dialect: sa.Dialect) -> None:
        self.columns: list[Any] = [mapper.column_attrs[name].columns[0] for name in names]
        self.once: set[str] = set()
        #: False when a default is not to be had without SQLAlchemy's INSERT.
        self.complete = True
        self._stamps: list[tuple[int, bool]] = []
        self._fill: list[Callable[[], Any]] = []
        self._add_missing(mapper, names)
        self._twins = self._add_digests(mapper.local_table)
        processors = [(i, column.type._cached_bind_processor(dialect)) for i, column in enumerate(self.columns)]
        self._bind: list[tuple[int, Callable[[Any], Any]]] = [(i, f) for i, f in processors if f is not None]
        self._bound = [i for i, c in enumerate(self.columns) if isinstance(c.type, EncryptedText) and c.type.by_row]
        self._keys = self._key_positions(mapper.local_table) if self._bound else []

    def _add_missing(self, mapper: Mapper[Any], names: tuple[str, ...]) -> None:
        for name, flags in flags_of(mapper).items():
            column: Any = mapper.column_attrs[name].columns[0]
            if flags.auto_now_add:
                self.once.add(column.key)
            if name in names:
                if flags.auto_now or flags.auto_now_add:
                    self._stamps.append((names.index(name), flags.auto_now))
                continue
            default = _default_of(mapper, column, flags)
            if default is _SPECIAL:
                self.complete = False
            elif default is not None:
                self.columns.append(column)
                self._fill.append(default)
                if not flags.auto_now:
                    self.once.add(column.key)

    def _add_digests(self, table: Any) -> list[int]:
        """Give blind index columns the texts of their columns, whose positions are returned."""
        twins = []
        for sealed in sealed_columns(table):
            at = next((i for i, column in enumerate(self.columns) if column.key == sealed.key), None)
            if at is not None and sealed.blind is not None:
                self.columns.append(table.c[sealed.blind])
                twins.append(at)
        return twins

    def _key_positions(self, table: Any) -> list[int]:
        at = {column.key: i for i, column in enumerate(self.columns)}
        missing = [column.key for column in table.primary_key if column.key not in at]
        if missing:
            raise EncodeError(
                f"{table.fullname}.{self.columns[self._bound[0]].name} is bound to its row (bind='row'), whose key the "
                f"database would choose; give {', '.join(missing)}"
            )
        return [at[column.key] for column in table.primary_key]

    def rows(self, batch: list[Any]) -> list[Row]:
        """The batch as it is sent."""
        if self._fill or self._stamps or self._twins or self._bound:
            return [self._row(row) for row in batch]
        bind = [(i, process) for i, process in self._bind if not self._is_ready(i, batch)]
        if not bind:
            return batch
        made = list(map(list, batch))
        for i, process in bind:
            for values in made:
                values[i] = process(values[i])
        return made  # type: ignore[return-value]

    def _is_ready(self, i: int, batch: list[Any]) -> bool:
        """Whether a boolean column has nothing but booleans, which is all that its type makes sure of."""
        return type(self.columns[i].type) is sa.Boolean and set(map(type, map(itemgetter(i), batch))) <= _BOOLEANS

    def _row(self, row: Row) -> Row:
        values = [*row, *[default() for default in self._fill]]
        for i, always in self._stamps:
            if always or values[i] is None:
                values[i] = utc_now(None)
        values += [values[i] for i in self._twins]
        key = [values[i] for i in self._keys]
        for i, process in self._bind:
            values[i] = process(values[i])
        for i in self._bound:
            value = values[i]
            if type(value) is UnboundValue:
                self._check_key(key)
                value.row = row_name(key)
                values[i] = value.sealed()
        return values

    def _check_key(self, key: list[Any]) -> None:
        for i, value in zip(self._keys, key, strict=True):
            kind = self.columns[i].type.python_type
            if type(value) is not kind:  # it would be read back as another value, and the ciphertext never again
                raise EncodeError(
                    f"{self.columns[self._bound[0]].type.place} is bound to its row (bind='row'): its primary key is "
                    f"given as {type(value).__name__!r}, expected {kind.__name__!r} exactly"
                )


_BOOLEANS = frozenset((bool, type(None)))
_SPECIAL: Any = object()


def flags_of(mapper: Mapper[Any]) -> dict[str, ColumnFlags]:
    """The flags of a class's columns, by attribute."""
    return {prop.key: column_flags(prop.columns[0]) for prop in mapper.column_attrs}  # type: ignore[arg-type]


def _default_of(mapper: Mapper[Any], column: Any, flags: ColumnFlags) -> Callable[[], Any] | None:
    """What makes the value of a column that a row does not have: None for the database itself, else a function."""
    if flags.auto_now or flags.auto_now_add:
        return lambda: utc_now(None)
    if column is mapper.version_id_col and mapper.version_id_generator:
        return lambda: mapper.version_id_generator(None)  # type: ignore[operator,misc]
    default = column.default
    if default is None:
        return None
    if default.is_scalar:
        return lambda: default.arg
    # SQLAlchemy wraps functions without arguments; the others want to see the INSERT, of which there is none.
    if default.is_callable and getattr(default.arg, "__wrapped__", None) is not None:
        return lambda: default.arg(None)
    return _SPECIAL  # type: ignore[no-any-return]
