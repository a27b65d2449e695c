"""Every value that an operator or an application can turn, in one flat immutable object."""

# ruff: noqa: RUF009 -- the calls make descriptors, which are shared by all instances on purpose

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, Self

from ..contracts.cipher import KeyProvider
from ..contracts.clock import Clock
from ..contracts.codec import Codec
from ..contracts.observe import MetricsRecorder
from ..contracts.suggest import hint
from ..errors import ConfigError
from .forget import forgetful, forgetful_constructor
from .kinds import (
    Choice,
    CodecLike,
    Count,
    DatabaseUrl,
    Duration,
    DurationLike,
    Flag,
    Fraction,
    Function,
    Key,
    Keys,
    LoggerLike,
    Names,
    Object,
    Password,
    Path,
    RedisUrl,
    Size,
    SizeLike,
    Text,
)
from .option import Option, maybe, option
from .secret import KeyRing, SecretBytes
from .urls import with_database, with_password

Logger = logging.Logger | logging.LoggerAdapter[Any]

Seconds = Option[DurationLike, float]
MaybeSeconds = Option[DurationLike | None, float | None]
Bytes = Option[SizeLike, int]
MaybeBytes = Option[SizeLike | None, int | None]
Integer = Option[int, int]
MaybeInteger = Option[int | None, int | None]
Number = Option[float, float]
Boolean = Option[bool, bool]
Word = Option[str | Enum, str]
MaybeWord = Option[str | Enum | None, str | None]
String = Option[str, str]
MaybeString = Option[str | None, str | None]
MaybePath = Option[str | os.PathLike[str] | None, str | None]

_L1_TTL = 300.0
_L1_TTL_ALONE = 30.0
_MARK_TRIES = 3

_POSITIVE = Duration()
_OFF = Duration(zero="off")
_UNLIMITED = Duration(zero="unlimited")
_KEY_TEXT = Text(r"[^\s{}*?\[\]\\]{1,200}", "text without blanks and without any of {}*?[]\\")
_TABLE = Text(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?", "the name of a table, optionally schema.table")
_METRICS = Object[MetricsRecorder]("hit", "miss", "latency", "age", "error", "evicted")


@forgetful_constructor
@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """The options of a layer. Immutable, comparable, safe to print and to share between threads.

    Durations are seconds, text such as ``"500ms"``, ``"5m"``, ``"1h30m"``, or a timedelta, and are kept as seconds.
    Sizes are bytes or text such as ``"64MB"``, ``"1MiB"``. Everything is checked when the object is made: ConfigError
    names the option, what was found and what is accepted. ``repr`` shows what differs from the defaults, never a
    password or a key.
    """

    # -- connections

    url: Option[Any, str | None] = maybe(DatabaseUrl())
    """The database. ``postgres://`` and ``postgresql://``, which name no driver, become ``postgresql+psycopg://``."""
    redis: MaybeString = maybe(RedisUrl())
    """The shared cache: ``redis``, ``rediss``, ``unix``, ``redis+sentinel`` or ``redis+cluster``. None: no L2."""
    redis_password: MaybeString = maybe(Password())
    """Replaces the password in ``redis``; becomes part of it, and is None afterwards."""
    redis_db: MaybeInteger = maybe(Count())
    """Replaces the logical database in ``redis``; becomes part of it, and is None afterwards."""
    read_replica: Option[Any, str | None] = maybe(DatabaseUrl())
    """A read-only copy of the database, for ``layer.on_replica()`` only: what it says is never cached."""
    lazy_connect: Boolean = option(Flag(), True)
    """True: connect at the first use. False: open ``pool_min`` connections at start, and fail there if that fails."""
    connect_timeout: Seconds = option(_POSITIVE, 5.0)
    """For opening one connection to the database."""
    close_timeout: Seconds = option(_POSITIVE, 10.0)
    """For what ``close()`` may spend on flushing queued writes before it reports what is left."""

    # -- pool of database connections (PostgreSQL)

    pool_size: Integer = option(Count(least=1), 20)
    """Most connections at one time."""
    pool_min: Integer = option(Count(), 2)
    """Connections that are kept although nobody uses them."""
    pool_timeout: Seconds = option(_POSITIVE, 30.0)
    """Waiting for a free connection before PoolTimeout is raised."""
    pool_max_lifetime: Seconds = option(_UNLIMITED, 1800.0)
    """Age at which a connection is replaced. 0: never."""
    pool_max_lifetime_jitter: Seconds = option(_OFF, 60.0)
    """Each connection's age limit is shortened by up to this, so that not all are replaced at once."""
    pool_max_idle: Seconds = option(_UNLIMITED, 600.0)
    """Idle time after which a connection above ``pool_min`` is closed. 0: never."""
    pool_pre_ping: Boolean = option(Flag(), True)
    """Test a pooled connection before it is lent."""
    pool_health_check_period: Seconds = option(_OFF, 30.0)
    """Time between looks at idle connections. 0: no looks."""
    health_check_period: Seconds = option(_OFF, 60.0)
    """Time between looks at the health of the servers, whose changes are logged. 0: only when somebody asks."""
    statement_timeout: Seconds = option(_UNLIMITED, 30.0)
    """For one statement. 0: unlimited."""
    lock_timeout: Seconds = option(_UNLIMITED, 10.0)
    """For waiting for a lock. 0: unlimited."""

    # -- L1, in the process

    l1_ttl: MaybeSeconds = maybe(_POSITIVE)
    """Life of an entry. None: see :meth:`effective_l1_ttl`."""
    l1_max_entries: Integer = option(Count(least=1), 100_000)
    """Most entries of one model, all threads together."""
    l1_max_bytes: MaybeBytes = maybe(Size())
    """Most bytes of one model, estimated. None: only entries are counted."""
    l1_eviction: Word = option(Choice("lru", "lfu", "fifo", "ttl", "clock"), "lru")
    """Who leaves a full cache. ``lru`` is approximated by the CLOCK algorithm, whose hits take no lock."""
    l1_lease: Seconds = option(_POSITIVE, 1.0)
    """L1 is not served after this long without news from other processes: the bound on the age of a ``cached`` read."""
    negative_ttl: Seconds = option(_OFF, 5.0)
    """How long "no such row" is remembered. 0: not at all."""
    ttl_jitter: Number = option(Fraction(most=0.9), 0.1)
    """Fraction by which a life is shortened at random, so that entries made together do not end together."""
    stale_on_error: MaybeSeconds = maybe(_POSITIVE)
    """While the database is away, ``"cached"`` reads of repositories are served from L1 entries that ended up to this
    long ago. None: raise."""

    # -- L2, Redis

    l2_ttl: Seconds = option(_POSITIVE, 1800.0)
    """Life of an entry."""
    key_prefix: String = option(_KEY_TEXT, "dl")
    """What every key begins with: applications that share a Redis need different ones."""
    invalidation_channel: MaybeString = maybe(_KEY_TEXT)
    """Channel on which programs outside the layer announce what they changed, as ``table:key`` or ``table:*``. None:
    :meth:`effective_invalidation_channel` if ``invalidation_patterns`` are given, else nobody listens."""
    invalidation_patterns: Option[Any, tuple[str, ...]] = option(Names(), ())
    """The announcements (``table:*``) on the channel that are heeded. Empty: all."""
    redis_pool_size: Integer = option(Count(least=1), 100)
    """Most connections to Redis at one time."""
    redis_timeout: Seconds = option(_POSITIVE, 0.25)
    """For connecting and for each command."""
    redis_retries: Integer = option(Count(most=1), 1)
    """Repetitions of a failed read. More than one would make a dead Redis slower than no Redis."""
    breaker_failures: Integer = option(Count(least=1), 3)
    """Failures in a row after which Redis, or a database that lets callers wait for a connection, is left alone."""
    breaker_reset: Seconds = option(_POSITIVE, 1.0)
    """For how long it is left alone before the next try."""
    fence_lease: Seconds = option(_POSITIVE, 2.0)
    """How long a process may trust Redis without asking the database: what a writer waits at most if Redis is lost."""
    mark_policy: Word = option(Choice("revoke", "fail", "bounded"), "revoke")
    """What a write does when Redis takes no marks: end the shared cache's epoch and wait, at most one ``fence_lease``,
    until nobody reads from it; raise L2UnavailableError; or end it without waiting."""
    max_value_bytes: Bytes = option(Size(), 1 << 20)
    """A greater entry is not cached, and not believed when it is found."""
    codec: Option[str | Codec, str | Codec] = option(CodecLike[Any]("msgpack", "json"), "msgpack")
    """How entries are encoded: ``"msgpack"``, ``"json"`` (readable when debugging) or a codec."""
    l2_mac_key: Option[bytes | None, SecretBytes | None] = maybe(Key(size=16))
    """Signs entries, so that who can write to Redis cannot forge a row. 16 bytes or more."""

    # -- writes

    write_mode: Word = option(Choice("through", "through_l1_lazy", "behind"), "through")
    """When a write is acknowledged, for models that do not say."""
    write_behind_flush_interval: Seconds = option(_POSITIVE, 0.5)
    """Time between flushes of the journal."""
    write_behind_flush_threshold: Integer = option(Count(least=1), 100)
    """Queued writes that start a flush early."""
    write_behind_max_retry: Integer = option(Count(), 5)
    """Repetitions of a failed write before it goes to the dead letters."""
    write_behind_max_backlog: Integer = option(Count(least=1), 100_000)
    """Queued writes above which a call writes through."""
    journal: MaybeWord = maybe(Choice("redis", "file", "memory"))
    """Where acknowledged writes wait. None: ``redis`` if that Redis is safe for it, else ``file``."""
    journal_path: MaybePath = maybe(Path())
    """The directory of the ``file`` journal."""
    journal_allow_unsafe: Boolean = option(Flag(), False)
    """Accept a Redis journal without append-only file, or with an eviction policy that can drop it."""

    # -- encryption

    encryption_keys: Option[Mapping[str, bytes] | KeyProvider | None, KeyRing] = option(Keys(), None)
    """``{key id: 32 bytes}`` in order: the first encrypts, all decrypt. As text ``k2:base64,k1:base64``. Or an object
    with ``load()``, such as :class:`datalayer.crypto.providers.FileKeys`, which is asked once."""
    allow_plaintext: Boolean = option(Flag(), False)
    """Without a key, store encrypted columns readable instead of refusing their models; with one, accept readable
    values that were stored before, until they are written again."""

    # -- migrations

    auto_migrate: Boolean = option(Flag(), False)
    """Migrate when the layer opens."""
    migrations_directory: MaybePath = maybe(Path())
    """Where the application's own SQL migrations lie."""
    migrations_table: String = option(_TABLE, "schema_migrations")
    """Where applied SQL migrations are recorded."""
    migrations_lock_timeout: Seconds = option(_POSITIVE, 10.0)
    """For each lock of a migration, before it lets others pass and tries again."""

    # -- vectors

    vector_dimensions: Integer = option(Count(least=1, most=16_000), 1536)
    """Length of a vector whose column does not say."""
    vector_index_lists: Integer = option(Count(least=1, most=32_768), 100)
    """Lists of an ivfflat index."""
    vector_similarity_function: Word = option(Choice("cosine", "l2", "inner_product"), "cosine")
    """How near two vectors are."""
    vector_search_threshold: Number = option(Fraction(least=-1.0), 0.7)
    """Least similarity of a result."""

    # -- observation

    slow_query: Seconds = option(_OFF, 1.0)
    """Statements that take longer are slow. 0: none is."""
    slow_query_log: Boolean = option(Flag(), True)
    """Log slow statements, without their arguments."""
    query_stats: Boolean = option(Flag(), True)
    """Count statements and their durations."""
    enable_metrics: Boolean = option(Flag(), True)
    """Report to ``metrics``, if it is given."""
    metrics_interval: Seconds = option(_POSITIVE, 30.0)
    """Time between reports to ``metrics`` of what is told in sums."""
    auto_explain: Boolean = option(Flag(), False)
    """Have PostgreSQL log the plans of slow statements (its ``auto_explain`` module must be allowed)."""
    auto_explain_analyze: Boolean = option(Flag(), True)
    """... with actual row counts."""
    auto_explain_buffers: Boolean = option(Flag(), True)
    """... with buffer usage."""
    auto_explain_timing: Boolean = option(Flag(), True)
    """... with the time of every node."""
    auto_explain_min_duration: Seconds = option(Duration(zero="all statements"), 0.1)
    """... of statements that take longer than this."""

    # -- objects of the application

    clock: Option[Clock | None, Clock | None] = maybe(Object[Clock]("monotonic", "now"))
    """Where time comes from. None: the machine's clocks."""
    metrics: Option[MetricsRecorder | None, MetricsRecorder | None] = maybe(_METRICS)
    """Where measurements go. None: nowhere."""
    logger: Option[Logger | str | None, Logger | None] = maybe(LoggerLike[Any]())
    """Where the process's log lines go while the layer is open, instead of the root logger. None: the loggers under
    ``datalayer``. A name is the logger of that name."""
    cache_scope: Option[Callable[[], str | None] | None, Callable[[], str | None] | None] = maybe(Function[Any]())
    """Names the tenant (or security role) whose rows are seen now, so that tenants never share an entry. For models
    whose policy names no other."""

    def __new__(cls, **given: Any) -> Self:
        """Refuse unknown keywords with a suggestion, where a dataclass would raise TypeError."""
        known = cls.options()
        for name in given:
            if name not in known:
                raise ConfigError(f"Settings: unknown option {name!r}; {hint(name, known)}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        self._join_redis()
        self._check_contradictions()

    def __repr__(self) -> str:
        shown = [
            f"{name}={item.show(getattr(self, name))}"
            for name, item in self.options().items()
            if getattr(self, name) != item.parse(item.default, name)
        ]
        return f"Settings({', '.join(shown)})"

    @classmethod
    def options(cls) -> dict[str, Option[Any, Any]]:
        """Every option by name, in order."""
        return {name: item for name, item in vars(Settings).items() if isinstance(item, Option)}

    @classmethod
    @forgetful
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Settings from ``{name: value}``. An unknown name is a ConfigError with a suggestion."""
        return cls(**{str(name): value for name, value in values.items()})

    @forgetful
    def replace(self, **changes: Any) -> Self:
        """A copy with other values for some options."""
        return replace(self, **changes)

    def effective_l1_ttl(self, *, has_redis: bool, multi_process_db: bool) -> float:
        """Life of an L1 entry in seconds: ``l1_ttl`` if it was set, else 300.

        Else 30 for a database that other processes may write to (``multi_process_db``) and no Redis over which to hear
        of it: there the end of its life is the only thing that ends a stale entry.
        """
        if self.l1_ttl is not None:
            return self.l1_ttl
        return _L1_TTL_ALONE if multi_process_db and not has_redis else _L1_TTL

    def effective_invalidation_channel(self) -> str:
        """``invalidation_channel`` if it was set, else ``<key_prefix>:invalidate``."""
        return self.invalidation_channel or f"{self.key_prefix}:invalidate"

    def _join_redis(self) -> None:
        given = [name for name in ("redis_password", "redis_db") if getattr(self, name) is not None]
        if given and self.redis is None:
            raise ConfigError(f"{given[0]}: given without redis, expected the URL of a Redis beside it")
        if self.redis is not None and self.redis_password is not None:
            object.__setattr__(self, "redis", with_password(self.redis, self.redis_password))
        if self.redis is not None and self.redis_db is not None:
            object.__setattr__(self, "redis", with_database(self.redis, self.redis_db, name="redis_db"))
        for name in given:
            object.__setattr__(self, name, None)

    def _check_contradictions(self) -> None:
        if self.pool_min > self.pool_size:
            raise ConfigError(f"pool_min: found {self.pool_min}, expected at most pool_size, which is {self.pool_size}")
        if self.redis is not None and _MARK_TRIES * self.redis_timeout >= self.fence_lease:
            raise ConfigError(
                f"redis_timeout: found {self.redis_timeout:g} s, expected less than a third of fence_lease, which is "
                f"{self.fence_lease:g} s: a writer tries {_MARK_TRIES} times before it gives Redis up"
            )
        if self.journal == "redis" and self.redis is None:
            raise ConfigError("journal: found 'redis' without a Redis, expected redis to be set, or journal='file'")
        if self.cache_scope is not None and self.write_mode == "behind":
            raise ConfigError("write_mode: found 'behind' with cache_scope; a queued row belongs to no scope")
        if self.journal_path is not None and self.journal in ("redis", "memory"):
            raise ConfigError(f"journal_path: given with journal={self.journal!r}, expected journal='file' or no path")


assert len(Settings.options()) == len(fields(Settings))
