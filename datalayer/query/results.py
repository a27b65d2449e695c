"""What a named query returns: instances, rows of a class, rows of a generated one, or single values.

The columns of text have no types of their own. Those that an annotation or header names are read as a model's columns
are, so that SQLite yields moments and JSON yields dicts; the others come as the driver has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import inspect
from sqlalchemy.orm import Mapper

from ..errors import QueryError
from .rows import RowShape, generated, is_row_class, shape_of
from .types import made, named_type, type_of, without_none


@dataclass(frozen=True, slots=True)
class Entities:
    """Instances of a mapped class; columns by name, those that are absent stay unloaded."""

    model: type[Any]

    def statement(self, clause: sa.TextClause) -> Any:
        return sa.select(self.model).from_statement(clause)

    def rows(self, result: Any, what: str) -> Callable[[Any], Any]:
        return lambda row: row[0]

    @property
    def wanted(self) -> tuple[str, ...]:
        """The columns that the statement must have."""
        mapper: Any = inspect(self.model)
        return tuple(column.name for column in mapper.primary_key)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows with the fields of a class, by name; columns that are no field are left out."""

    shape: RowShape

    def statement(self, clause: sa.TextClause) -> Any:
        types = {name: kind for name, note in self.shape.fields.items() if (kind := type_of(note)) is not None}
        return clause.columns(**types) if types else clause

    def rows(self, result: Any, what: str) -> Callable[[Any], Any]:
        found = list(result.keys())
        check_columns(found, self.wanted, what)
        places = [found.index(name) for name in self.shape.fields]
        make = self.shape.make
        return make if places == list(range(len(found))) else lambda row: make([row[place] for place in places])

    @property
    def wanted(self) -> tuple[str, ...]:
        return tuple(self.shape.fields)


@dataclass(frozen=True, slots=True)
class Values:
    """The first and only column of each row."""

    annotation: Any

    def statement(self, clause: sa.TextClause) -> Any:
        kind = type_of(self.annotation)
        return clause if kind is None else clause.columns(sa.column("value", kind))

    def rows(self, result: Any, what: str) -> Callable[[Any], Any]:
        found = list(result.keys())
        if len(found) != 1:
            raise QueryError(f"{what} has {len(found)} columns ({', '.join(found)}); expected the one with the value")
        return lambda row: row[0]

    @property
    def wanted(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Generated:
    """Named tuples with whatever columns there are; the class is made with the first rows."""

    name: str
    known: dict[tuple[str, ...], RowShape] = field(default_factory=dict)

    def statement(self, clause: sa.TextClause) -> Any:
        return clause

    def rows(self, result: Any, what: str) -> Callable[[Any], Any]:
        found = tuple(result.keys())
        shape = self.known.get(found)
        if shape is None:
            check_columns(found, found, what)
            shape = self.known.setdefault(found, generated(self.name, dict.fromkeys(found, Any)))
        return shape.make

    @property
    def wanted(self) -> tuple[str, ...]:
        return ()


Shape = Entities | Rows | Values | Generated


def check_columns(found: Sequence[str], wanted: Sequence[str], what: str) -> None:
    """QueryError unless each wanted column is there, once."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise QueryError(f"{what} has no column {', '.join(missing)}; it has {', '.join(found) or 'none'}")
    twice = sorted({name for name in wanted if list(found).count(name) > 1})
    if twice:
        raise QueryError(f"{what} has two columns named {', '.join(twice)}; rename one with AS")


def row_name(query: str) -> str:
    """``list_recent`` -> ``ListRecentRow``."""
    return "".join(part[:1].upper() + part[1:] for part in query.split("_")) + "Row"


def shape_from_header(returns: str | None, kind: str, query: str, models: Mapping[str, Any], what: str) -> Shape:
    """The shape that ``-- returns:`` means: a mapped class, one type, or fields such as ``id int, seen datetime?``."""
    if kind == "scalar":
        return Values(named_type(returns, what) if returns else Any)
    if returns is None:
        return Generated(row_name(query))
    if " " in returns or "," in returns:
        fields = dict[str, Any]()
        for part in returns.split(","):
            name, _, note = part.strip().partition(" ")
            fields[name] = named_type(note.strip() or "Any", what)
        return Rows(generated(row_name(query), fields))
    if returns in models:
        return Entities(models[returns])
    try:
        return Values(named_type(returns, what))
    except QueryError as error:
        known = ", ".join(sorted(models)) or "none"
        raise QueryError(f"{what}: {returns!r} is no model of this layer ({known}) and no type") from error


def shape_from_annotation(annotation: Any, query: str, what: str) -> Shape:
    """The shape of rows that are annotated as ``annotation``."""
    kind = without_none(annotation)
    if isinstance(kind, type) and isinstance(inspect(kind, raiseerr=False), Mapper):
        return Entities(kind)
    if is_row_class(kind):
        return Rows(shape_of(kind))
    if kind is Any or kind is tuple:
        return Generated(row_name(query))
    if made(kind) is not None or type_of(kind) is not None:
        return Values(annotation)
    raise QueryError(
        f"{what} returns {annotation!r}; expected a mapped class, a dataclass, a NamedTuple, a type of a column, or Any"
    )
