"""How rows of one write-behind model travel: as bytes in a journal, as parameters of statements in the database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import sort_tables_and_constraints

from ..codecs import exact
from ..contracts.journal import Draft, Entry
from ..contracts.keys import key_text
from ..crypto.tables import sealed_columns
from ..errors import DecodeError, EncodeError, InvalidModelError
from ..models.behind import SEQUENCE_COLUMN
from ..models.columns import column_flags
from ..models.hooks import Hooks
from ..models.schema import Schema
from ..tiers.ladder import Ladder
from ..tiers.upsert import insert_of

#: The keys of these statements are told by who runs them, who may write to tables that sessions may not write to.
OPTIONS = {"datalayer_keys_known": True, "datalayer_behind": True}


class Shape:
    """One write-behind model. Immutable, thread-safe. ``space`` is what its addresses begin with."""

    def __init__(self, schema: Schema, ladder: Ladder, dialect: str) -> None:
        table = schema.mapper.local_table
        assert isinstance(table, sa.Table)
        self.schema = schema
        self.ladder = ladder
        self.table = table
        self.space = ladder.space
        self.hooks: Hooks | None = schema.policy.hooks
        self.number = table.c[SEQUENCE_COLUMN]
        self.columns = [table.c[column.key] for column in schema.full.columns]
        self._keys = [table.c[column.key] for column in schema.mapper.primary_key]
        self._upsert = self._make_upsert(dialect)
        self._delete = sa.delete(table).where(*self._is_key(), self.number < sa.bindparam("datalayer_seq"))
        self._present = sa.select(self.number).where(*self._is_key())

    # -- journal ---------------------------------------------------------------------------------------------------

    def draft_set(self, key: tuple[Any, ...], values: tuple[Any, ...]) -> Draft | None:
        """A whole row; None when it cannot be encoded, or is larger than entries may be."""
        body = self.ladder.packing.pack_row(self.schema, key, values)
        packed = _packed(list(key))
        return None if body is None or packed is None else Draft(self.space, key_text(key), "set", packed, body)

    def draft_delete(self, key: tuple[Any, ...]) -> Draft | None:
        packed = _packed(list(key))
        return None if packed is None else Draft(self.space, key_text(key), "delete", packed, b"")

    def draft_add(self, key: tuple[Any, ...], amounts: Mapping[str, Any]) -> Draft | None:
        packed, body = _packed(list(key)), _packed(dict(amounts))
        if packed is None or body is None:
            return None
        return Draft(self.space, key_text(key), "add", packed, body)

    def key_of(self, entry: Entry) -> tuple[Any, ...]:
        """DecodeError for a key that is none."""
        key = exact.unpack(entry.key)
        if not isinstance(key, list) or len(key) != len(self._keys):
            raise DecodeError(f"a queued write of {self.table.fullname} has no key that fits the table")
        return tuple(key)

    def values_of(self, entry: Entry) -> tuple[Any, ...]:
        """DecodeError for a row of a shape that this release cannot read."""
        values = self.ladder.packing.unpack_row(self.schema, self.key_of(entry), entry.body)
        if values is None:
            raise DecodeError(f"a queued row of {self.table.fullname} has a shape that this release cannot read")
        return values

    def amounts_of(self, entry: Entry) -> dict[sa.Column[Any], Any]:
        """What is to be added to which column. DecodeError for columns that this release does not know."""
        found = exact.unpack(entry.body)
        if not isinstance(found, dict) or not found.keys() <= set(self.schema.full.keys):
            raise DecodeError(f"a queued addition names a column that {self.table.fullname} does not have")
        return {self._column(name): amount for name, amount in found.items()}

    def _column(self, attribute: str) -> sa.Column[Any]:
        column: sa.Column[Any] = self.columns[self.schema.full.keys.index(attribute)]
        return column

    def check_amounts(self, amounts: Mapping[str, Any]) -> None:
        """InvalidModelError unless every name is a column that can be added to."""
        for name, amount in amounts.items():
            known = name in self.schema.full.keys and self._column(name) not in self._keys
            if not known or not isinstance(self._column(name).type, sa.Numeric | sa.Integer | sa.Interval):
                raise InvalidModelError(f"{self.schema.cls.__name__}.{name} is no column that can be added to")
            if amount is None:
                raise InvalidModelError(f"{self.schema.cls.__name__}.{name}: None cannot be added")

    # -- statements ------------------------------------------------------------------------------------------------

    def _make_upsert(self, dialect: str) -> Any:
        """Insert, or replace a row whose sequence number is smaller: all columns but those that are set once."""
        statement = insert_of(dialect)(self.table)
        new = statement.excluded
        blind = [self.table.c[c.blind] for c in sealed_columns(self.table) if c.blind is not None]
        changed = [c for c in self.columns if c not in self._keys and not column_flags(c).auto_now_add]
        return statement.on_conflict_do_update(
            index_elements=self._keys,
            set_={c.name: new[c.key] for c in (*changed, *blind, self.number)},
            where=self.number < new[SEQUENCE_COLUMN],
        )

    def _is_key(self) -> list[Any]:
        return [column == sa.bindparam(f"datalayer_key_{i}") for i, column in enumerate(self._keys)]

    def _key_parameters(self, entry: Entry) -> dict[str, Any]:
        return {f"datalayer_key_{i}": value for i, value in enumerate(self.key_of(entry))}

    def upsert(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write whole rows (see :meth:`parameters`) that are newer than what is there."""
        connection.execute(self._upsert, rows, execution_options=OPTIONS)

    def parameters(self, entry: Entry) -> dict[str, Any]:
        values = self.values_of(entry)
        row = {column.key: value for column, value in zip(self.columns, values, strict=True)}
        return row | {SEQUENCE_COLUMN: entry.seq}

    def delete(self, connection: sa.Connection, entries: Sequence[Entry]) -> None:
        """Delete rows that no newer write has replaced."""
        rows = [self._key_parameters(entry) | {"datalayer_seq": entry.seq} for entry in entries]
        connection.execute(self._delete, rows, execution_options=OPTIONS)

    def add(self, connection: sa.Connection, entries: Sequence[Entry]) -> int:
        """Add amounts to rows that no newer write has replaced; how many additions there was a row for."""
        groups: dict[tuple[sa.Column[Any], ...], list[dict[str, Any]]] = {}
        for entry in entries:
            amounts = self.amounts_of(entry)
            row = self._key_parameters(entry) | {"datalayer_seq": entry.seq}
            row |= {f"datalayer_{column.key}": amount for column, amount in amounts.items()}
            groups.setdefault(tuple(amounts), []).append(row)
        return sum(self._add(connection, columns, rows) for columns, rows in groups.items())

    def _add(self, connection: sa.Connection, columns: tuple[sa.Column[Any], ...], rows: list[dict[str, Any]]) -> int:
        changed = {}
        for column in columns:
            amount = sa.bindparam(f"datalayer_{column.key}", type_=column.type)
            zero = rows[0][f"datalayer_{column.key}"]
            changed[column] = sa.func.coalesce(column, sa.literal(zero - zero, column.type)) + amount
        statement = sa.update(self.table).where(*self._is_key(), self.number < sa.bindparam("datalayer_seq"))
        return connection.execute(statement.values(changed), rows, execution_options=OPTIONS).rowcount

    def number_of(self, connection: sa.Connection, entry: Entry) -> int | None:
        """The sequence number of the row that is there; None for no row."""
        found = connection.execute(self._present, self._key_parameters(entry)).scalar()
        return None if found is None else int(found)


def _packed(value: Any) -> bytes | None:
    try:
        return exact.pack(value)
    except EncodeError:
        return None


class Shapes:
    """The write-behind models of a layer, by space, parents before their children. Thread-safe."""

    def __init__(self, find: Callable[[], Iterable[Shape]], size: Callable[[], int]) -> None:
        self._find = find
        self._size = size
        self._seen = -1
        self._by_space: dict[str, Shape] = {}
        self._rank: dict[str, int] = {}

    def get(self, space: str) -> Shape | None:
        found = self._by_space.get(space)
        if found is None and self._size() != self._seen:
            self._learn()
            found = self._by_space.get(space)
        return found

    def rank(self, shape: Shape) -> int:
        """Tables with smaller ranks are referenced by those with larger ones; a circle of references has no order."""
        return self._rank[shape.space]

    def all(self) -> list[Shape]:
        if self._size() != self._seen:
            self._learn()
        return sorted(self._by_space.values(), key=self.rank)

    def _learn(self) -> None:
        self._seen = self._size()
        shapes = {shape.space: shape for shape in self._find()}
        ordered = sort_tables_and_constraints({s.table for s in shapes.values()})  # type: ignore[no-untyped-call]
        tables = [table for table, _ in ordered if table is not None]
        place = {table: i for i, table in enumerate(tables)}
        self._rank = {space: place[shape.table] for space, shape in shapes.items()}
        self._by_space = shapes
