"""``Q``: a query as an immutable value, built call by call and shared between threads at will."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Generic, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy import inspect

from ..errors import InvalidModelError, QueryError

T = TypeVar("T")

DEFAULT_LIMIT = 100


class _Unset:
    """The type of :data:`UNSET`: no limit was asked for, as opposed to ``limit(None)``, which asks for all rows."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET = _Unset()


@dataclass(frozen=True)
class Q(Generic[T]):
    """Which rows of a model, in which order, and how many. Every call returns a new query.

    >>> Q(Player).where(Player.level > 10, region="eu").order_by(Player.score.desc()).limit(25)  # doctest: +SKIP
    """

    model: type[T]
    criteria: tuple[Any, ...] = ()
    order: tuple[Any, ...] = ()
    texts: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    columns: tuple[str, ...] = ()
    maximum: int | _Unset | None = UNSET
    skipped: int = 0
    bypass: bool = field(default=False)

    def __post_init__(self) -> None:
        if inspect(self.model, raiseerr=False) is None:
            raise InvalidModelError(f"Q got {self.model!r}; expected a mapped class")

    def where(self, *criteria: Any, **equal: Any) -> Self:
        """Only rows that meet every criterion; keywords compare attributes for equality (None is IS NULL)."""
        for item in criteria:
            if not isinstance(item, sa.ColumnElement) and not hasattr(item, "__clause_element__"):
                raise QueryError(f"where() got {type(item).__name__!r}; expected a condition such as Player.level > 10")
        named = tuple(attribute(self.model, name) == value for name, value in equal.items())
        return replace(self, criteria=(*self.criteria, *criteria, *named))

    def where_sql(self, text: str, **parameters: Any) -> Self:
        """A condition as SQL text; every value is a bound parameter: ``where_sql("level > :n", n=10)``."""
        wanted = set(sa.text(text)._bindparams)
        if wanted != parameters.keys():
            missing, unknown = sorted(wanted - parameters.keys()), sorted(parameters.keys() - wanted)
            raise QueryError(
                f"where_sql({text!r}): parameters without a value: {missing or 'none'}; values without a parameter: "
                f"{unknown or 'none'}"
            )
        return replace(self, texts=(*self.texts, (text, MappingProxyType(dict(parameters)))))

    def order_by(self, *columns: Any) -> Self:
        """In this order; names are attributes, ``"-score"`` is descending."""
        return replace(self, order=(*self.order, *(self._ordering(item) for item in columns)))

    def limit(self, count: int | None) -> Self:
        """At most this many rows; None for all. Without a limit there are at most 100."""
        return replace(self, maximum=_count("limit", count) if count is not None else None)

    def offset(self, count: int) -> Self:
        """Skip rows. Slow on deep pages: ``Repository.page`` is not."""
        return replace(self, skipped=_count("offset", count))

    def fields(self, *names: str) -> Self:
        """Only these attributes, as rows."""
        for name in names:
            attribute(self.model, name)
        return replace(self, columns=names)

    def from_database(self) -> Self:
        """Pass every cache by."""
        return replace(self, bypass=True)

    def _ordering(self, item: Any) -> Any:
        if not isinstance(item, str):
            return item
        found = attribute(self.model, item.removeprefix("-"))
        return found.desc() if item.startswith("-") else found.asc()

    def to_select(self, *, default_limit: bool = True) -> sa.Select[Any]:
        """The SQLAlchemy statement; ``default_limit=False`` leaves the limit of 100 out, not one that was asked for."""
        chosen = [attribute(self.model, name) for name in self.columns] or [self.model]
        statement = sa.select(*chosen).where(*self.criteria)
        for text, parameters in self.texts:
            statement = statement.where(sa.text(f"({text})").bindparams(**parameters))
        statement = statement.order_by(*self.order)
        if isinstance(self.maximum, int):
            statement = statement.limit(self.maximum)
        elif self.maximum is UNSET and default_limit:
            statement = statement.limit(DEFAULT_LIMIT)
        return statement.offset(self.skipped) if self.skipped else statement


def attribute(model: type[Any], name: str) -> Any:
    """The mapped attribute; QueryError with the nearest name when there is none."""
    mapper: Any = inspect(model)
    if name not in mapper.attrs:
        near = difflib.get_close_matches(name, list(mapper.attrs.keys()), n=1)
        raise QueryError(
            f"{model.__name__} has no attribute {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    return getattr(model, name)


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise QueryError(f"{name} is {value!r}; expected a whole number, zero or more")
    return value
