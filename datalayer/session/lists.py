"""Rows of a SELECT by way of its cached result: the keys first, then the rows through the tiers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from ..contracts.levels import Consistency
from ..models.schema import Schema
from ..query.depends import Reason
from .many import get_many
from .reads import listens, may_use_tiers
from .results import Keys, Query, Results
from .session import Session

Fetch = Callable[[Keys], Mapping[Any, Any]]


def listed_rows(
    results: Results, query: Query, level: Consistency, ttl: float | None, run: Callable[[], Keys], fetch: Fetch
) -> list[Any] | None:
    """The rows, or None when the statement must run as it is: a row went away meanwhile, or strictness needs it.

    A strict result is one whose tags have not moved between the reading of its keys and of its rows.
    """
    listed = results.listed(query, level, run, query.ladder.lives.l2 if ttl is None else ttl)
    if level == "shared" and listed.guards is None:
        return None
    rows = fetch(listed.keys)
    if len(rows) < len(set(listed.keys)) or (level == "shared" and not results.unchanged(query, listed)):
        return None
    return list(rows.values())


def rows_in_session(session: Session, statement: sa.Select[Any], schema: Schema, ttl: float | None) -> list[Any] | None:
    """The session's instances, or None when the statement must run as it is."""
    caches = session._caches
    if caches is None or caches.closed or session._bypass or listens(session):
        return None
    level, ladder = session._consistency(), caches.ladder(schema)
    if ladder is None or level == "database":
        return None
    session._autobegin_t()
    session._autoflush()
    if not may_use_tiers(session, schema):
        return None
    query = caches.results.query(statement, schema, ladder)
    if isinstance(query, Reason):
        return None
    return listed_rows(
        caches.results,
        query,
        level,
        ttl,
        lambda: [tuple(row) for row in session.execute(query.keys)],
        lambda keys: get_many(session, schema, keys),
    )
