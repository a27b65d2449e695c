"""One statement from whatever a caller gives: a ``Q``, a ``select()``, or nothing."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ..errors import QueryError
from .builder import Q


def to_select(query: Any, model: type[Any], *, default_limit: bool = True) -> sa.Select[Any]:
    """A SELECT of ``model``. QueryError when the query is of something else."""
    if query is None:
        query = Q(model)
    if isinstance(query, Q):
        if not issubclass(query.model, model):
            raise QueryError(f"the query is of {query.model.__name__}; this repository reads {model.__name__}")
        return query.to_select(default_limit=default_limit)
    if not isinstance(query, sa.Select):
        raise QueryError(f"got {type(query).__name__!r}; expected Q({model.__name__}) or select({model.__name__})")
    found = query.column_descriptions
    if len(found) != 1 or found[0]["expr"] is not found[0]["entity"] or not _is_of(found[0]["entity"], model):
        raise QueryError(f"the select is not of {model.__name__} alone; write select({model.__name__})")
    return query


def _is_of(entity: Any, model: type[Any]) -> bool:
    return isinstance(entity, type) and issubclass(entity, model)


def is_query(value: Any) -> bool:
    return isinstance(value, Q | sa.Select)


def is_cacheable(query: Any) -> bool:
    """Whether a cache may answer: not what the database was asked for, nor rows of single columns."""
    return not (isinstance(query, Q) and (query.bypass or query.shape is not None))
