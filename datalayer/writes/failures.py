"""Which failures of a flush are the database's, to be waited out, and which are a row's own."""

from __future__ import annotations

import random
from typing import Any

import sqlalchemy as sa

#: Classes of SQLSTATE that say nothing about the row: connection, rollback by conflict, resources, locks, operator
#: intervention, system; and a database that is read-only for now.
_TRANSIENT = ("08", "40", "53", "54", "55", "57", "58", "25006")
_SQLITE_OWN = ("no such", "syntax error", "has no column")

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 30.0


def is_transient(error: BaseException) -> bool:
    """Whether the same statements may succeed later although nothing about the rows has changed."""
    if not isinstance(error, sa.exc.DBAPIError):
        return not isinstance(error, sa.exc.StatementError)
    if error.connection_invalidated:
        return True
    origin: Any = error.orig
    state = getattr(origin, "sqlstate", None)
    if state is not None:
        return str(state).startswith(_TRANSIENT)
    if not isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError | sa.exc.InternalError):
        return False
    return not any(text in str(origin) for text in _SQLITE_OWN)


def reason_of(error: BaseException) -> str:
    """What failed, in words that hold no value of the row."""
    origin: Any = getattr(error, "orig", None) or error
    state = getattr(origin, "sqlstate", None)
    constraint = getattr(getattr(origin, "diag", None), "constraint_name", None)
    if state is None and type(origin).__module__ == "sqlite3":
        return f"{type(origin).__name__}: {origin}"  # SQLite names the column and no value
    return " ".join([type(origin).__name__, *([f"({state})"] if state else []), *([constraint] if constraint else [])])


def pause_after(failures: int) -> float:
    """Seconds to wait before the next try, with jitter."""
    return float(min(_FIRST_PAUSE * 2.0 ** min(failures, 20), _LONGEST_PAUSE) * (0.75 + 0.5 * random.random()))
