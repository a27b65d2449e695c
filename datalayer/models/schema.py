"""All that is derived from a mapped class, worked out once: what a ``get`` selects, and whether it may be cached.

A *shape* is what ``select(Mapper)`` returns for one mapper: a base class and its joined subclasses select different
columns of the same row. All shapes of one row live under one key, the primary key in the space of the root class.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import uuid
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapper
from sqlalchemy.sql import util as sql_util
from sqlalchemy.sql.selectable import LABEL_STYLE_NONE, LABEL_STYLE_TABLENAME_PLUS_COL

from ..contracts.codec import Field
from ..crypto.column import EncryptedText
from ..crypto.rows import row_name
from ..errors import DecodeError
from .columns import column_flags
from .policy import CachePolicy, policy_of

SQLALCHEMY_21 = tuple(int(part) for part in sa.__version__.split(".")[:2]) >= (2, 1)

#: Key types whose equality and hash say exactly what the database's equality says.
KEY_TYPES = (int, str, uuid.UUID, bytes, dt.date)

_KINDS: dict[type, str] = {
    int: "int",
    str: "str",
    float: "float",
    bool: "bool",
    bytes: "bytes",
    dt.datetime: "datetime",
    dt.date: "date",
    dt.time: "time",
    dt.timedelta: "timedelta",
    decimal.Decimal: "decimal",
    uuid.UUID: "uuid",
}


class Projection:
    """Some of a shape's columns, in order: all of them, those that L2 may hold, or those that L1 may hold."""

    __slots__ = ("columns", "compile_state", "index", "keys", "pick")

    def __init__(
        self, columns: tuple[Any, ...], keys: tuple[str, ...], positions: list[int] | None, compile_state: Any
    ) -> None:
        # Of this projection's own: the ORM memoises in it where each column is in the row.
        self.compile_state = compile_state
        self.columns = columns
        self.keys = keys
        self.index = {column: i for i, column in enumerate(columns)}
        self.pick: Callable[[tuple[Any, ...]], tuple[Any, ...]] = _picker(positions)


def _picker(positions: list[int] | None) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    if positions is None:
        return lambda row: row
    if len(positions) == 1:
        only = positions[0]
        return lambda row: (row[only],)
    return itemgetter(*positions)


class Schema:
    """The read plan of one mapper. Immutable after construction, shared by every layer and thread.

    ``reasons`` is empty when rows of this shape may be cached; otherwise each entry says why not.
    """

    def __init__(self, mapper: Mapper[Any]) -> None:
        self.mapper = mapper
        self.cls: type[Any] = mapper.class_
        self.root: type[Any] = mapper._identity_class
        self.policy: CachePolicy = policy_of(self.cls)
        self.reasons: tuple[str, ...] = tuple(_reasons(mapper, self.policy))
        self.tables: tuple[str, ...] = tuple(t.fullname for t in mapper.tables if isinstance(t, sa.Table))
        self.polymorphic = bool(mapper.inherits) or mapper.polymorphic_on is not None
        if not self.reasons:
            self._plan()

    @property
    def cacheable(self) -> bool:
        return not self.reasons

    @property
    def space(self) -> str:
        """The logical table that names this row's home in every cache."""
        return _base_table(self.mapper).fullname

    def _plan(self) -> None:
        mapper = self.mapper
        self.statement, self.parameters = _get_statement(mapper)
        self.locking_statement = self.statement.with_for_update()
        self.lazy_statement = self.statement
        if SQLALCHEMY_21:  # what the lazy loader of a many-to-one emits has other labels
            self.lazy_statement = self.statement.set_label_style(LABEL_STYLE_NONE)
        state: Any = self.statement.compile().compile_state
        if getattr(state, "eager_joins", None) or state.secondary_columns:
            self.reasons = ("its default SELECT joins other tables",)
            return
        columns = tuple(state.primary_columns)
        keys = tuple(mapper.get_property_by_column(c).key for c in columns)
        self.full = Projection(columns, keys, None, state)
        flags = [column_flags(c) for c in columns]
        self.shared = self._subset([not f.omit_cache for f in flags])
        stays = [not (f.omit_cache or f.omit_l1) for f in flags]
        self.local = (
            self.shared if all(s or f.omit_cache for s, f in zip(stays, flags, strict=True)) else self._subset(stays)
        )
        kept = [i for i, column in enumerate(self.shared.columns) if column in self.local.index]
        self.local_of_shared = _picker(None if self.local is self.shared else kept)
        self.key_types = tuple(_python_type(c) for c in mapper.primary_key)
        self.key_names = tuple(mapper.get_property_by_column(c).key for c in mapper.primary_key)
        at = [self.full.index[c] for c in mapper.primary_key]
        self.key_of: Callable[[tuple[Any, ...]], tuple[Any, ...]] = _picker(at)
        self.shared_key_of = _picker([self.shared.index[c] for c in mapper.primary_key])
        self.fields = tuple(_field(c, k) for c, k in zip(self.shared.columns, self.shared.keys, strict=True))
        bound = [i for i, c in enumerate(columns) if isinstance(c.type, EncryptedText) and c.type.by_row]
        #: Decrypts full rows as a driver gives them; None when no column is bound to its row. May empty the list.
        self.open_rows: Callable[[list[tuple[Any, ...]]], list[tuple[Any, ...]]] | None = _opener(bound, self.key_of)
        self.mutable = tuple(k for c, k in zip(columns, keys, strict=True) if _is_mutable(c.type))

    def _subset(self, keep: list[bool]) -> Projection:
        if all(keep):
            return self.full
        at = [i for i, kept in enumerate(keep) if kept]
        columns, keys = tuple(self.full.columns[i] for i in at), tuple(self.full.keys[i] for i in at)
        return Projection(columns, keys, at, _get_statement(self.mapper)[0].compile().compile_state)

    def key_problem(self, key: tuple[Any, ...]) -> bool:
        """True when this key must be put to the database as it is: ``True == 1 == 1.0`` would share one cache slot."""
        return any(type(value) is not kind for value, kind in zip(key, self.key_types, strict=False))

    @property
    def flat(self) -> bool:
        """True when an instance may be made by filling ``__dict__``: nobody listens to loads, one class, one table."""
        return (
            self.cacheable
            and not self.polymorphic
            and _quiet(self.mapper, own_listeners=int(self.open_rows is not None))
            and len(set(self.full.keys)) == len(self.full.keys)
        )


def _opener(bound: list[int], key_of: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Any:
    if not bound:
        return None

    def opened(row: tuple[Any, ...]) -> tuple[Any, ...]:
        full = [i for i in bound if row[i] is not None]
        if not full:  # an outer join's row without a key, too
            return row
        values, name = list(row), row_name(key_of(row))
        for i in full:
            values[i] = values[i].open(name)
        return tuple(values)

    def open_rows(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        try:
            return [opened(row) for row in rows]
        except DecodeError as error:
            rows.clear()  # a traceback that shows local variables must not show these
            raise error.with_traceback(None) from None

    return open_rows


def _quiet(mapper: Mapper[Any], *, own_listeners: int) -> bool:
    manager = mapper.class_manager
    return (
        len(manager.dispatch.load) == own_listeners
        and mapper.polymorphic_map.keys() <= {mapper.polymorphic_identity}
        and not any(sub is not mapper for sub in mapper.self_and_descendants)
        and "__slots__" not in vars(mapper.class_)
    )


_MEMO = "_datalayer_schema"


def schema_of(mapper: Mapper[Any]) -> Schema:
    """The plan of a mapper, made on first use and again when its hierarchy has grown.

    Thread-safe: two threads may make it twice, with the same result.
    """
    family = len(mapper.base_mapper.polymorphic_map)
    found: tuple[int, Schema] | None = mapper.__dict__.get(_MEMO)
    if found is None or found[0] != family:
        found = mapper.__dict__[_MEMO] = (family, Schema(mapper))
    return found[1]


def _base_table(mapper: Mapper[Any]) -> sa.Table:
    table = mapper.base_mapper.local_table
    assert isinstance(table, sa.Table)
    return table


def _python_type(column: Any) -> type:
    try:
        kind = column.type.python_type
    except NotImplementedError:
        return object
    return kind if isinstance(kind, type) else object


def _reasons(mapper: Mapper[Any], policy: CachePolicy) -> Iterator[str]:
    if not policy.enabled:
        yield "its CachePolicy says enabled=False"
    if not isinstance(mapper.base_mapper.local_table, sa.Table) or any(
        not isinstance(t, sa.Table) for t in mapper.tables
    ):
        yield "it is not mapped to a Table"
        return
    family = list(mapper.base_mapper.self_and_descendants)
    if any(m.concrete for m in family):
        yield "its hierarchy uses concrete inheritance"
    if any(m.with_polymorphic or m.polymorphic_load for m in family):
        yield "its hierarchy uses with_polymorphic or polymorphic_load"
    if mapper.polymorphic_on is not None and not isinstance(mapper.polymorphic_on, sa.Column):
        yield "polymorphic_on is an expression"
    if mapper.always_refresh:
        yield "always_refresh is set"
    yield from _key_reasons(mapper)
    for member in family:
        yield from _property_reasons(member)


def _key_reasons(mapper: Mapper[Any]) -> Iterator[str]:
    if mapper.allow_partial_pks and len(mapper.primary_key) > 1 and any(c.nullable for c in mapper.primary_key):
        yield "its composite primary key has a nullable column"
    if set(mapper.primary_key) != set(_base_table(mapper).primary_key):
        yield "its primary key is not the one of its table"
    selected = set(mapper.column_attrs)
    for column in mapper.primary_key:
        if isinstance(column.type, sa.types.TypeDecorator):
            yield f"primary key column {column} has a TypeDecorator"
        elif _python_type(column) not in KEY_TYPES:
            yield f"primary key column {column} is of type {column.type!r}, whose equality is not exact in Python"
        prop = mapper.get_property_by_column(column)
        if prop not in selected or prop.deferred:
            yield f"primary key column {column} is not part of its default SELECT"


def _property_reasons(mapper: Mapper[Any]) -> Iterator[str]:
    for relationship in mapper.relationships:
        if relationship.lazy in ("joined", "selectin", "subquery", "immediate", False):
            yield f"relationship {relationship} loads eagerly by default"
    for prop in mapper.column_attrs:
        if any(not isinstance(c, sa.Column) for c in prop.columns):
            yield f"column property {prop} is an expression"


def _get_statement(mapper: Mapper[Any]) -> tuple[Any, tuple[str, ...]]:
    """The SELECT that ``Session.get`` would emit, with the same text, and the names of its key parameters."""
    statement: Any = sa.select(mapper)
    clause, binds = mapper._get_clause
    if not SQLALCHEMY_21:
        statement = statement.set_label_style(LABEL_STYLE_TABLENAME_PLUS_COL)
        clause = sql_util._deep_annotate(clause, {"_orm_adapt": True})
    statement._where_criteria = (clause,)
    return statement, tuple(binds[c].key for c in mapper.primary_key)


def _field(column: Any, key: str) -> Field:
    kind_of = column.type
    nullable = bool(getattr(column, "nullable", True))
    if isinstance(kind_of, sa.Enum) and kind_of.enum_class is not None:
        return Field(key, "enum", nullable, kind_of.enum_class)
    if isinstance(kind_of, sa.JSON):
        return Field(key, "json", nullable)
    if isinstance(kind_of, sa.types.TypeDecorator) and not getattr(kind_of, "datalayer_plain", False):
        return Field(key, "any", nullable)
    return Field(key, _KINDS.get(_python_type(column), "any"), nullable)


def _is_mutable(kind: Any) -> bool:
    """Whether values of this column type must be copied for every owner."""
    if isinstance(kind, sa.types.TypeDecorator) and not getattr(kind, "datalayer_plain", False):
        return True
    if isinstance(kind, sa.Enum):
        return False
    python = _KINDS.get(_type_python(kind))
    return python is None


def _type_python(kind: Any) -> type:
    try:
        found = kind.python_type
    except NotImplementedError:
        return object
    if isinstance(found, type) and issubclass(found, enum.Enum):
        return str
    return found if isinstance(found, type) else object
