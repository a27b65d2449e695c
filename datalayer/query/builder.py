"""``Q``: a query as an immutable value, built call by call and shared between threads at will."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, Self, TypeVar, cast, overload

import sqlalchemy as sa
from sqlalchemy import inspect
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.orm.interfaces import ORMOption

from ..config.forget import forgetful
from ..errors import InvalidModelError, QueryError
from ..models.sealed import refuse_in_text
from .attributes import attribute, column_attribute, row_shape_of_model
from .rows import RowShape, is_row_class, shape_of
from .text import parse_condition

T = TypeVar("T")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")

DEFAULT_LIMIT = 100

_WHOLE = "options() load relationships of whole rows, and with fields() there are none"


class _Unset:
    """The type of :data:`UNSET`: no limit was asked for, as opposed to ``limit(None)``, which asks for all rows."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET = _Unset()


@dataclass(frozen=True, eq=False, repr=False)
class Q(Generic[T]):
    """Which rows of a model, in which order, and how many. Every call returns a new query; thread-safe.

    Two queries are equal if they are the same SQL with the same values. ``Q[T]`` yields values of type T: instances of
    the model, or what :meth:`fields` makes. Building costs microseconds a call; the statement is made once.

    >>> Q(Player).where(Player.level > 10, region="eu").order_by(Player.score.desc()).limit(25)  # doctest: +SKIP
    """

    model: type[T]
    criteria: tuple[Any, ...] = ()
    order: tuple[Any, ...] = ()
    columns: tuple[str, ...] = ()
    shape: RowShape | None = None
    loading: tuple[Any, ...] = ()
    maximum: int | _Unset | None = UNSET
    skipped: int = 0
    bypass: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.model, type) or inspect(self.model, raiseerr=False) is None:
            raise InvalidModelError(f"Q got {self.model!r}; expected a mapped class")

    # -- which rows ------------------------------------------------------------------------------------------------

    @forgetful
    def where(self, /, *criteria: Any, **equal: Any) -> Self:
        """Only rows that meet every criterion; keywords compare attributes with values (None is IS NULL)."""
        made = [self._criterion(item) for item in criteria]
        made += [self._equal(name, value) for name, value in equal.items()]
        return replace(self, criteria=(*self.criteria, *made))

    @forgetful
    def where_sql(self, text: str, /, **parameters: Any) -> Self:
        """A condition as SQL text; every value is a bound parameter: ``where_sql("level > :n", n=10)``.

        ``id IN :ids`` takes a list. ``::type`` is a cast; colons in strings and comments mean nothing. The text may not
        end its condition: parentheses that do not match, semicolons and strings without an end are refused. Encrypted
        columns may be asked whether they are NULL.
        """
        found = parse_condition(text, f"where_sql({_short(text)})")
        refuse_in_text(cast(Any, inspect(self.model)), found.names)
        clause = found.bound(parameters, f"where_sql({_short(text)})", unique=True)
        return replace(self, criteria=(*self.criteria, clause))

    def _criterion(self, item: Any) -> Any:
        clause = item.__clause_element__() if hasattr(item, "__clause_element__") else item
        if not isinstance(clause, sa.ColumnElement):
            raise QueryError(
                f"where() got {type(item).__name__!r}; expected a condition such as {self.model.__name__}.id > 10, "
                "name=value, or where_sql() for text"
            )
        mapper = cast(Any, inspect(self.model))
        own = {mapper.persist_selectable, mapper.selectable, *mapper.tables}
        own.update(*(other.tables for other in mapper.with_polymorphic_mappers))
        for source in clause._from_objects:
            if not isinstance(source, sa.sql.expression.Join) and source not in own:
                raise QueryError(
                    f"a condition of Q({self.model.__name__}) is on {getattr(source, 'name', source)}, which it does "
                    "not read; use relationship.has() or .any(), or a select() with a join"
                )
        return item

    def _equal(self, name: str, value: Any) -> Any:
        found = attribute(self.model, name)
        if isinstance(value, sa.ClauseElement) or hasattr(value, "__clause_element__"):
            raise QueryError(f"where({name}=...) got an SQL expression; expected a value, or where({name} == ...)")
        if isinstance(value, list | tuple | set | frozenset) and not _holds_lists(found):
            raise QueryError(f"where({name}=...) got several values; use where({self.model.__name__}.{name}.in_(...))")
        try:
            return found == value
        except sa.exc.InvalidRequestError as error:
            raise QueryError(
                f"{self.model.__name__}.{name} cannot be compared with a value; use .contains()"
            ) from error

    # -- in which order, and how many ------------------------------------------------------------------------------

    def order_by(self, *columns: Any) -> Self:
        """In this order; names are attributes, ``"-score"`` is descending."""
        return replace(self, order=(*self.order, *(self._ordering(item) for item in columns)))

    def limit(self, count: int | None) -> Self:
        """At most this many rows; None for all. Without a limit there are at most 100."""
        return replace(self, maximum=_count("limit", count) if count is not None else None)

    def offset(self, count: int) -> Self:
        """Skip rows. Slow on deep pages: ``Repository.page`` is not."""
        return replace(self, skipped=_count("offset", count))

    def _ordering(self, item: Any) -> Any:
        if isinstance(item, str):
            found = attribute(self.model, item.removeprefix("-"))
            return found.desc() if item.startswith("-") else found.asc()
        if not isinstance(item, sa.ClauseElement) and not hasattr(item, "__clause_element__"):
            raise QueryError(f"order_by() got {item!r}; expected an attribute or its name, '-name' for descending")
        return item

    # -- what is read ----------------------------------------------------------------------------------------------

    @overload
    def fields(self, row: type[R], /) -> Q[R]: ...
    @overload
    def fields(self, a: InstrumentedAttribute[A], /) -> Q[tuple[A]]: ...
    @overload
    def fields(self, a: InstrumentedAttribute[A], b: InstrumentedAttribute[B], /) -> Q[tuple[A, B]]: ...
    @overload
    def fields(
        self, a: InstrumentedAttribute[A], b: InstrumentedAttribute[B], c: InstrumentedAttribute[C], /
    ) -> Q[tuple[A, B, C]]: ...
    @overload
    def fields(
        self,
        a: InstrumentedAttribute[A],
        b: InstrumentedAttribute[B],
        c: InstrumentedAttribute[C],
        d: InstrumentedAttribute[D],
        /,
    ) -> Q[tuple[A, B, C, D]]: ...
    @overload
    def fields(self, *names: Any) -> Q[Any]: ...

    def fields(self, *names: Any) -> Q[Any]:
        """Only these columns, as typed rows: named tuples, with the types that the model declares.

        Names and attributes, or one dataclass or NamedTuple whose fields are named after attributes:
        ``Q(Player).fields(Score)`` yields ``Score`` instances. Encrypted columns come readable, except those that are
        bound to their row.
        """
        if not names:
            raise QueryError("fields() got nothing; expected names of columns, or one class of rows")
        if self.loading:
            raise QueryError(_WHOLE)
        if len(names) == 1 and is_row_class(names[0]):
            shape = shape_of(names[0])
            for name in shape.fields:
                column_attribute(self.model, name)
            return replace(self, columns=tuple(shape.fields), shape=shape)
        texts = tuple(self._field(name) for name in names)
        return replace(self, columns=texts, shape=row_shape_of_model(self.model, texts))

    def _field(self, name: Any) -> str:
        if isinstance(name, str):
            return name
        key = getattr(name, "key", None)
        parent = getattr(name, "class_", None)
        if isinstance(key, str) and isinstance(parent, type) and issubclass(self.model, parent):
            return key
        raise QueryError(
            f"fields() got {name!r}; expected attributes of {self.model.__name__} or their names, or one dataclass"
        )

    def options(self, *options: ORMOption) -> Self:
        """How relationships are loaded with the rows: ``.options(selectinload(Player.team))``."""
        for option in options:
            if not isinstance(option, ORMOption):
                raise QueryError(f"options() got {option!r}; expected loader options such as selectinload(...)")
        if self.columns:
            raise QueryError(_WHOLE)
        return replace(self, loading=(*self.loading, *options))

    def from_database(self) -> Self:
        """Pass every cache by."""
        return replace(self, bypass=True)

    # -- as a statement --------------------------------------------------------------------------------------------

    def to_select(self, *, default_limit: bool = True) -> sa.Select[Any]:
        """The SQLAlchemy statement; ``default_limit=False`` leaves the limit of 100 out, not one that was asked for."""
        return self._limited if default_limit and self.maximum is UNSET else self._asked

    # Each is made once: SQLAlchemy remembers what it works out about a statement object. Threads that race make equals.

    @cached_property
    def _limited(self) -> sa.Select[Any]:
        return self._asked.limit(DEFAULT_LIMIT)

    @cached_property
    def _asked(self) -> sa.Select[Any]:
        statement = self._bare
        if isinstance(self.maximum, int):
            statement = statement.limit(self.maximum)
        return statement.offset(self.skipped) if self.skipped else statement

    @cached_property
    def _bare(self) -> sa.Select[Any]:
        """Without limit and offset."""
        chosen = [attribute(self.model, name) for name in self.columns] or [self.model]
        statement = sa.select(*chosen)
        if self.criteria:
            statement = statement.where(*self.criteria)
        if self.order:
            statement = statement.order_by(*self.order)
        return statement.options(*self.loading) if self.loading else statement

    def __clause_element__(self) -> sa.Select[Any]:
        """As a subquery: ``Player.id.in_(Q(Player).where(...).fields("id"))``."""
        return self.to_select()

    # -- as a value ------------------------------------------------------------------------------------------------

    @cached_property
    def _identity(self) -> tuple[Hashable, tuple[Any, ...]]:
        """What is hashed, and what is compared besides: the values may be lists."""
        rest = (self.model, self.columns, self.shape and self.shape.cls, self.maximum, self.skipped, self.bypass)
        key = self._bare._generate_cache_key()
        if key is None:
            return (rest, id(self)), ()
        return (rest, key.key), tuple((type(p.effective_value), p.effective_value) for p in key.bindparams)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Q):
            return NotImplemented
        return self is other or self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity[0])

    def __repr__(self) -> str:
        """The SQL, without any value."""
        return f"<Q of {self.model.__name__}: {' '.join(str(self.to_select()).split())}>"


def _short(text: Any) -> str:
    shown = repr(text)
    return shown if len(shown) <= 80 else f"{shown[:76]}...'"


def _holds_lists(found: Any) -> bool:
    kind = getattr(found, "type", None)
    return isinstance(kind, sa.JSON | sa.ARRAY) or getattr(kind, "python_type", None) in (list, dict)


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise QueryError(f"{name} is {value!r}; expected a whole number, zero or more")
    return value
