"""What a transaction writes: two trackers into one write set per database connection.

The unit of work tells exact keys (see :class:`datalayer.session.Session`); every other statement is seen by the
engine's cursor event and classified. The write set becomes marks at the engine's ``commit`` event: it is complete by
then, the row locks are held, and it fires for the real commit only, not for savepoints.

The state lives on the pooled connection record, because that is what a COMMIT commits, whoever holds it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import event

from ..coherence.touched import MOST_KEYS
from ..contracts.causal import Token
from ..contracts.coherence import Image, Outcome, WriteSet
from ..contracts.pauses import point
from ..errors import InvalidModelError
from ..tiers.failures import raised_by_driver
from .catalog import Catalog
from .classify import Write, changes_isolation, changes_schema, is_text, pinned_keys, reads_only, writes_of


class Marker(Protocol):
    """What the tracker needs of the coherence room."""

    def mark(self, write_set: WriteSet, connection: Any, image: Image | None = None) -> Any: ...

    def finish(self, marks: Any, outcome: Outcome) -> None: ...


_Imager = Callable[[sa.Connection, WriteSet], Image | None]


class _Work:
    """One connection's open transaction: what it wrote, and the marks it holds once it is committing."""

    __slots__ = ("committing", "marks", "prepared", "refused", "schema", "tokens", "written")

    def __init__(self) -> None:
        self.written = WriteSet()
        self.marks: list[Any] = []
        self.tokens: list[Token] | None = None
        self.committing = False
        self.prepared = False
        self.refused = False
        self.schema = False


#: The session whose flush runs in this thread, and the compiled caches of its mappers.
flushing = threading.local()


class WriteTracker:
    """Listens to one engine. Install once per layer; thread-safe because every state belongs to one connection.

    ``behind``: names of tables that only the flusher may write to.
    """

    def __init__(
        self,
        engine: sa.Engine,
        marker: Marker,
        catalog: Catalog,
        key_type: Callable[[str], type | None],
        *,
        behind: Collection[str] = frozenset(),
    ) -> None:
        self._engine = engine
        self._marker = marker
        self._catalog = catalog
        self._key_type = key_type
        self._behind = behind
        # These pools lend one connection to several holders at once: returning it ends nobody's transaction.
        self._lends_to_many = isinstance(engine.pool, sa.pool.StaticPool | sa.pool.SingletonThreadPool)
        self.counts: Counter[str] = Counter()
        #: Reads what a plain commit leaves behind, for the caches to hold.
        self.imager: _Imager | None = None
        self._slot = f"datalayer.{id(self):x}"
        self._listeners: list[tuple[str, Callable[..., Any]]] = [
            ("before_cursor_execute", self._before),
            ("after_cursor_execute", self._after),
            ("begin", self._begin),
            ("begin_twophase", self._begin),
            ("commit", self._commit),
            ("prepare_twophase", self._prepare),
            ("commit_twophase", self._commit),
            ("rollback", self._rollback),
            ("rollback_twophase", self._rollback),
            ("handle_error", self._error),
            ("checkin", self._checkin),
        ]

    def install(self) -> None:
        for name, listener in self._listeners:
            event.listen(self._engine, name, listener)

    def remove(self) -> None:
        for name, listener in self._listeners:
            event.remove(self._engine, name, listener)

    # -- asked by readers ------------------------------------------------------------------------------------------

    def written(self, connection: sa.Connection) -> WriteSet | None:
        """What the transaction on this connection has written so far; None for nothing."""
        work = self._find(connection)
        return work.written if work is not None and work.written else None

    def open(self, connection: sa.Connection) -> WriteSet:
        """The write set of the transaction on this connection, to be added to."""
        return self._work(connection).written

    def check_direct(self, table: str, kind: str) -> None:
        """InvalidModelError for a table that only the flusher may write to; for writes that no listener sees."""
        _refuse_direct((Write(kind, table, None, False),), self._behind)

    def join(self, connection: sa.Connection, tokens: list[Token]) -> None:
        """The transaction on this connection belongs to somebody who wants the causal token of what it commits."""
        self._work(connection).tokens = tokens

    def _find(self, connection: sa.Connection) -> _Work | None:
        # Connection.info would try to reconnect on an invalidated connection and raise.
        if connection.closed or connection.invalidated:
            return None
        return connection.info.get(self._slot)

    def _work(self, connection: sa.Connection) -> _Work:
        work = connection.info.get(self._slot)
        if work is None:
            work = connection.info[self._slot] = _Work()
        return work

    # -- statements ------------------------------------------------------------------------------------------------

    def _before(self, connection: Any, cursor: Any, text: str, parameters: Any, context: Any, many: bool) -> None:
        compiled = getattr(context, "compiled", None)
        statement = getattr(compiled, "statement", None)
        if context is not None and context.isddl:
            self._schema_changes(connection)
            self._work(connection).written.everything = True
        elif statement is None or is_text(statement):
            declared = context.execution_options.get("datalayer_writes") if context is not None else None
            if declared is None:
                self._text(connection, text)
            else:
                self._declared(connection, declared)
        else:
            writes = [write for write in writes_of(compiled) if not _is_book(write.table)]
            if not writes:
                return
            if self._behind and "datalayer_behind" not in context.execution_options:
                _refuse_direct(writes, self._behind)
            self._compiled(connection, context, writes)
        work = self._find(connection)
        if work is not None and work.written and _autocommits(connection):
            self._mark(connection, work)

    def _text(self, connection: sa.Connection, text: str) -> None:
        if not reads_only(text):
            self._work(connection).written.everything = True
            if changes_schema(text):
                self._schema_changes(connection)
        elif changes_isolation(text):
            self._work(connection).written.strange = True

    def _declared(self, connection: sa.Connection, declared: Iterable[tuple[str | None, str]]) -> None:
        """Text that says which tables it changes, and how: nothing else is forgotten."""
        for table, change in declared:
            write = Write(change, table, None, change == "update")
            self._add(self._work(connection).written, write, ())

    def _schema_changes(self, connection: sa.Connection) -> None:
        """Look again now, for this transaction, and once more when others can see the change."""
        self._work(connection).schema = True
        self._catalog.forget()

    def _compiled(self, connection: sa.Connection, context: Any, writes: Sequence[Write]) -> None:
        written = self._work(connection).written
        if "datalayer_keys_known" in context.execution_options or _is_unit_of_work(context):
            # Exact keys come from the session; only what the database does by itself is added here.
            written.deleted.update(w.table for w in writes if w.kind == "delete" and w.table)
            return
        for write in writes:
            self.counts["deletes" if write.kind == "delete" else "sets"] += len(context.compiled_parameters)
            self._add(written, write, context.compiled_parameters)

    def _add(self, written: WriteSet, write: Write, parameters: Sequence[Mapping[str, Any]]) -> None:
        if write.table is None:
            written.everything = True
            return
        if write.kind == "delete":
            written.deleted.add(write.table)
        if write.rekeys:
            written.rekeyed.add(write.table)
        keys = self._keys(write, parameters)
        if keys is not None:
            for key in keys:
                written.touch(write.table, key, (write.table,))
        elif write.kind == "insert":
            written.births.add(write.table)
            written.reborn.update([write.table] if write.gives else ())
        else:
            written.tables.add(write.table)

    def _keys(self, write: Write, parameters: Sequence[Mapping[str, Any]]) -> Iterable[tuple[Any, ...]] | None:
        if write.kind == "insert" and len(parameters) > MOST_KEYS:  # one tag for all of them is cheaper
            return None
        kind = self._key_type(write.table) if write.pins and write.table else None
        return pinned_keys(write, parameters, kind) if kind is not None else None

    def _after(self, connection: Any, cursor: Any, text: str, parameters: Any, context: Any, many: bool) -> None:
        work = self._find(connection)
        if work is not None and work.marks and not work.committing:
            self._finish(connection.info, Outcome.COMMITTED)  # AUTOCOMMIT: the statement was its own transaction

    # -- transactions ----------------------------------------------------------------------------------------------

    def _begin(self, connection: sa.Connection, *_: Any) -> None:
        if (work := self._find(connection)) is not None and work.committing:
            self._finish(connection.info, _ended(work))

    def _prepare(self, connection: sa.Connection, *_: Any) -> None:
        """A prepared transaction may be committed by anybody, at any time: until it is, its outcome is unknown."""
        work = self._find(connection)
        if work is not None and work.written:
            work.committing = work.prepared = True
            self._mark(connection, work)

    def _commit(self, connection: sa.Connection, *_: Any) -> None:
        work = self._find(connection)
        if work is None:
            return
        work.prepared = work.refused = False  # one that was refused may be tried again, and succeed
        if work.written:
            work.committing = True
            self._mark(connection, work, self.imager)

    def _mark(self, connection: sa.Connection, work: _Work, imager: _Imager | None = None) -> None:
        written = work.written
        if written.deleted or written.rekeyed:
            affected = self._catalog.affected(connection, written.deleted, written.rekeyed)
            if affected is None:
                written.everything = True
            else:
                written.tables |= affected
        try:
            image = imager(connection, written) if imager is not None else None
            marks = self._marker.mark(written, connection, image)
        except BaseException as error:
            failure = raised_by_driver(error, connection)  # marks and images are made past SQLAlchemy
            # SQLAlchemy would leave the transaction open on the pooled connection, for the next one to commit.
            connection.invalidate()
            if failure is error:
                raise
            raise failure from error
        work.marks.append(marks)
        if work.tokens is not None:
            work.tokens.append(marks.token)
        work.written = WriteSet()
        point("write.before_commit")

    def _rollback(self, connection: sa.Connection, *_: Any) -> None:
        if (work := self._find(connection)) is not None:
            work.written = WriteSet()
            self._finish(connection.info, Outcome.ROLLED_BACK)

    def _error(self, context: Any) -> None:
        """A COMMIT, or a statement that is its own transaction (AUTOCOMMIT), that raised.

        The connection was lost under it, or the server refused the COMMIT, and a rollback may follow.
        """
        connection = context.connection
        work = self._find(connection) if connection is not None else None
        if work is None or not work.marks:
            return
        if context.is_disconnect:
            self._finish(connection.info, Outcome.UNKNOWN)
        elif work.committing and context.statement is None:
            work.refused = True

    def _checkin(self, dbapi_connection: Any, record: Any) -> None:
        work = record.info.get(self._slot)
        if work is not None and (work.committing or not self._lends_to_many):
            work.tokens = None
            self._finish(record.info, _ended(work))

    def _finish(self, info: dict[Any, Any], outcome: Outcome) -> None:
        work = info.get(self._slot)
        if work is None:
            return
        if outcome is not Outcome.COMMITTED:
            work.written = WriteSet()
        if work.tokens is None and not work.written:
            info.pop(self._slot)
        marks, work.marks, work.committing, work.refused = work.marks, [], False, False
        if work.schema:
            self._catalog.forget()
        if marks and outcome is Outcome.COMMITTED:
            point("write.after_commit")
        for mark in marks:
            self._marker.finish(mark, outcome)


def _is_book(table: str | None) -> bool:
    """Whether a table is one of the layer's own books, which nobody caches."""
    return table is not None and table.startswith("datalayer_")


def _refuse_direct(writes: Sequence[Write], behind: Collection[str]) -> None:
    """A write that passes the journal could be undone by what is queued."""
    for write in writes:
        if write.table in behind:
            raise InvalidModelError(
                f"table {write.table} is written behind: what is queued would come after this {write.kind}; "
                "use layer.repository(Model)"
            )


def _autocommits(connection: sa.Connection) -> bool:
    return bool(connection._is_autocommit_isolation())


def _ended(work: _Work) -> Outcome:
    if work.prepared:
        return Outcome.UNKNOWN
    return Outcome.COMMITTED if work.committing and not work.refused else Outcome.ROLLED_BACK


def _is_unit_of_work(context: Any) -> bool:
    """Whether our own session's flush emitted the statement.

    ``bulk_*_mappings``, bulk UPDATE by primary key and plain Sessions use the same compiled cache, but tell no keys.
    """
    session = getattr(flushing, "session", None)
    cache = context.execution_options.get("compiled_cache") if session is not None else None
    return cache is not None and id(cache) in _caches(session)


def _caches(session: Any) -> frozenset[int]:
    caches: frozenset[int] | None = getattr(flushing, "caches", None)
    if caches is None:
        states = (*session._new, *session.identity_map._modified, *session._deleted)
        caches = flushing.caches = frozenset(id(state.manager.mapper.base_mapper._compiled_cache) for state in states)
    return caches
