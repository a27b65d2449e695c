"""Questions about the rows of a query that load none of them: how many, whether any, sum, least and greatest value."""

from __future__ import annotations

from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import inspect

from .attributes import column_attribute

Function = Literal["sum", "min", "max"]


def count_of(statement: sa.Select[Any]) -> sa.Select[Any]:
    """How many rows the statement has; one that a join repeats is one row, as it is one instance."""
    return sa.select(sa.func.count()).select_from(_keys(statement).subquery())


def exists_in(statement: sa.Select[Any]) -> sa.Select[Any]:
    """Whether the statement has a row. The database stops at the first."""
    return sa.select(_keys(statement).exists())


def aggregate(function: Function, statement: sa.Select[Any], name: str) -> sa.Select[Any]:
    """A function of one column over the rows of the statement; QueryError for what is no column."""
    value = column_attribute(_entity(statement), name)
    inner = _keys(statement, value.label("value")).subquery()
    return sa.select(getattr(sa.func, function)(inner.c.value))


def _keys(statement: sa.Select[Any], *more: Any) -> sa.Select[Any]:
    """The statement with primary keys instead of instances: the entity stays, and with it its own conditions."""
    entity = _entity(statement)
    mapper: Any = inspect(entity)
    keys = [getattr(entity, mapper.get_property_by_column(column).key) for column in mapper.primary_key]
    inner = statement.with_only_columns(*keys, *more, maintain_column_froms=True)
    inner._with_options = ()  # how relationships are loaded concerns no row
    if statement._limit_clause is None and statement._offset_clause is None:
        inner = inner.order_by(None)
        return inner.distinct() if statement._setup_joins else inner
    return inner


def _entity(statement: sa.Select[Any]) -> type[Any]:
    entity: type[Any] = statement.column_descriptions[0]["entity"]
    return entity
