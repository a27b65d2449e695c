"""From settings to parts: the only module that names every implementation."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from .codecs.entry import EntryCodec
from .codecs.registry import codec_named
from .coherence.flights import Flights
from .coherence.guard import Guard
from .coherence.ledger import Ledger
from .coherence.local import Coherence
from .coherence.loose import Loose
from .coherence.notices import Notices
from .coherence.strict import Strict
from .coherence.touched import home, table_tag, vague_tag, value_tag
from .config.settings import Settings
from .contracts.cipher import RowSealing
from .contracts.clock import Clock, SystemClock
from .contracts.keys import key_text
from .contracts.levels import Levels
from .contracts.observe import MetricsRecorder
from .contracts.results import SharedResults
from .contracts.tier import SharedTier
from .crypto.keyring import Keyring
from .crypto.statements import StatementRules
from .crypto.vault import Vault, attach, detach
from .models.behind import write_mode_of
from .models.policy import CachePolicy, WriteMode
from .models.registry import Registry
from .models.schema import Schema, schema_of
from .models.sealed import row_sealing
from .observe.careful import CarefulRecorder
from .observe.statements import Statements
from .session.caches import Caches
from .session.catalog import Catalog
from .session.images import Imager
from .session.results import Namer, Results
from .session.writes import WriteTracker
from .tiers.breaker import Breaker
from .tiers.engines import open_engine, own_pool, reading_engine, watch_statements
from .tiers.explaining import AutoExplain
from .tiers.failures import Failures
from .tiers.images import images_of
from .tiers.l1 import L1
from .tiers.l3 import row_security
from .tiers.ladder import Ladder
from .tiers.metered import MeteredTier
from .tiers.needs import FOREVER, Lives
from .tiers.null import NullTier
from .tiers.pool import Janitor
from .tiers.replica import Replica
from .tiers.report import Report
from .tiers.stale import Stale
from .tiers.timing import Timing
from .tiers.watchdog import Watchdog
from .tiers.within import Within
from .writes.behind import Backlog, Behind, BehindOptions
from .writes.letters import LetterBox
from .writes.shapes import Shape, Shapes
from .writes.sink import Sink

if TYPE_CHECKING:
    from .tiers.l2.announced import Announcements

log = logging.getLogger("datalayer")


@dataclass(slots=True)
class ReplicaParts:
    """The copy of the database that some reads go to, with what hangs on its engine."""

    replica: Replica
    folder: tempfile.TemporaryDirectory[str] | None
    sealed: bool

    def close(self) -> None:
        self.replica.engine.dispose()
        if self.sealed:
            detach(self.replica.engine.dialect)
        if self.folder is not None:
            self.folder.cleanup()


@dataclass(slots=True)
class Parts:
    """Everything that a layer is made of. ``owned``: the engine is ours to dispose of."""

    engine: sa.Engine
    reading: sa.Engine | None
    owned: bool
    folder: tempfile.TemporaryDirectory[str] | None
    registry: Registry
    coherence: Coherence
    tracker: WriteTracker
    translator: Failures
    janitor: Janitor
    caches: Caches
    l2: SharedTier
    authority: Strict | Loose | None
    watchdog: Watchdog
    clock: Clock
    failures: Counter[str]
    statement_listeners: int = 0
    vault: Vault | None = None
    rules: StatementRules | None = None
    behind: Behind | None = None
    notices: Notices | None = None
    recorder: CarefulRecorder | None = None
    report: Report | None = None
    timing: Timing | None = None
    explaining: AutoExplain | None = None
    replica: ReplicaParts | None = None
    announcements: Announcements | None = None


def build(settings: Settings, engine: sa.Engine | None, models: Any) -> Parts:
    """Make the parts of a layer. Connects to nothing: a server that is away now may be there at the first read."""
    clock: Clock = settings.clock or SystemClock()
    vault = _vault(settings)
    registry = Registry(
        models,
        allow_plaintext=settings.allow_plaintext,
        has_keys=bool(settings.encryption_keys),
        write_mode=settings.write_mode,
        scoped=settings.cache_scope is not None,
    )
    owned, folder = engine is None, None
    if engine is None:
        engine, folder = _open(settings, settings.url)
    explaining = _explaining(settings, engine)
    watchdog = Watchdog(settings.statement_timeout * 1.5 if settings.statement_timeout else 0.0, clock)
    failures: Counter[str] = Counter()
    levels = Levels()
    coherence = Coherence(discover=lambda: discover(), tables=lambda: _table_names(registry))
    reading = None
    if engine.dialect.name == "postgresql" and engine.dialect.driver == "psycopg":
        reading = reading_engine(engine)
        if owned:
            watch_statements(engine, watchdog)
    shared = _shared(settings, clock, failures, coherence, engine if reading is not None else None, watchdog)
    l2: SharedTier = shared.tier if shared is not None else NullTier()
    rules = _encrypting(vault, engine, reading)
    notices = Notices(reading, coherence) if reading is not None else None
    recorder = CarefulRecorder(settings.metrics) if settings.metrics is not None and settings.enable_metrics else None
    catalog = Catalog(lambda: registry.watched)
    tracker = WriteTracker(engine, coherence, catalog, _key_types(registry), behind=registry.behind_tables)
    maker = _LadderMaker(settings, engine, shared, coherence, clock, partial(row_sealing, vault=vault), notices)
    maker.recorder = recorder
    maker.announcements = announcements = _announcements(settings, shared, coherence, lambda: discover())
    caches = Caches(
        engine,
        tracker=tracker,
        forget=coherence.forget,
        levels=levels,
        make=maker,
        member=registry.__contains__,
        row_security=partial(row_security, reading or engine),
        page_secret=partial(_page_secret, settings, engine),
        failures=failures,
        watching=watchdog.watching,
        results=_results(settings, engine, shared, coherence, registry, clock, lambda table: caches.hides_rows(table)),
    )
    discover = _Discovery(registry, caches)
    maker.behind = behind = _behind(settings, engine, shared, registry, caches)
    tracker.imager = imager = Imager(
        caches, partial(images_of, engine=engine, reading=reading), WriteMode(settings.write_mode)
    )
    catalog.listeners += (caches.forget_catalog, imager.forget)
    tracker.install()
    janitor = Janitor([e for e in (engine, reading) if owned and e is not None], settings.pool_health_check_period)
    caches.scoped = settings.cache_scope is not None
    if settings.stale_on_error:
        vouched = shared.authority.bus.vouched if shared and isinstance(shared.authority, Strict) else FOREVER
        caches.stale = Stale(settings.stale_on_error, clock.monotonic, vouched)
    translator = Failures(engine)
    translator.install()
    timing = _timing(settings, engine, reading, recorder)
    heard = len(engine.dispatch.before_cursor_execute)
    if reading is not None:
        make = timing.statement if timing is not None else None
        caches.within = Within(engine, watchdog.watching, own_listeners=heard, make=make)
    return Parts(
        engine,
        reading,
        owned,
        folder,
        registry,
        coherence,
        tracker,
        translator,
        janitor,
        caches,
        l2,
        shared.authority if shared is not None else None,
        watchdog,
        clock,
        failures,
        heard,
        vault,
        rules,
        behind,
        notices,
        recorder,
        Report(recorder, caches.ladders, failures, settings.metrics_interval) if recorder is not None else None,
        timing,
        explaining,
        _replica(settings, engine, coherence, vault, timing, recorder),
        announcements,
    )


def _announcements(
    settings: Settings, shared: _Shared | None, coherence: Coherence, discover: Callable[[], object]
) -> Announcements | None:
    """Who listens to outside programs, if the application has said that there are any."""
    if shared is None or not (settings.invalidation_channel or settings.invalidation_patterns):
        return None
    from .tiers.l2.announced import Announcements

    def models() -> list[Any]:
        discover()
        return coherence.spaces()

    channel, patterns = settings.effective_invalidation_channel(), settings.invalidation_patterns
    return Announcements(shared.wire, channel, patterns, models, coherence.forget)


def _replica(
    settings: Settings,
    primary: sa.Engine,
    coherence: Coherence,
    vault: Vault | None,
    timing: Timing | None,
    recorder: MetricsRecorder | None,
) -> ReplicaParts | None:
    if settings.read_replica is None:
        return None
    engine, folder = _open(settings, settings.read_replica)
    if vault is not None:
        attach(engine.dialect, vault)
        engine.hide_parameters = True
    Failures(engine).install()
    if timing is not None:
        Timing(engine, None, timing.statements, recorder).install()
    return ReplicaParts(Replica(engine, primary, lambda: coherence.finished), folder, sealed=vault is not None)


def _explaining(settings: Settings, engine: sa.Engine) -> AutoExplain | None:
    if not settings.auto_explain:
        return None
    if engine.dialect.name != "postgresql":
        log.warning("auto_explain is set and does nothing: it is PostgreSQL's, this is %s", engine.dialect.name)
        return None
    explaining = AutoExplain(
        engine,
        least=settings.auto_explain_min_duration,
        analyze=settings.auto_explain_analyze,
        buffers=settings.auto_explain_buffers,
        timing=settings.auto_explain_timing,
    )
    explaining.install()
    return explaining


def _timing(
    settings: Settings, engine: sa.Engine, reading: sa.Engine | None, recorder: MetricsRecorder | None
) -> Timing | None:
    """Times statements if anybody wants to know; else there is nothing to pay for."""
    statements = None
    if settings.query_stats or (settings.slow_query and settings.slow_query_log):
        statements = Statements(
            slow=settings.slow_query,
            log_slow=settings.slow_query_log,
            keep=settings.query_stats,
            mysql=engine.dialect.name in ("mysql", "mariadb"),
        )
    if statements is None and recorder is None:
        return None
    timing = Timing(engine, reading, statements, recorder)
    timing.install()
    return timing


def _vault(settings: Settings) -> Vault | None:
    keys = settings.encryption_keys
    if not keys and not settings.allow_plaintext:
        return None
    return Vault(Keyring(keys) if keys else None, accepts_plain=settings.allow_plaintext)


def _encrypting(vault: Vault | None, engine: sa.Engine, reading: sa.Engine | None) -> StatementRules | None:
    """Give the engines their keys; from now on no error of theirs shows parameters."""
    if vault is None:
        return None
    attach(engine.dialect, vault)
    if reading is not None:
        attach(reading.dialect, vault)
    engine.hide_parameters = True
    rules = StatementRules(engine)
    rules.install()
    return rules


def close_vault(parts: Parts) -> None:
    """Take the keys back: an engine that outlives the layer reads and writes no encrypted column."""
    if parts.vault is None or parts.rules is None:
        return
    parts.rules.remove()
    for engine in (parts.engine, parts.reading):
        if engine is not None:
            detach(engine.dialect)


def _open(settings: Settings, url: str | None) -> tuple[sa.Engine, tempfile.TemporaryDirectory[str] | None]:
    return open_engine(
        url or "",
        pool_size=settings.pool_size,
        pool_timeout=settings.pool_timeout,
        pool_max_lifetime=settings.pool_max_lifetime,
        pool_max_lifetime_jitter=settings.pool_max_lifetime_jitter,
        pool_min=settings.pool_min,
        pool_max_idle=settings.pool_max_idle,
        pool_pre_ping=settings.pool_pre_ping,
        connect_timeout=settings.connect_timeout,
        statement_timeout=settings.statement_timeout,
        lock_timeout=settings.lock_timeout,
    )


def _page_secret(settings: Settings, engine: sa.Engine) -> bytes:
    """What signs page cursors: the same in every process with the same configuration, secret if its password is."""
    url = engine.url.render_as_string(hide_password=False)
    return settings.l2_mac_key or hashlib.blake2b(url.encode(), person=b"dl-page-secret").digest()


def _result_secret(settings: Settings, engine: sa.Engine) -> bytes:
    """What names cached results: with encrypted columns, no guess at a value that was asked for can be tried without a
    key; and processes with other rings, which might find other rows, share no results."""
    state = hashlib.blake2b(_page_secret(settings, engine), person=b"dl-result-name")
    for key_id, key in settings.encryption_keys.items():
        state.update(key_id.encode() + b"\0" + key)
    return state.digest()


@dataclass(slots=True)
class _Shared:
    """What a layer with Redis has besides."""

    tier: SharedTier
    results: SharedResults
    authority: Strict | Loose
    overlay: Any
    wire: Any


def _shared(
    settings: Settings,
    clock: Clock,
    failures: Counter[str],
    coherence: Coherence,
    postgres: sa.Engine | None,
    watchdog: Watchdog,
) -> _Shared | None:
    """The shared tier and its authority: the whole protocol on PostgreSQL, the loose one on any other database."""
    if not settings.redis:
        return None
    from .tiers.l2 import (  # redis-py, only where it is used
        RedisBackplane,
        RedisOverlay,
        RedisResults,
        RedisTier,
        Subscriber,
        Wire,
        topology_of,
    )

    wire = Wire(
        topology_of(settings.redis, timeout=settings.redis_timeout, most=settings.redis_pool_size),
        prefix=settings.key_prefix,
        retries=settings.redis_retries,
        breaker=Breaker(settings.breaker_failures, settings.breaker_reset, clock.monotonic),
        on_error=lambda reason: failures.update((reason,)),
    )
    backplane = RedisBackplane(wire, home)
    authority: Strict | Loose
    if postgres is None:
        authority = Loose(backplane, clock.monotonic)
    else:
        authority = Strict(
            Ledger(reading_engine(postgres, size=2), watchdog.watch, watchdog.release),
            backplane,
            Subscriber(wire),
            coherence,
            fence_lease=settings.fence_lease,
            bus_lease=settings.l1_lease,
            policy=settings.mark_policy,
            clock=clock.monotonic,
            settle=coherence.settle,
            label=hashlib.blake2b(settings.key_prefix.encode(), digest_size=2).hexdigest(),
        )
    coherence.remote = authority
    return _Shared(RedisTier(wire, authority), RedisResults(wire, authority, home), authority, RedisOverlay(wire), wire)


def _behind(
    settings: Settings, engine: sa.Engine, shared: _Shared | None, registry: Registry, caches: Caches
) -> Behind | None:
    """The write-behind of a layer; None where a database cannot do it. Starts with its first use."""
    if engine.dialect.name not in ("postgresql", "sqlite"):
        return None

    def shapes() -> Iterator[Shape]:
        for cls in registry.classes():
            mapper = registry.resolve(cls)
            if write_mode_of(mapper, settings.write_mode) is not WriteMode.BEHIND:
                continue
            schema = schema_of(mapper)
            ladder = caches.prospect(schema)
            if ladder is not None:
                yield Shape(schema, ladder, engine.dialect.name)

    authority = shared.authority if shared is not None else None
    found = Shapes(shapes, registry.size)
    flushing = own_pool(engine)
    sink = Sink(flushing, found, caches.tracker.open, LetterBox(), max_retry=settings.write_behind_max_retry)
    options = BehindOptions(
        interval=settings.write_behind_flush_interval,
        threshold=settings.write_behind_flush_threshold,
        max_retry=settings.write_behind_max_retry,
        backlog=settings.write_behind_max_backlog,
        journal=settings.journal,
        path=_journal_path(settings, engine),
        allow_unsafe=settings.journal_allow_unsafe,
        prefix=settings.key_prefix,
        may_revoke=settings.mark_policy != "fail",
    )
    strict = isinstance(authority, Strict)
    return Behind(
        flushing,
        sink,
        found,
        options,
        authority=authority if isinstance(authority, Strict) else None,
        overlay=shared.overlay if shared is not None and strict else None,
        owned=flushing is not engine,
        refusal=None if shared is None or strict else _LOOSE,
    )


_LOOSE = (
    "write-behind with Redis needs PostgreSQL through psycopg, which says which queued write is newer after Redis has "
    "lost its data; leave redis out, or write the models through"
)


def _journal_path(settings: Settings, engine: sa.Engine) -> Path | None:
    """Where the ``file`` journal is: as the settings say, or beside an SQLite database."""
    if settings.journal_path is not None:
        return Path(settings.journal_path)
    database = engine.url.database
    if engine.dialect.name != "sqlite" or not database or database == ":memory:" or database.startswith("file:"):
        return None
    return Path(f"{database}-journals")


def _results(
    settings: Settings,
    engine: sa.Engine,
    shared: _Shared | None,
    coherence: Coherence,
    registry: Registry,
    clock: Clock,
    hides_rows: Callable[[sa.Table], bool],
) -> Results:
    def secured(name: str) -> bool:
        if settings.cache_scope is not None:
            return False
        return any(hides_rows(m.tables[name]) for m in registry.watched if name in m.tables)

    return Results(
        l1=_l1(settings, engine, CachePolicy(), clock),
        tags=coherence.tags,
        namer=Namer(table_tag, vague_tag, value_tag),
        shared=shared.results if shared is not None else None,
        horizon=shared.authority.horizon if shared is not None else FOREVER,
        beside=_beside(settings, shared),
        entries=EntryCodec(mac_key=settings.l2_mac_key, max_bytes=settings.max_value_bytes),
        codec=codec_named(settings.codec),
        secret=partial(_result_secret, settings, engine),
        dialect=engine.dialect,
        known=lambda: registry.watched,
        secured=secured,
        flights=Flights(),
    )


def _l1(settings: Settings, engine: sa.Engine, policy: CachePolicy, clock: Clock) -> L1:
    eviction = policy.l1.eviction
    ttl = settings.effective_l1_ttl(has_redis=bool(settings.redis), multi_process_db=engine.dialect.name != "sqlite")
    return L1(
        max_entries=policy.l1.max_entries or settings.l1_max_entries,
        max_bytes=policy.l1.max_bytes or settings.l1_max_bytes,
        ttl=_first(policy.l1.ttl, ttl),
        eviction=str(getattr(eviction, "value", eviction)) if eviction else settings.l1_eviction,
        jitter=settings.ttl_jitter,
        clock=clock.monotonic,
        linger=settings.stale_on_error or 0.0,
    )


class _Discovery:
    """Makes the ladders of every model known, so that a write of a row that was never read here is told as well."""

    def __init__(self, registry: Registry, caches: Caches) -> None:
        self._registry = registry
        self._caches = caches
        self._seen = -1

    def __call__(self) -> None:
        size = self._registry.size()
        if size != self._seen:
            for mapper in self._registry.usable():
                self._caches.prospect(schema_of(mapper))
            self._seen = size


def _table_names(registry: Registry) -> set[str]:
    return {table.fullname for metadata in registry.watched for table in metadata.tables.values()}


def _key_types(registry: Registry) -> Any:
    """Table name -> Python type of its single primary key column, as mapped classes have it."""
    known: dict[str, type | None] = {}

    def key_type(table: str) -> type | None:
        if table not in known:
            known[table] = _find_key_type(registry, table)
        return known[table]

    return key_type


def _find_key_type(registry: Registry, name: str) -> type | None:
    for metadata in registry.watched:
        table = metadata.tables.get(name)
        if table is not None and len(table.primary_key.columns) == 1:
            try:
                kind = next(iter(table.primary_key.columns)).type.python_type
            except NotImplementedError:
                return None
            return kind if isinstance(kind, type) else None
    return None


class _LadderMaker:
    """Makes the ladder of a root class from the settings and the class's policy, and announces it to coherence."""

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        shared: _Shared | None,
        coherence: Coherence,
        clock: Clock,
        sealing: Callable[[Schema], RowSealing | None],
        notices: Notices | None,
    ) -> None:
        self._settings = settings
        self._l2 = shared.tier if shared is not None else NullTier()
        self._horizon = shared.authority.horizon if shared is not None else FOREVER
        self._beside = _beside(settings, shared)
        self._coherence = coherence
        self._sealing = sealing
        self.behind: Behind | None = None
        self.recorder: MetricsRecorder | None = None
        self.announcements: Announcements | None = None
        self._notices = notices
        self._codec = codec_named(settings.codec)
        self._entries = EntryCodec(mac_key=settings.l2_mac_key, max_bytes=settings.max_value_bytes)
        self._l1 = partial(_l1, settings, engine, clock=clock)

    def __call__(self, schema: Schema) -> Ladder:
        settings, policy = self._settings, schema.policy
        l1 = self._l1(policy=policy)
        ladder = Ladder(
            schema,
            l1=l1,
            lookups=self._l1(policy=policy),
            l2=self._l2_of(schema),
            guard=Guard(l1),
            codec=self._codec,
            entries=self._entries,
            lives=Lives(
                l2=_first(policy.l2.ttl, settings.l2_ttl),
                negative=_first(policy.negative_ttl, settings.negative_ttl),
                use_l1=policy.l1.enabled,
                use_l2=policy.l2.enabled,
                beside=self._beside,
            ),
            key_text=key_text,
            scope=policy.cache_scope or settings.cache_scope,
            prefix=policy.l2.key_prefix,
            horizon=self._horizon,
            flights=Flights(),
            sealing=self._sealing,
            eager=(policy.write_mode or WriteMode(settings.write_mode)) is WriteMode.THROUGH,
        )
        if self.behind is not None and write_mode_of(schema.mapper, settings.write_mode) is WriteMode.BEHIND:
            ladder.overlays.backlog = Backlog(self.behind, ladder.space)
        self._coherence.register(ladder)
        if self.announcements is not None:
            self.announcements.start()
        if policy.external_writes and self._notices is not None:
            self._notices.watch(schema.space, schema.key_types)
        return ladder

    def _l2_of(self, schema: Schema) -> SharedTier:
        if self.recorder is None or not self._l2.enabled:
            return self._l2
        life = _first(schema.policy.l2.ttl, self._settings.l2_ttl)
        return MeteredTier(self._l2, self.recorder, schema.root.__name__, life)


def _beside(settings: Settings, shared: _Shared | None) -> float | None:
    """How long L1 serves what was read without a look at other processes' marks; None where nobody marks."""
    return settings.l1_lease if shared is not None and shared.authority.strict else None


def _first(own: Any, default: float) -> float:
    return float(default if own is None else own)
