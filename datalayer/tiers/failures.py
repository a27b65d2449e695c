"""Failures of the database in this project's terms that stay SQLAlchemy's, so that code for either catches them.

A deadlock is a :class:`~datalayer.TransactionFailed` *and* an ``sqlalchemy.exc.OperationalError``: an application that
moved to the layer keeps its except clauses. The driver's words, which can hold values of rows, are on ``__cause__`` and
``orig`` and not in the message.

==========================================  ===========================================================
what happened                               what is raised
==========================================  ===========================================================
serialization failure, deadlock, busy file  TransactionFailed, ``retryable``
statement, lock or transaction timeout      TransactionTimeout
read-only transaction or server             TransactionFailed
the reply to COMMIT was lost                TransactionOutcomeUnknown
the connection was lost before COMMIT       L3UnavailableError, ``retryable``: nothing was committed
no connection can be made                   L3UnavailableError, ``retryable``
disk or memory full                         L3UnavailableError
no connection free, here or at the server   PoolTimeout
==========================================  ===========================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import event

from ..errors import (
    DataLayerError,
    L3UnavailableError,
    PoolTimeout,
    TransactionFailed,
    TransactionOutcomeUnknown,
    TransactionTimeout,
)


class Verdict(NamedTuple):
    """What a failure is called, and whether the whole transaction may be run again."""

    kind: type[DataLayerError]
    text: str
    retryable: bool = False


_SQLSTATES = {
    "40001": Verdict(
        TransactionFailed,
        "could not be serialized with another one and was rolled back; run it again (layer.run does)",
        True,
    ),
    "40P01": Verdict(
        TransactionFailed,
        "was in a deadlock with another one and was rolled back; run it again (layer.run does), "
        "and write rows in one order everywhere",
        True,
    ),
    "57014": Verdict(
        TransactionTimeout,
        "was rolled back: a statement was cancelled, which took longer than statement_timeout or timeout= allows",
    ),
    "55P03": Verdict(
        TransactionTimeout,
        "was rolled back: a lock was not free within lock_timeout; look for a transaction that stays open",
    ),
    "25P03": Verdict(TransactionTimeout, "was rolled back: it stood idle for longer than the server allows"),
    "25P04": Verdict(TransactionTimeout, "was rolled back: it took longer than the server allows"),
    "25006": Verdict(TransactionFailed, "may only read: it was begun read-only, or the server is (a replica, perhaps)"),
    "53100": Verdict(L3UnavailableError, "has no disk space left; what it was asked to write was rolled back"),
    "53200": Verdict(L3UnavailableError, "has no memory left; what it was asked to do was rolled back"),
    "53300": Verdict(
        PoolTimeout,
        "accepts no more connections: all processes together ask for more than its max_connections; "
        "lower pool_size or raise max_connections",
    ),
}

_BUSY = Verdict(
    TransactionFailed,
    "was rolled back: another connection holds the file's lock (SQLite has one writer at a time)",
    True,
)
_SQLITE_CODES = {
    5: _BUSY,
    6: _BUSY,
    8: Verdict(TransactionFailed, "may only read: the file is read-only"),
    13: Verdict(L3UnavailableError, "has no disk space left; what it was asked to write was rolled back"),
}

_UNKNOWN = Verdict(
    TransactionOutcomeUnknown,
    "may be committed or not: COMMIT was sent and its reply was lost with the connection. "
    "Its rows are forgotten by every cache; look whether they are there before you write them again",
)
_LOST = Verdict(L3UnavailableError, "was lost before COMMIT was sent, so that nothing was committed", True)
_NO_CONNECTION = Verdict(L3UnavailableError, "cannot be reached; is it running, and does the url name it?", True)
_REFUSED = Verdict(L3UnavailableError, "refused the connection; look at user, password and database name in the url")

_SLOT = "datalayer.commit"


class Failures:
    """Translates the errors of one engine. Install once per layer; engines that the application brought count, too."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._listeners: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
            ("commit", self._committing, {}),
            ("commit_twophase", self._committing, {}),
            ("rollback", self._not_committing, {}),
            ("handle_error", self._translate, {"retval": True}),
        ]

    def install(self) -> None:
        for name, listener, how in self._listeners:
            event.listen(self._engine, name, listener, **how)

    def remove(self) -> None:
        for name, listener, _ in self._listeners:
            event.remove(self._engine, name, listener)

    # Methods, and no functions: two layers may share an engine, and each takes its own listeners away.

    def _committing(self, connection: sa.Connection, *_: Any) -> None:
        """Remember that COMMIT is being sent; on a connection that the driver knows to be closed nothing is."""
        if not connection.closed and not connection.invalidated:
            driver = connection.connection.dbapi_connection
            connection.info[_SLOT] = not getattr(driver, "closed", False)

    def _not_committing(self, connection: sa.Connection, *_: Any) -> None:
        if not connection.closed and not connection.invalidated:
            connection.info.pop(_SLOT, None)

    def _translate(self, context: Any) -> BaseException | None:
        found = context.sqlalchemy_exception
        if context.is_pre_ping or not isinstance(found, sa.exc.DBAPIError) or isinstance(found, DataLayerError):
            return None
        verdict = _judged(context)
        return joined(found, verdict, _subject(verdict, self._engine)) if verdict is not None else None


def error_kind(context: Any) -> str:
    """A stable word for what SQLAlchemy's ``handle_error`` was told: for counting."""
    verdict = _judged(context)
    return _KINDS[verdict.kind] if verdict is not None else _plain_kind(context.original_exception)


def driver_kind(cause: BaseException) -> str:
    """The same for an exception of the driver's that came past SQLAlchemy."""
    verdict = _by_code(cause)
    if verdict is not None:
        return _KINDS[verdict.kind]
    return "unavailable" if type(cause).__name__ in ("OperationalError", "InterfaceError") else _plain_kind(cause)


_KINDS: dict[type[DataLayerError], str] = {
    TransactionFailed: "conflict",
    TransactionTimeout: "timeout",
    TransactionOutcomeUnknown: "outcome_unknown",
    L3UnavailableError: "unavailable",
    PoolTimeout: "too_many_connections",
}


def _plain_kind(cause: BaseException) -> str:
    return "integrity" if any(c.__name__ == "IntegrityError" for c in type(cause).__mro__) else "statement"


def _judged(context: Any) -> Verdict | None:
    connection, cause = context.connection, context.original_exception
    if connection is None:
        return _by_code(cause) or (_of_connecting(cause) if _is_operational(context) else None)
    if context.is_disconnect:
        return _UNKNOWN if _was_committing(connection, context.statement) else _timeout_of(cause) or _LOST
    return _by_code(cause)


def _of_connecting(cause: Any) -> Verdict:
    """The driver gives no SQLSTATE for a connection that was not made: only the server's words are left."""
    said = str(cause)
    if "too many" in said or "connection slots" in said:
        return _SQLSTATES["53300"]
    return _REFUSED if any(part in said for part in ("authentication", "does not exist", "pg_hba")) else _NO_CONNECTION


def _is_operational(context: Any) -> bool:
    return isinstance(context.sqlalchemy_exception, sa.exc.OperationalError | sa.exc.InterfaceError)


def _was_committing(connection: sa.Connection, statement: str | None) -> bool:
    if connection.closed or connection.invalidated:
        return False
    if statement is not None:
        return bool(connection._is_autocommit_isolation())  # the statement was its own transaction
    return bool(connection.info.get(_SLOT, False))


def _timeout_of(cause: Any) -> Verdict | None:
    """The server says why it hung up, if it does it for a time that has run out."""
    found = _by_code(cause)
    return found if found is not None and found.kind is TransactionTimeout else None


def _by_code(cause: Any) -> Verdict | None:
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state is not None:
        return _SQLSTATES.get(state)
    code = getattr(cause, "sqlite_errorcode", None)
    return _SQLITE_CODES.get(code & 0xFF) if isinstance(code, int) else None


def _subject(verdict: Verdict, engine: sa.Engine) -> str:
    place = f"{engine.dialect.name} database {engine.url.database!r}"
    if verdict is _LOST:
        return f"the connection to the {place}"
    return f"a transaction of the {place}" if issubclass(verdict.kind, TransactionFailed) else f"the {place}"


def raised_by_driver(error: BaseException, connection: sa.Connection) -> BaseException:
    """The error for one that came past SQLAlchemy, which would have told our listeners; others as they are.

    A connection that is lost is given up, so that it never goes back to the pool.
    """
    dialect: Any = connection.dialect
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if isinstance(error, DataLayerError) or not isinstance(cause, dialect.loaded_dbapi.Error):
        return error
    found: Any = error
    lost = dialect.is_disconnect(cause, connection.connection.dbapi_connection, None)
    if not isinstance(error, sa.exc.DBAPIError):
        found = sa.exc.DBAPIError.instance(
            None, None, cause, dialect.loaded_dbapi.Error, hide_parameters=True, dialect=dialect
        )
    verdict = _by_code(cause) or (_LOST if lost else None)
    if lost:
        found.connection_invalidated = True
        connection.invalidate(cause)
    return found if verdict is None else joined(found, verdict, _subject(verdict, connection.engine))


def joined(found: sa.exc.DBAPIError, verdict: Verdict, subject: str) -> Exception:
    """An error of this project that is also the SQLAlchemy error that it is made from."""
    made: Exception = _class(verdict.kind, type(found))(f"{subject} {verdict.text}", found, verdict.retryable)
    return made


_classes: dict[tuple[type[DataLayerError], type[Any]], Any] = {}


def _class(ours: type[DataLayerError], theirs: type[Any]) -> Any:
    found = _classes.get((ours, theirs))
    if found is None:  # two threads may make it twice: the classes are equal in all that matters
        found = _classes[ours, theirs] = _join(ours, theirs)
    return found


def _join(ours: type[DataLayerError], theirs: type[Any]) -> Any:
    return type(ours.__name__, (_Joined, ours, theirs), {"__module__": ours.__module__, "__doc__": ours.__doc__})


class _Joined:
    """The constructor and the text of the joined classes."""

    def __init__(self, message: str, found: Any, retryable: bool) -> None:
        theirs: Any = self
        sa.exc.DBAPIError.__init__(
            theirs,
            found.statement,
            found.params,
            found.orig,
            hide_parameters=True,
            connection_invalidated=found.connection_invalidated,
            code=found.code,
            ismulti=found.ismulti,
        )
        self.message = message
        self.retryable = retryable

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> Any:
        """Without the driver's exception and the parameters: those may hold values, and may not be picklable."""
        kind = next(c for c in type(self).__mro__ if c.__module__ == "datalayer.errors" and c is not type(self))
        return _unpickled, (kind, self.message, self.retryable)


def _unpickled(kind: type[DataLayerError], message: str, retryable: bool) -> DataLayerError:
    made = kind(message)
    made.retryable = retryable  # type: ignore[attr-defined]
    return made


def may_run_again(error: BaseException) -> bool:
    """Whether a transaction that ended with this error changed nothing and may succeed the next time."""
    return bool(getattr(error, "retryable", False)) and isinstance(error, TransactionFailed | L3UnavailableError)
