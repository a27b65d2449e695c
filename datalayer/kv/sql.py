"""A store in one table of a database that is there anyway.

Each write gives its row a random stamp, which is what transactions compare. A commit keeps other writers out while it
compares and writes: by a lock of the table on PostgreSQL, by the lock of the file on SQLite, and by SERIALIZABLE
elsewhere. Everything else is one statement.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from ..contracts.clock import Clock, SystemClock
from ..contracts.store import Buffer, StoreEvent
from ..errors import ConflictError, StoreError, TransactionOutcomeUnknown, UnavailableError
from .checks import FOREVER, checked_key, checked_prefix, checked_value, deadline
from .events import Events
from .overlay import OverlayTransaction, Reads, Seen, Stamps, Write
from .statements import PAGE, UPSERTING, Statements, store_table

_SERIALIZATION_FAILURE = "40001"


class SqlStore:
    """A store in a table of any SQLAlchemy engine. Thread-safe as far as the engine is.

    The table is made if it is absent, unless ``create`` is False. ``close`` leaves the engine alone, since its owner
    disposes of it, unless ``dispose`` is True. Deadlines are compared with the clock of this process, so machines that
    share a table need clocks that agree. Each call but a commit is one statement and, on PostgreSQL and SQLite, a
    transaction of its own. An SQLite database in memory is one database a thread with SQLAlchemy's defaults; give it a
    file.
    """

    def __init__(
        self,
        engine: sa.Engine,
        *,
        table: str = "datalayer_kv",
        create: bool = True,
        dispose: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.name = table
        self._dispose = dispose
        self._engine = engine
        self._upserts = engine.dialect.name in UPSERTING
        self._single = engine.execution_options(isolation_level="AUTOCOMMIT") if self._upserts else engine
        self._clock: Clock = clock or SystemClock()
        self._statements = Statements(store_table(table, sa.MetaData()), engine.dialect.name)
        self._events = Events(table)
        self._open = True
        if create:
            self._create()

    # -- Store, Scannable, Expiring ------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        row = self._row(self._statements.value, checked_key(key))
        return None if row is None else bytes(row.value)

    def put(self, key: bytes, value: Buffer, ttl: float | None = None) -> None:
        key, write = checked_key(key), Write(checked_value(value), ttl)
        with self._connection() as connection:
            self._write(connection, key, write, deadline(ttl, self._now()))
        self._events.tell("put", (key,))

    def delete(self, key: bytes) -> bool:
        key = checked_key(key)
        arguments = {"k": key, "now": self._now()}
        with self._connection() as connection:
            found = bool(connection.execute(self._statements.delete, arguments).rowcount)
            if not found:  # an expired row is swept here, but was absent already
                connection.execute(self._statements.sweep, arguments)
        if found:
            self._events.tell("delete", (key,))
        return found

    def exists(self, key: bytes) -> bool:
        return self._row(self._statements.exists, checked_key(key)) is not None

    def ttl(self, key: bytes) -> float | None:
        row = self._row(self._statements.ends_at, checked_key(key))
        if row is None:
            return None
        return FOREVER if row.ends_at is None else float(row.ends_at) - self._now()

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        self._check_open()
        pages = self._pages(checked_prefix(prefix), "value")
        return ((bytes(row.key), bytes(row.value)) for row in pages)

    def keys(self, prefix: bytes = b"") -> Iterator[bytes]:
        self._check_open()
        return (bytes(row.key) for row in self._pages(checked_prefix(prefix)))

    def close(self) -> None:
        was_open, self._open = self._open, False
        if was_open:
            if self._dispose:
                self._engine.dispose()
            self._events.tell("close")

    def subscribe(self, listener: Callable[[StoreEvent], None]) -> Callable[[], None]:
        return self._events.subscribe(listener)

    def compact(self) -> int:
        """Delete the rows that have expired; returns how many."""
        with self._connection() as connection:
            return connection.execute(self._statements.sweep_all, {"now": self._now()}).rowcount

    # -- transactions --------------------------------------------------------------------------------------------------

    def begin(self) -> OverlayTransaction:
        self._check_open()
        return OverlayTransaction(self)

    def see(self, key: bytes) -> Seen:
        row = self._row(self._statements.seen, key)
        return Seen(None, None) if row is None else Seen(row.stamp, bytes(row.value))

    def see_all(self, prefix: bytes) -> list[tuple[bytes, Seen]]:
        self._check_open()
        rows = self._pages(prefix, "stamp", "value")
        return [(bytes(row.key), Seen(row.stamp, bytes(row.value))) for row in rows]

    def commit(self, reads: Reads, writes: Mapping[bytes, Write]) -> None:
        now = self._now()
        deadlines = {key: deadline(write.ttl, now) for key, write in writes.items()}
        with self._transaction() as connection:
            self._keep_others_out(connection)
            reads.verify(_Locked(self, connection))
            for key in sorted(writes):
                self._write(connection, key, writes[key], deadlines[key])
        self._events.tell("commit", writes)

    def __repr__(self) -> str:
        return f"<SqlStore {self.name!r} on {self._engine.dialect.name}, {'open' if self._open else 'closed'}>"

    # -- inside --------------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        try:
            with self._connection() as connection:
                self._statements.table.create(connection, checkfirst=True)
        except StoreError:
            # Processes that start together all find no table, and one of them makes it.
            with self._connection() as connection:
                if not sa.inspect(connection).has_table(self.name):
                    raise

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        """For statements each of which is a transaction of its own, without a round trip to begin and end it."""
        self._check_open()
        try:
            with self._single.connect() as connection:
                yield connection
                connection.commit()
        except SQLAlchemyError as error:
            raise self._failed(error) from error

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        self._check_open()
        committing = False
        try:
            with self._engine.connect() as connection:
                if not self._upserts:
                    connection = connection.execution_options(isolation_level="SERIALIZABLE")
                yield connection
                committing = True
                connection.commit()
        except SQLAlchemyError as error:
            if getattr(getattr(error, "orig", None), "sqlstate", None) == _SERIALIZATION_FAILURE:
                raise ConflictError(f"table {self.name!r} was changed by somebody else; run it again") from error
            if committing and isinstance(error, DBAPIError) and error.connection_invalidated:
                raise TransactionOutcomeUnknown(
                    f"the connection was lost while table {self.name!r} was committed; look at what it was to write"
                ) from error
            raise self._failed(error) from error

    def _failed(self, error: SQLAlchemyError) -> StoreError:
        database = self._engine.dialect.name
        return StoreError(f"table {self.name!r} of a {database} database failed: {type(error).__name__}; see its cause")

    def _row(self, statement: Any, key: bytes) -> Any:
        with self._connection() as connection:
            return self._look(connection, statement, key)

    def _look(self, connection: sa.Connection, statement: Any, key: bytes) -> Any:
        return connection.execute(statement, {"k": key, "now": self._now()}).first()

    def _pages(self, prefix: bytes, *names: str) -> Iterator[Any]:
        """The rows under a prefix, a page at a time, so that no connection is held while the caller works."""
        after: bytes | None = None
        while True:
            with self._connection() as connection:
                rows = connection.execute(self._statements.page(prefix, after, *names), {"now": self._now()}).all()
            yield from rows
            if len(rows) < PAGE:
                return
            after = bytes(rows[-1].key)

    def _write(self, connection: sa.Connection, key: bytes, write: Write, ends_at: float) -> None:
        if write.value is None:
            connection.execute(self._statements.forget, {"k": key})
            return
        row = {
            "key": key,
            "value": write.value,
            "ends_at": None if ends_at == FOREVER else ends_at,
            "stamp": secrets.randbits(63),
        }
        if self._upserts:
            connection.execute(self._statements.upsert, row)
        else:
            self._update_or_insert(connection, row)

    def _update_or_insert(self, connection: sa.Connection, row: dict[str, Any]) -> None:
        """What an upsert does, for databases whose upsert we do not know. The new stamp makes every update a change."""
        update = {"k": row["key"], **row}
        if connection.execute(self._statements.update, update).rowcount:
            return
        try:
            with connection.begin_nested():
                connection.execute(self._statements.insert, row)
        except IntegrityError:  # somebody inserted it in between
            connection.execute(self._statements.update, update)

    def _keep_others_out(self, connection: sa.Connection) -> None:
        if self._engine.dialect.name == "postgresql":
            quoted = connection.dialect.identifier_preparer.format_table(self._statements.table)
            connection.execute(sa.text(f"LOCK TABLE {quoted} IN SHARE ROW EXCLUSIVE MODE"))
        elif self._engine.dialect.name == "sqlite":
            # A statement that writes takes the file's lock before it looks, whatever the driver's idea of BEGIN is.
            connection.execute(sa.update(self._statements.table).where(sa.false()).values(stamp=0))

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _check_open(self) -> None:
        if not self._open:
            raise UnavailableError(f"store {self.name!r} is closed; open another one")


class _Locked:
    """The store as a commit sees it, through the connection that holds the lock."""

    def __init__(self, store: SqlStore, connection: sa.Connection) -> None:
        self._store = store
        self._connection = connection

    def stamp(self, key: bytes) -> int | None:
        row = self._store._look(self._connection, self._store._statements.stamp, key)
        return None if row is None else int(row.stamp)

    def stamps(self, prefix: bytes) -> Stamps:
        statement = self._store._statements.page(prefix, None, "stamp").limit(None)
        rows = self._connection.execute(statement, {"now": self._store._now()})
        return tuple((bytes(row.key), row.stamp) for row in rows)
