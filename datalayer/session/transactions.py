"""Transactions that commit by themselves: their options, their deadline, and running them again when they may be.

A ``with`` block cannot be run twice by whoever offers it, a loop body and a function can::

    with layer.begin(isolation="SERIALIZABLE") as session: ...          # once

    for attempt in layer.begin(isolation="SERIALIZABLE", retries=3):    # up to four times
        with attempt as session: ...

    layer.run(transfer, isolation="SERIALIZABLE", retries=3)            # up to four times
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event

from ..config.units import seconds
from ..contracts.suggest import hint
from ..errors import ConfigError, TransactionFailed, TransactionTimeout
from ..tiers.failures import may_run_again
from .classify import is_text, reads_only, writes_of
from .session import Session

T = TypeVar("T")

log = logging.getLogger("datalayer.session")

_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 1.0
_LAST_MILLISECOND = 0.001


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What a transaction is begun with. ``timeout`` is in seconds, None for the settings' own limits only."""

    isolation: str | None = None
    read_only: bool = False
    timeout: float | None = None
    retries: int = 0

    @classmethod
    def of(
        cls,
        *,
        isolation: str | None = None,
        read_only: bool = False,
        timeout: float | str | None = None,
        retries: int = 0,
    ) -> Terms:
        """Checked terms; ConfigError for what cannot be meant."""
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise ConfigError(f"retries: found {retries!r}, expected a whole number from 0")
        limit = None if timeout is None else seconds(timeout, name="timeout")
        if limit is not None and limit <= 0:
            raise ConfigError("timeout: found 0, expected more than 0; leave it out for no limit")
        return cls(isolation=isolation, read_only=read_only, timeout=limit, retries=retries)


class Pauses:
    """How long to wait before the next try: doubling from 10 ms to a second, each shortened at random by up to half."""

    def __init__(
        self, sleep: Callable[[float], object] = time.sleep, draw: Callable[[], float] = random.random
    ) -> None:
        self._sleep = sleep
        self._draw = draw

    def wait(self, failures: int) -> None:
        """Wait after the ``failures``-th failure in a row."""
        longest = min(_FIRST_PAUSE * 2.0 ** (failures - 1), _LONGEST_PAUSE)
        self._sleep(longest * (1.0 - self._draw() / 2))


class _Tries:
    """How many failures one transaction may still have. Not thread-safe."""

    def __init__(self, retries: int, pauses: Pauses) -> None:
        self._left = retries
        self._pauses = pauses
        self._failures = 0

    def again(self, error: BaseException) -> bool:
        """Whether to run it again after this failure; waits before it says so."""
        if self._failures >= self._left or not may_run_again(error):
            return False
        self._failures += 1
        log.info("a transaction is run again (%s)", type(error).__name__)
        self._pauses.wait(self._failures)
        return True


class Begin(AbstractContextManager[Session]):
    """What ``layer.begin()`` returns: enter it for one transaction, or iterate over it for attempts at one.

    As a ``with`` block, ``retries`` covers what happens before the block: getting a connection and opening the
    transaction. Not thread-safe; every use of it is a transaction of its own.
    """

    def __init__(self, open_session: Callable[[], Session], terms: Terms, pauses: Pauses | None = None) -> None:
        self._open = open_session
        self._terms = terms
        self._pauses = pauses or Pauses()
        self._entered: list[Attempt] = []

    def _tries(self) -> _Tries:
        return _Tries(self._terms.retries, self._pauses)

    def __enter__(self) -> Session:
        attempt = Attempt(self._open, self._terms, self._tries(), loops=False)
        session = attempt.__enter__()
        self._entered.append(attempt)
        return session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._entered.pop().__exit__(kind, error, traceback)
        except Exception as failed:
            self._advise(failed)
            raise
        if error is not None:
            self._advise(error)

    def _advise(self, error: BaseException) -> None:
        if self._terms.retries and may_run_again(error):
            error.add_note(
                "a with block cannot be run again by layer.begin(retries=...): "
                "use layer.run(function, retries=...), or a loop over layer.begin(retries=...)"
            )

    def __iter__(self) -> Iterator[Attempt]:
        tries = self._tries()
        while True:
            attempt = Attempt(self._open, self._terms, tries, loops=True)
            yield attempt
            if not attempt.failed:
                return


class Attempt(AbstractContextManager[Session]):
    """One transaction: commits when its block ends well, rolls back when it raises.

    One that ``loops`` swallows a failure after which it may be run again, and says so in ``failed``.
    """

    def __init__(self, open_session: Callable[[], Session], terms: Terms, tries: _Tries, *, loops: bool) -> None:
        self._open = open_session
        self._terms = terms
        self._tries = tries
        self._loops = loops
        self._session: Session | None = None
        self._deadline: _Deadline | None = None
        self.failed = False

    def __enter__(self) -> Session:
        while True:
            session = self._open()
            try:
                session.begin()
                self._prepare(session)
            except BaseException as error:
                _give_up(session)
                if not isinstance(error, Exception) or not self._tries.again(error):
                    raise
            else:
                self._session = session
                return session

    def _prepare(self, session: Session) -> None:
        terms = self._terms
        dialect = session.get_bind().dialect
        options = _options(dialect, terms)
        # A block that runs once gets its connection now, when failing to get one can still be repaired.
        eager = terms.retries and not self._loops
        if options or terms.timeout is not None or terms.read_only or eager:
            connection = session.connection(execution_options=options)
            if dialect.name == "sqlite" and options.get("isolation_level") == "SERIALIZABLE":
                # SQLite's driver begins with the first write, which is after the reads that the write depends on.
                connection.exec_driver_sql("BEGIN" if terms.read_only else "BEGIN IMMEDIATE")
            if terms.read_only and dialect.name != "postgresql":
                event.listen(connection, "before_cursor_execute", _refuse_writes)
            if terms.timeout is not None:
                self._deadline = _Deadline(terms.timeout)
                self._deadline.enforce(session, connection)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        session, self._session = self._session, None
        assert session is not None
        try:
            if error is None:
                self._commit(session)
        except BaseException as failure:
            if not self._over(session, failure):
                raise
            return True
        if error is not None:
            return self._over(session, error)
        session.close()
        return False

    def _commit(self, session: Session) -> None:
        if session.in_transaction():
            session.flush()
            if self._deadline is not None:
                self._deadline.check()
            session.commit()

    def _over(self, session: Session, error: BaseException) -> bool:
        """Give the transaction up; whether it will be run again."""
        _give_up(session)
        self.failed = self._loops and isinstance(error, Exception) and self._tries.again(error)
        return self.failed


def run(
    open_session: Callable[[], Session], fn: Callable[[Session], T], terms: Terms, pauses: Pauses | None = None
) -> T:
    """Call ``fn(session)`` in a transaction and return what it returns; again after failures that allow it."""
    for attempt in Begin(open_session, terms, pauses):
        with attempt as session:
            result = fn(session)
    return result


def _give_up(session: Session) -> None:
    """Roll back and close; what went wrong on the way must not hide why."""
    with suppress(Exception):
        session.rollback()
    with suppress(Exception):
        session.close()


def _options(dialect: sa.Dialect, terms: Terms) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if terms.isolation is not None:
        options["isolation_level"] = _isolation(dialect, terms.isolation)
    if terms.read_only and dialect.name == "postgresql":
        options["postgresql_readonly"] = True
    return options


def _isolation(dialect: Any, wanted: str) -> str:
    name = wanted.replace("_", " ").upper()
    known = ["READ UNCOMMITTED", "SERIALIZABLE"]
    if dialect.name != "sqlite":
        known += ["READ COMMITTED", "REPEATABLE READ"]
    if name not in known:
        raise ConfigError(f"isolation: found {wanted!r}; {hint(name, known)}")
    return name


class _Deadline:
    """Ends a transaction that takes too long: the server ends a statement, and after the deadline none is begun.

    So a transaction ends within twice its timeout, if its own code does: a statement that begins just before the
    deadline has the whole limit. SQLite has no limit for a statement that runs.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._until = time.monotonic() + limit

    def enforce(self, session: Session, connection: sa.Connection) -> None:
        if connection.dialect.name == "postgresql":
            milliseconds = str(max(1, round(self._limit * 1000)))
            session.execute(
                sa.text("SELECT set_config('statement_timeout', :ms, true)"),
                {"ms": milliseconds},
            )
        event.listen(connection, "before_cursor_execute", self._before)

    def _before(self, *_: Any) -> None:
        self.check()

    def check(self) -> None:
        if time.monotonic() > self._until:
            raise TransactionTimeout(
                f"the transaction took longer than its timeout of {self._limit:g} s and is rolled back; "
                "do less in it, or give it more time"
            )


def _refuse_writes(connection: Any, cursor: Any, text: str, parameters: Any, context: Any, many: bool) -> None:
    compiled = getattr(context, "compiled", None)
    statement = getattr(compiled, "statement", None)
    plain = statement is None or is_text(statement)
    if getattr(context, "isddl", False) or (not reads_only(text) if plain else writes_of(compiled)):
        raise TransactionFailed(
            "the transaction may only read (read_only=True) and was asked to write; begin it without read_only"
        )
