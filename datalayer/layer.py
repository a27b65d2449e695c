"""``DataLayer``: opens the tiers over one database, hands out sessions and repositories, and closes it all."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

import sqlalchemy as sa

from .config.env import from_env
from .config.forget import forgetful
from .config.settings import Settings
from .config.units import seconds
from .config.yaml import from_yaml
from .contracts.causal import UNHEARD, parse_token
from .contracts.coherence import WriteSet
from .contracts.levels import Consistency
from .errors import ConfigError, QueryError, UnavailableError
from .models.behind import write_mode_of
from .models.policy import WriteMode, policy_of
from .models.schema import Schema, schema_of
from .models.sealed import sealed_names, sealed_tables
from .observe.forwarding import Forwarding
from .observe.health import Health, Status, TierHealth
from .observe.logs import StateLog, redact_url
from .observe.statements import QueryStats
from .observe.stats import Stats
from .repository import OneShotRepository, Repository
from .session.caches import Caches
from .session.reader import Reader
from .session.session import Session
from .session.transactions import Begin, Terms, run
from .tiers.census import collect
from .tiers.l3 import row_reader
from .tiers.needs import Row
from .tiers.pool import open_now
from .tiers.vigil import Vigil
from .transaction import Transaction
from .wiring.build import build
from .wiring.keys import close_vault
from .wiring.parts import Parts

if TYPE_CHECKING:
    from .crypto.manage import Crypto
    from .migrate.drift import Drift
    from .migrate.history import MigrationRecord
    from .migrate.options import MigrateOptions
    from .migrate.runner import MigrationReport
    from .migrate.sqlrunner import FilesReport
    from .migrate.steps import Plan
    from .query.check import QueriesReport
    from .query.named import NamedQueries
    from .query.named import Plan as QueryPlan
    from .writes.behind import Behind
    from .writes.letters import DeadLetters
    from .writes.reports import FlushReport, QueueStatus

log = logging.getLogger("datalayer")

T = TypeVar("T")
P = TypeVar("P")


class DataLayer:
    """The tiers over one database. Thread-safe; survives ``fork``; a context manager.

    ``url`` is a SQLAlchemy database URL, or ``engine`` an engine that the application has already. ``redis`` is a URL
    with the scheme ``redis``, ``rediss``, ``unix``, ``redis+sentinel`` or ``redis+cluster``; without it there is no L2.
    ``models`` says which mapped classes belong to the layer: a declarative base, a list of classes, or None for any.
    Other keywords are fields of :class:`~datalayer.Settings` and override ``settings``. Nothing is connected before the
    first use, unless ``auto_migrate`` is set or ``lazy_connect`` is off. Raises ConfigError for anything that cannot be
    meant.
    """

    @forgetful
    def __init__(
        self,
        url: str | None = None,
        *,
        engine: sa.Engine | None = None,
        redis: str | None = None,
        models: Any = None,
        settings: Settings | None = None,
        **options: Any,
    ) -> None:
        given = {name: value for name, value in (("url", url), ("redis", redis)) if value is not None}
        self.settings = _merged(settings, given | options)
        if (engine is None) == (self.settings.url is None):
            raise ConfigError("DataLayer needs a database: give either a url or engine=, one of them and not both")
        if self.settings.logger is not None:
            forwarding = Forwarding(self.settings.logger)
            forwarding.open()
            self._forwarding = weakref.finalize(self, forwarding.close)
        self._lock = threading.Lock()
        self._readers: dict[type[Any], Reader] = {}
        self._closed = False
        self._from: str | Path | None = None
        self._parts: Parts = build(self.settings, engine, models)
        self._states = StateLog(log)
        self._vigil: Vigil | None = None
        if self.settings.health_check_period and (self.settings.redis or self._parts.engine.dialect.name != "sqlite"):
            self._vigil = Vigil("datalayer-health", self._parts.engine, self.settings.health_check_period, self._look)
        if not self.settings.redis and self._parts.engine.dialect.name != "sqlite":
            log.info("no Redis is configured%s", _ALONE)
        _layers.add(self)
        if not self.settings.lazy_connect:
            self._at_start(lambda: open_now(self._parts.engine))
        if self.settings.auto_migrate:
            self._at_start(self._migrate_at_start)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, models: Any = None, **options: Any) -> Self:
        """A layer from ``DATALAYER_URL``, ``DATALAYER_REDIS``, ``DATALAYER_L1_TTL`` and so on."""
        return cls(models=models, settings=from_env(os.environ if environ is None else environ), **options)

    @classmethod
    def from_yaml(cls, path: str | Path, *, models: Any = None, **options: Any) -> Self:
        """A layer from a YAML file; ``${VAR}`` and ``${VAR:-default}`` are expanded. Needs ``datalayer[yaml]``."""
        return cls(models=models, settings=from_yaml(path), **options)

    # -- lifecycle -------------------------------------------------------------------------------------------------

    def close(self) -> FlushReport | None:
        """Give back every connection, stop every thread. Idempotent; afterwards every call raises UnavailableError.

        Queued writes are flushed first, for ``close_timeout`` seconds at most; the report says what is left, and is
        None when nothing was written behind.
        """
        with self._lock:
            if self._closed:
                return None
            self._closed = True
        parts = self._parts
        # Threads end before listeners are taken away: a connection that is being opened or returned then would be lost.
        if self._vigil is not None:
            self._vigil.close()
        parts.janitor.close()
        report = parts.queue.close(self.settings.close_timeout) if parts.queue is not None else None
        parts.caches.closed = True
        if parts.report is not None:
            parts.report.close()
        for ladder in parts.caches.ladders():
            ladder.clear_local()
        for listener in (parts.notices, parts.announcements, parts.authority):
            if listener is not None:
                listener.close()
        for listening in (parts.tracker, parts.translator, parts.timing, parts.explaining, self._vigil):
            if listening is not None:
                listening.remove()
        close_vault(parts)
        parts.watchdog.close()
        parts.l2.close()
        if parts.reading is not None:
            parts.reading.dispose()
        if parts.owned:
            parts.engine.dispose()
        if parts.folder is not None:
            parts.folder.cleanup()
        parts.replicas.close()
        if self.settings.logger is not None:
            self._forwarding()
        return report

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        redis = f" redis={redact_url(self.settings.redis)}" if self.settings.redis else ""
        state = " closed" if self._closed else ""
        return f"<DataLayer {self._parts.engine.url.render_as_string(hide_password=True)}{redis}{state}>"

    def _reset_after_fork(self) -> None:
        """In the child: the parent's connections stay the parent's, and what was cached is read again."""
        parts = self._parts
        self._lock = threading.Lock()
        self._states.reset_after_fork()
        if self._vigil is not None and self._vigil.reset_after_fork():
            self._vigil.start()
        parts.engine.dispose(close=False)
        if parts.reading is not None:
            parts.reading.dispose(close=False)
        parts.l2.reset_after_fork()
        parts.watchdog.reset_after_fork()
        parts.janitor.reset_after_fork()
        parts.coherence.reset_after_fork()
        if parts.authority is not None:
            parts.authority.reset_after_fork()
        if parts.behind is not None:
            parts.behind.reset_after_fork()
        for listener in (parts.notices, parts.announcements):
            if listener is not None:
                listener.reset_after_fork()
        for ladder in parts.caches.ladders():
            ladder.reset_after_fork()
        parts.caches.results.reset_after_fork()
        parts.replicas.reset_after_fork()
        if parts.caches.stale is not None:
            parts.caches.stale.reset_after_fork()
        if parts.timing is not None and parts.timing.statements is not None:
            parts.timing.statements.reset_after_fork()
        if parts.report is not None:
            parts.report.reset_after_fork()

    def _open(self) -> Parts:
        if self._closed:
            raise UnavailableError("the layer is closed; open a new DataLayer")
        return self._parts

    # -- doors -----------------------------------------------------------------------------------------------------

    @property
    def engine(self) -> sa.Engine:
        """The engine of transactions."""
        return self._open().engine

    @property
    def caches(self) -> Caches:
        """What a :class:`~datalayer.Session` reads through."""
        return self._open().caches

    def session(self, **options: Any) -> Session:
        """A session with SQLAlchemy's semantics: you commit. Options are those of ``sqlalchemy.orm.Session``."""
        return Session(self._open().engine, layer=self, **options)

    def begin(
        self,
        *,
        isolation: str | None = None,
        read_only: bool = False,
        timeout: float | str | None = None,
        retries: int = 0,
    ) -> Begin:
        """A session in a transaction that commits when the block ends well and rolls back when it raises.

        ``isolation`` is a level of the database. ``read_only``: a write raises TransactionFailed. ``timeout`` (seconds,
        or ``"5s"``) limits each statement and the whole: TransactionTimeout.

        Serialization failures and deadlocks raise TransactionFailed with ``retryable``. A ``with`` block cannot be run
        a second time, so there ``retries`` covers only getting a connection and opening the transaction. As a loop it
        covers everything: ``for attempt in layer.begin(retries=3):`` with ``with attempt as session:`` inside, or
        :meth:`run`. Instances stay loaded after the commit.
        """
        terms = Terms.of(isolation=isolation, read_only=read_only, timeout=timeout, retries=retries)
        return Begin(self._one_shot_session, terms)

    def on_replica(
        self, model: type[Any] | None = None, *, wait: float | str = 1.0, timeout: float | str | None = None
    ) -> Begin:
        """A session that only reads, past every cache, in the database's copy ``read_replica``; for a ``with`` block.

        With ``model`` it is the copy that the model's policy names, if it names one. The copy is asked if it answers
        and has every write of this process, or gets the last of them within ``wait`` seconds; else, without a copy, and
        where reads shall be stricter than ``"cached"``, the primary is. What others have written may be missing.
        Nothing that is read so is cached. Costs a round trip to the copy, and one to the primary the first time after a
        write. A write raises TransactionFailed; ``timeout`` as for :meth:`begin`.
        """
        parts, patience = self._open(), seconds(wait, name="wait")
        named = policy_of(parts.registry.resolve(model).class_).read_replica if model is not None else None
        engine, replica = parts.engine, parts.replicas.of(named)
        refuses_writes = False
        if replica is not None and parts.caches.levels.resolve() == "cached" and replica.ready(patience):
            engine, refuses_writes = replica.engine, replica.refuses_writes
        return Begin(
            lambda: Session(engine, expire_on_commit=False), Terms.of(read_only=not refuses_writes, timeout=timeout)
        )

    def run(
        self,
        fn: Callable[[Session], T],
        *,
        retries: int = 3,
        isolation: str | None = None,
        read_only: bool = False,
        timeout: float | str | None = None,
    ) -> T:
        """Call ``fn(session)`` in a transaction, commit, and return its result.

        It is called again, at most ``retries`` times with growing pauses, when the transaction was rolled back for a
        serialization failure or a deadlock, or lost its connection before COMMIT was sent; so it must do nothing that
        a rollback does not undo. Never after TransactionOutcomeUnknown. The last failure is raised.
        """
        return run(
            self._one_shot_session,
            fn,
            Terms.of(isolation=isolation, read_only=read_only, timeout=timeout, retries=retries),
        )

    def transaction(
        self, *, isolation: str | None = None, timeout: float | str | None = None, retries: int = 3
    ) -> Transaction:
        """Collect writes of several models and commit them together: ``.set(a).set(b).delete(Cart, 7).commit()``.

        What was collected is run again like :meth:`run`, at most ``retries`` times.
        """
        terms = Terms.of(isolation=isolation, timeout=timeout, retries=retries)
        return Transaction(lambda write: run(self._one_shot_session, write, terms), self._rows)

    def _rows(self, session: Session, model: type[Any]) -> Repository[Any]:
        self._open().registry.resolve(model)
        made: Repository[Any] = Repository[model](session)  # type: ignore[valid-type]
        return made

    def repository(self, model: type[T], *, consistency: Consistency | None = None) -> Repository[T]:
        """The rows of a model, each call in a short session of its own. Hold it: its ``get`` is compiled once.

        Of a model that is written behind this is the only way to write; it is a
        :class:`~datalayer.queued.QueuedRepository`. Then ConfigError where no journal is safe.
        """
        parts = self._open()
        mapper = parts.registry.resolve(model)
        reader = self._reader(mapper)
        if write_mode_of(mapper, self.settings.write_mode) is not WriteMode.BEHIND:
            return OneShotRepository(model, reader, self._one_shot_session, consistency)
        from .queued import QueuedRepository  # only where something is written behind

        return QueuedRepository(model, reader, self._one_shot_session, self._behind(mapper), consistency)

    def _reader(self, mapper: Any) -> Reader:
        with self._lock:
            reader = self._readers.get(mapper.class_)
            if reader is None:
                reader = self._readers[mapper.class_] = self._make_reader(mapper)
            return reader

    # -- write-behind ----------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> FlushReport:
        """Bring queued writes to the database now; returns when it has them, or after ``timeout`` seconds.

        ``report.ok`` says whether it has everything that this process may flush; nothing that is left is lost.
        """
        if self._open().behind is not None and self._writes_behind():
            return self._behind().flush(timeout)
        from .writes.reports import FlushReport

        return FlushReport()

    def dead_letters(self) -> DeadLetters:
        """Queued writes that the database refused too often: ``list()``, ``retry()``, ``drop()``."""
        return self._behind().dead_letters()

    def queue_status(self) -> QueueStatus:
        """How much is queued, waits to be tried again, or is a dead letter. Flushes nothing."""
        return self._behind().status()

    def _writes_behind(self) -> bool:
        parts = self._parts
        return bool(parts.registry.classes() and parts.registry.behind_tables)

    def _behind(self, mapper: Any = None) -> Behind:
        parts = self._open()
        if parts.behind is None:
            raise ConfigError(f"write-behind needs PostgreSQL or SQLite, not {parts.engine.dialect.name}")
        if mapper is not None and (reasons := schema_of(mapper).reasons):
            raise ConfigError(f"{mapper.class_.__name__} cannot be written behind, it is not cached: {reasons[0]}")
        behind = parts.behind()
        behind.instance = self._instance
        return behind

    def _instance(self, schema: Schema, values: tuple[Any, ...]) -> Any:
        return self._reader(schema.mapper).owned(Row(values, schema.full, "queued"))

    def _make_reader(self, mapper: Any) -> Reader:
        parts, schema = self._parts, schema_of(mapper)
        rows = None
        if schema.cacheable:
            rows = row_reader(
                schema,
                engine=parts.engine,
                reading=parts.reading,
                watchdog=parts.watchdog,
                own_listeners=parts.statement_listeners,
                make=parts.timing.statement if parts.timing is not None else None,
            )
        return Reader(parts.caches, schema, rows, self._one_shot_session)

    def _one_shot_session(self) -> Session:
        return self.session(expire_on_commit=False)

    @overload
    def queries(self, directory: str | Path) -> NamedQueries: ...
    @overload
    def queries(self, directory: str | Path, interface: Callable[..., P]) -> P: ...
    def queries(self, directory: str | Path, interface: Callable[..., Any] | None = None) -> Any:
        """The named queries of a directory's ``.sql`` files, as an object with one method for each. Hold it.

        ``interface`` is a class derived from :class:`~datalayer.Queries` that says how they are called and what they
        return; type checkers then know. Reads the files, not the database. QueryError for the first query that cannot
        be right, with its file and line; whether they fit the schema is said by ``datalayer queries check``.
        """
        from .query.named import NamedQueries  # only in processes that have such files

        return NamedQueries(self._plans(directory, interface), self._one_shot_session, self._tables)

    def check_queries(self, directory: str | Path, interface: Callable[..., Any] | None = None) -> QueriesReport:
        """Have the database prepare each named query of a directory, up to the first that does not fit its schema.

        Runs none of them. ``datalayer queries check`` is the same from a shell.
        """
        from .query.check import check_plans

        return check_plans(self.engine, self._plans(directory, interface).values(), self._tables())

    def query_interface(self, directory: str | Path, name: str = "Interface") -> str:
        """The source of a module that declares the named queries of a directory, with the types that PostgreSQL says.

        QueryError for the first query that does not fit. ``datalayer queries interface`` is the same from a shell.
        """
        from .query.check import check_plans
        from .query.stubs import interface_source

        plans = self._plans(directory, None)
        report = check_plans(self.engine, plans.values(), self._tables())
        if report.failure is not None:
            raise QueryError(report.failure)
        return interface_source(name, report.checked, plans)

    def _plans(self, directory: str | Path, interface: Callable[..., Any] | None) -> dict[str, QueryPlan]:
        from .query.load import by_name, load_plans

        registry = self._open().registry
        sealed = {t.fullname: sealed_names(t) for t in sealed_tables(registry)}
        return load_plans(directory, interface, models=by_name(registry.classes()), sealed=sealed)

    # -- schema ----------------------------------------------------------------------------------------------------

    def migrate(self, **options: Any) -> MigrationReport:
        """Add what the models have and the database lacks. Idempotent, safe in every process at start-up.

        Additive only: what would drop, rename or narrow is in ``report.refused``, with the steps that do it safely.
        ``options`` are the fields of :class:`~datalayer.migrate.options.MigrateOptions`. Raises MigrationLockedError
        if another process migrates for too long, MigrationError if a step fails; the steps before it stay.
        """
        from .migrate.runner import create_missing  # Alembic is only loaded by processes that migrate

        parts = self._open()
        try:
            return create_missing(parts.engine, parts.registry.metadata, self._migrate_options(options))
        finally:
            self._schema_changed(set())

    def migration_plan(self, **options: Any) -> Plan:
        """What ``migrate()`` with these options would do and refuse now. Reads only, and waits for nobody."""
        from .migrate.runner import plan

        parts = self._open()
        return plan(parts.engine, parts.registry.metadata, self._migrate_options(options))

    def create_partitions(self, ahead: int = 3, **options: Any) -> MigrationReport:
        """Create the partitions of this time and the ``ahead`` next ones for tables that are partitioned by a date.

        For a daily job: :meth:`migrate` does it too, but not where Alembic versions the schema. Idempotent; errors as
        for :meth:`migrate`.
        """
        from .migrate.runner import create_coming

        parts = self._open()
        given = self._migrate_options({"partitions_ahead": ahead} | options)
        return create_coming(parts.engine, parts.registry.metadata, given)

    def backfill(self, attribute: Any, value: Any, **options: Any) -> int:
        """Fill a column of a model where it is NULL, in batches in key order, and return how many rows were filled.

        ``attribute`` is ``Player.level``, ``value`` a plain value or an SQL expression of the row's other columns.
        Stop it at any time: called again it goes on, for what is done is not NULL any more. ``options`` as for
        :meth:`migrate`: ``batch_size``, ``progress``, ``lock_timeout``, ``retries``. Several may run at once.
        """
        from .migrate.backfill import backfill

        return backfill(self._open().engine, attribute, value, self._migrate_options(options))

    def migrate_from(
        self,
        directory: str | Path | None = None,
        *,
        lint: Literal["off", "warn", "refuse"] = "warn",
        out_of_order: bool = False,
        **options: Any,
    ) -> FilesReport:
        """Run the files ``NNN_description.sql`` of a directory that were not run yet, in the order of their numbers.

        Without a directory it is that of the settings. ``lint`` says what to do about statements that lock, rewrite or
        lose rows (PostgreSQL). Every tier forgets every row, for files may change rows. Raises MigrationFileError,
        MigrationEditedError, MigrationOrderError and MigrationDirtyError before anything is run, and MigrationError
        if a statement fails.
        """
        from .migrate.sqlrunner import run_files

        parts, folder = self._open(), self._migrations_directory(directory)
        try:
            return run_files(
                parts.engine, folder, self._migrate_options(options), rules=lint, out_of_order=out_of_order
            )
        finally:
            self._schema_changed(self._tables())

    def migrate_down(self, steps: int = 1, directory: str | Path | None = None, **options: Any) -> FilesReport:
        """Take back the last ``steps`` SQL files, the latest first. Every tier forgets every row.

        The way down is that of the directory, else what was stored when the file was applied. MigrationFileError,
        before anything is run, if a file has none.
        """
        from .migrate.sqlrunner import run_down

        folder = directory or self._from or self.settings.migrations_directory
        try:
            return run_down(self._open().engine, steps, folder, self._migrate_options(options))
        finally:
            self._schema_changed(self._tables())

    def migrate_repair(self, version: int, *, applied: bool) -> None:
        """After you have looked at a file that is ``dirty``: it counts as applied, or as never run."""
        from .migrate.sqlrunner import repair

        repair(self._open().engine, version, applied=applied, options=self._migrate_options({}))

    def migration_status(self, directory: str | Path | None = None) -> list[MigrationRecord]:
        """Every migration that is known here: SQL files, steps for the models, Alembic's revisions. Reads only.

        What is pending, edited or missing is known for the directory given, last used, or of the settings.
        """
        from .migrate.status import migration_status

        folder = directory or self._from or self.settings.migrations_directory
        return migration_status(self._open().engine, folder, table=self.settings.migrations_table)

    def drift(self) -> Drift:
        """How the live schema differs from the models: what is missing, different, or more. Reads only."""
        from .migrate.drift import find_drift

        parts = self._open()
        return find_drift(parts.engine, parts.registry.metadata)

    def _migrate_options(self, given: dict[str, Any]) -> MigrateOptions:
        from .migrate.options import MigrateOptions

        settings = self.settings
        authority = self._open().authority
        own = {
            "lock_timeout": settings.migrations_lock_timeout,
            "table": settings.migrations_table,
            # Also without Redis: the processes that have it may not be the ones that migrate.
            "fence_shards": len(authority.stands) if authority is not None else 1,
        }
        return MigrateOptions.of(own | {"written": lambda table: self._schema_changed({table})} | given)

    def _at_start(self, act: Callable[[], object]) -> None:
        try:
            act()
        except BaseException:
            self.close()
            raise

    def _migrate_at_start(self) -> None:
        self.migrate()
        if self.settings.migrations_directory is not None:
            self.migrate_from()

    def _migrations_directory(self, given: str | Path | None) -> str | Path:
        found = given or self.settings.migrations_directory
        if found is None:
            raise ConfigError("migrate_from() needs a directory; give one, or set migrations_directory")
        self._from = found
        return found

    def _tables(self) -> set[str]:
        return {table.fullname for metadata in self._parts.registry.metadata for table in metadata.tables.values()}

    def _schema_changed(self, rewritten: set[str]) -> None:
        """What is known of the schema is looked up again, and rows that were changed behind our back are forgotten."""
        self._parts.caches.forget_catalog()
        if rewritten:
            self._parts.coherence.forget(WriteSet(tables=rewritten))

    def explain(self, model: type[Any]) -> str:
        """Whether rows of a model are cached by this layer and, if not, every reason why."""
        schema = schema_of(self._open().registry.resolve(model))
        return explained(model, self._parts.caches.reasons(schema))

    # -- control ---------------------------------------------------------------------------------------------------

    def consistency(self, level: Consistency) -> AbstractContextManager[None]:
        """Reads of this thread have this level inside the block."""
        return self._open().caches.levels.at(level)

    def after(self, token: str | None) -> AbstractContextManager[None]:
        """Reads of this thread see the writes of a ``session.causal_token`` inside the block, whoever made them.

        Where this process has heard of them already, that costs nothing; else the reads are at least ``"shared"``, or
        ``"database"`` when no Redis told of the writes. A token that cannot be read counts as never heard; an empty
        one, or None, asks for nothing.
        """
        parts = self._open()
        wanted = parse_token(token or "")
        if not wanted or (parts.authority is not None and parts.authority.caught_up(wanted)):
            return nullcontext()
        strict = parts.authority is not None and parts.authority.strict and wanted != UNHEARD
        return parts.caches.levels.at_least("shared" if strict else "database")

    def cache_disabled(self) -> AbstractContextManager[None]:
        """The kill switch: every read of every thread asks the database inside the block; writes still invalidate."""
        return self._open().caches.levels.disabled()

    def touch(self, *models: type[Any]) -> None:
        """Say that somebody else wrote to the tables of these models: every tier forgets their rows."""
        parts = self._open()
        tables = {t for model in models for t in schema_of(parts.registry.resolve(model)).tables}
        parts.coherence.forget(WriteSet(tables=tables))

    @property
    def crypto(self) -> Crypto:
        """The encrypted columns of the models: ``rotate()``, ``status()``, ``verify()``."""
        from .crypto.manage import Crypto

        parts = self._open()

        def forget(tables: set[str]) -> None:
            parts.coherence.forget(WriteSet(tables=tables))

        return Crypto(parts.engine, parts.vault, lambda: sealed_tables(parts.registry), forget)

    # -- observation -----------------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """Counters since the start, per tier and model. Costs a walk over L1; not for the hot path.

        What has not been told to ``metrics`` yet is told first.
        """
        parts = self._open()
        if parts.report is not None:
            parts.report.turn()
        found = collect(parts.caches.ladders(), parts.failures, parts.tracker.counts)
        dirty = parts.queue.dirty() if parts.queue is not None else 0
        known = parts.timing.statements if parts.timing is not None else None
        if known is not None:
            found = replace(found, statements=known.calls, slow_statements=known.slow, queries=tuple(known.top(_TOP)))
        return replace(found, dirty_count=dirty) if dirty else found

    def query_stats(self, most: int | None = None) -> list[QueryStats]:
        """The statements that this process has sent, those first that took the most time in all; ``most`` of them.

        By normalized text: values and literals are ``?``. Empty with ``query_stats=False``. Up to 500 are known.
        """
        timing = self._open().timing
        return timing.statements.top(most) if timing is not None and timing.statements is not None else []

    def ping(self) -> float:
        """Seconds that the database takes to answer ``SELECT 1``; L3UnavailableError if it does not."""
        from .tiers.l3 import translated

        engine = self._open().engine
        began = time.perf_counter()
        try:
            with engine.connect() as connection:
                connection.execute(sa.text("SELECT 1"))
        except sa.exc.SQLAlchemyError as error:
            raise translated(error, engine) from error
        return time.perf_counter() - began

    def health(self) -> Health:
        """Whether each tier answers: ``down`` without the database, ``degraded`` without a Redis or a read replica
        that is configured.

        Each tier's change since the last look is logged. Looks are also taken every ``health_check_period`` seconds.
        """
        parts = self._open()
        tiers = {"l1": TierHealth(ok=True, detail="in process"), "l3": _probe(self.ping)}
        if self.settings.redis:
            tiers["l2"] = _probe(lambda: _ping_shared(parts))
        else:
            detail = "no Redis configured" + ("" if parts.engine.dialect.name == "sqlite" else _ALONE)
            tiers["l2"] = TierHealth(ok=True, detail=detail)
        if parts.queue is not None and parts.queue.running:
            lost = parts.queue.lost
            detail = f"lost: {lost[-1]}" if lost else f"journal {parts.queue.durability}"
            tiers["write-behind"] = TierHealth(ok=not lost, detail=detail)
        tiers |= {name: _probe(replica.ping) for name, replica in parts.replicas.opened().items()}
        whole = all(tier.ok for name, tier in tiers.items() if name == "l2" or name.startswith("replica"))
        status: Status = "down" if not tiers["l3"].ok else "ok" if whole else "degraded"
        for name, tier in tiers.items():
            self._log_health(name, tier)
        return Health(ok=status == "ok", status=status, tiers=tiers)

    def _look(self) -> None:
        with suppress(UnavailableError):  # closed a moment ago
            self.health()

    def _log_health(self, name: str, tier: TierHealth) -> None:
        subject, state = f"health.{name}", "ok" if tier.ok else "down"
        if tier.ok and not self._states.known(subject):
            self._states.assume(subject, state)
        level = logging.INFO if tier.ok else logging.WARNING
        self._states.change(subject, state, f"the health of {name} is {state}: {tier.detail}", level=level)


#: Statements that ``stats()`` shows.
_TOP = 10

_ALONE = "; other processes' writes are seen when L1's time to live ends"

_layers: weakref.WeakSet[DataLayer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for layer in list(_layers):
        if not layer._closed:
            layer._reset_after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _merged(settings: Settings | None, options: dict[str, Any]) -> Settings:
    if settings is None:
        return Settings.from_mapping(options)
    return settings.replace(**options) if options else settings


def _probe(ping: Callable[[], float]) -> TierHealth:
    try:
        return TierHealth(ok=True, detail="answers", latency_ms=ping() * 1000)
    except Exception as error:
        return TierHealth(ok=False, detail=type(error).__name__)


def _ping_shared(parts: Parts) -> float:
    began = time.perf_counter()
    if not parts.l2.ping():
        raise UnavailableError("Redis does not answer")
    return time.perf_counter() - began


def explained(model: type[Any], reasons: tuple[str, ...]) -> str:
    if not reasons:
        return f"{model.__name__} is cached"
    return f"{model.__name__} is not cached: " + "; ".join(reasons)


def explain(model: type[Any]) -> str:
    """Whether a mapped class can be cached at all and, if not, every reason why (a layer may add its own)."""
    from .repository import mapper_of

    return explained(model, schema_of(mapper_of(model)).reasons)
