"""How one model is cached and written: ``__cache__ = CachePolicy(...)`` in the class, inherited by its subclasses.

Everything that is None is decided by the layer's settings. Durations are seconds or text such as ``"500ms"``, ``"5m"``,
``"1h"`` and are kept as seconds. Unknown names, wrong values and contradictions raise ConfigError at once.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from datalayer.config.units import seconds
from datalayer.config.urls import database_url
from datalayer.contracts.suggest import hint
from datalayer.errors import ConfigError
from datalayer.models.hooks import Hooks
from datalayer.models.options import options

E = TypeVar("E", bound=enum.Enum)
Duration = float | int | str


class WriteMode(enum.Enum):
    """When a write is acknowledged, and which caches it leaves filled."""

    THROUGH = "through"
    """After the commit; the caches are brought up to date."""
    THROUGH_L1_LAZY = "through_l1_lazy"
    """After the commit; L1 is filled by the next read."""
    BEHIND = "behind"
    """Once the journal has it; the database follows in batches."""


class Eviction(enum.Enum):
    """Which entry of a full L1 goes first: least recently used, least often used, oldest, or nearest to its expiry."""

    LRU = "lru"
    LFU = "lfu"
    FIFO = "fifo"
    TTL = "ttl"


@options
class L1Policy:
    """The in-process cache of one model: ``ttl`` in seconds, ``max_entries`` and ``max_bytes`` of this model alone."""

    ttl: Duration | None = None
    max_entries: int | None = None
    max_bytes: int | None = None
    eviction: Eviction | str | None = None
    enabled: bool = True

    def __post_init__(self) -> None:
        _duration(self, "ttl")
        _count(self, "max_entries")
        _count(self, "max_bytes")
        _choice(self, "eviction", Eviction)
        _flag(self, "enabled")
        _useless(self, self.enabled, "ttl", "max_entries", "max_bytes", "eviction")


@options
class L2Policy:
    """The shared cache of one model. ``ttl`` in seconds; ``key_prefix`` replaces the table's name in its keys."""

    ttl: Duration | None = None
    key_prefix: str | None = None
    enabled: bool = True

    def __post_init__(self) -> None:
        _duration(self, "ttl")
        _text(self, "key_prefix")
        _flag(self, "enabled")
        _useless(self, self.enabled, "ttl", "key_prefix")


@dataclass(frozen=True, init=False)
class Index:
    """An extra database index over ``columns`` (attribute names, in order). Without a ``name`` it gets one from the
    table and the columns."""

    columns: tuple[str, ...]
    unique: bool
    name: str | None

    def __init__(self, *columns: str, unique: bool = False, name: str | None = None, **unknown: Any) -> None:
        for option in unknown:
            raise ConfigError(f"Index: unknown option {option!r}; {hint(option, ('unique', 'name'))}")
        if not columns or not all(isinstance(column, str) and column for column in columns):
            raise ConfigError(f"Index: found columns {columns!r}, expected names, as in Index('region', 'score')")
        if len(set(columns)) != len(columns):
            raise ConfigError(f"Index: found columns {columns!r}, expected each column once")
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "unique", unique)
        object.__setattr__(self, "name", name)
        _flag(self, "unique")
        _text(self, "name")


@options
class CachePolicy:
    """Everything about the caching and writing of one model.

    ``enabled``: False keeps its rows out of both caches (writes still invalidate). ``negative_ttl``: seconds for which
    "no such row" is remembered. ``read_replica``: the URL of the copy that ``layer.on_replica(Model)`` reads.
    ``partition_by``: the column PostgreSQL partitions the table by; it must be in the primary key. ``indexes``: extra
    indexes. ``l2_plaintext``: encrypted columns lie readable in L2. ``commit_wait``: writers wait out L1 before they
    commit, so that L1 hits are strict. ``cache_scope``: names the tenant (or security role) whose rows are seen now, so
    that tenants never share a cached row. ``external_writes``: others write the table too, the migration installs
    triggers.
    ``query_tags``: attributes that cached queries ask by; a write then spares those that ask for other values.
    """

    enabled: bool = True
    l1: L1Policy = field(default_factory=L1Policy)
    l2: L2Policy = field(default_factory=L2Policy)
    write_mode: WriteMode | str | None = None
    negative_ttl: Duration | None = None
    read_replica: str | None = field(default=None, repr=False)
    partition_by: str | None = None
    indexes: tuple[Index, ...] = ()
    hooks: Hooks | None = None
    l2_plaintext: bool = False
    commit_wait: bool = False
    cache_scope: Callable[[], str | None] | None = None
    external_writes: bool = False
    query_tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("enabled", "l2_plaintext", "commit_wait", "external_writes"):
            _flag(self, name)
        for name in ("read_replica", "partition_by"):
            _text(self, name)
        if self.read_replica is not None:
            url = database_url(self.read_replica, name="CachePolicy: read_replica")
            object.__setattr__(self, "read_replica", url)
        _duration(self, "negative_ttl")
        _choice(self, "write_mode", WriteMode)
        _instance(self, "l1", L1Policy)
        _instance(self, "l2", L2Policy)
        _check_parts(self)
        _check_contradictions(self)


def _check_parts(policy: CachePolicy) -> None:
    given: Any = policy.indexes
    if not isinstance(given, Iterable) or isinstance(given, str) or not all(isinstance(item, Index) for item in given):
        raise ConfigError(f"CachePolicy: indexes is {given!r}, expected a tuple of Index(...)")
    object.__setattr__(policy, "indexes", tuple(given))
    tags: Any = policy.query_tags
    if not isinstance(tags, tuple | list) or not all(isinstance(name, str) and name for name in tags):
        raise ConfigError(f"CachePolicy: query_tags is {tags!r}, expected a tuple of attribute names")
    object.__setattr__(policy, "query_tags", tuple(tags))
    if policy.hooks is not None:
        _instance(policy, "hooks", Hooks)
    if policy.cache_scope is not None and not callable(policy.cache_scope):
        found = _kind(policy.cache_scope)
        raise ConfigError(f"CachePolicy: cache_scope is {found}, expected a callable without arguments")


def _check_contradictions(policy: CachePolicy) -> None:
    l1, l2 = policy.enabled and policy.l1.enabled, policy.enabled and policy.l2.enabled
    behind = policy.write_mode is WriteMode.BEHIND
    clashes = {
        "commit_wait makes hits in L1 strict, but L1 is switched off": policy.commit_wait and not l1,
        "commit_wait needs the commit before a write returns, write_mode is BEHIND": policy.commit_wait and behind,
        "negative_ttl is set, but both caches are switched off": policy.negative_ttl is not None and not (l1 or l2),
        "l2_plaintext is set, but L2 is switched off": policy.l2_plaintext and not l2,
    }
    for clash, found in clashes.items():
        if found:
            raise ConfigError(f"CachePolicy: {clash}; remove one of the two")


def _duration(owner: Any, name: str) -> None:
    value = getattr(owner, name)
    if value is None:
        return
    option = f"{type(owner).__name__}.{name}"
    parsed = seconds(value, name=option)
    if parsed <= 0:
        raise ConfigError(f"{option} is {value!r}, expected more than 0; to cache nothing use enabled=False")
    object.__setattr__(owner, name, parsed)


def _count(owner: Any, name: str) -> None:
    value = getattr(owner, name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ConfigError(f"{type(owner).__name__}: {name} is {value!r}, expected a whole number from 1, or None")


def _flag(owner: Any, name: str) -> None:
    value = getattr(owner, name)
    if not isinstance(value, bool):
        raise ConfigError(f"{type(owner).__name__}: {name} is {_kind(value)}, expected True or False")


def _text(owner: Any, name: str) -> None:
    value = getattr(owner, name)
    # The value stays out of the message: a replica's URL holds a password.
    if value is not None and (not isinstance(value, str) or not value):
        raise ConfigError(f"{type(owner).__name__}: {name} is {_kind(value)}, expected text that is not empty, or None")


def _instance(owner: Any, name: str, kind: type[Any]) -> None:
    value = getattr(owner, name)
    if not isinstance(value, kind):
        raise ConfigError(f"{type(owner).__name__}: {name} is {_kind(value)}, expected {kind.__name__}(...)")


def _choice(owner: Any, name: str, kind: type[E]) -> None:
    value = getattr(owner, name)
    if value is None or isinstance(value, kind):
        return
    found = next((item for item in kind if isinstance(value, str) and value.lower() == item.value), None)
    if found is None:
        known = hint(str(value), [str(item.value) for item in kind])
        raise ConfigError(f"{type(owner).__name__}: {name} is {value!r}; {known}")
    object.__setattr__(owner, name, found)


def _useless(owner: Any, enabled: bool, *names: str) -> None:
    given = [name for name in names if getattr(owner, name) is not None]
    if given and not enabled:
        raise ConfigError(f"{type(owner).__name__}: {', '.join(given)} given with enabled=False; remove one of the two")


def _kind(value: Any) -> str:
    return "empty" if value == "" else f"a {type(value).__name__}"


_DEFAULT = CachePolicy()


def policy_of(cls: type[Any]) -> CachePolicy:
    """The policy in ``cls.__cache__``, own or inherited, else the default one. ConfigError if it is anything else."""
    found = getattr(cls, "__cache__", None)
    if found is None:
        return _DEFAULT
    if not isinstance(found, CachePolicy):
        raise ConfigError(
            f"{cls.__name__}.__cache__: found {_kind(found)}, expected CachePolicy(...); "
            "to keep the model out of the caches write CachePolicy(enabled=False)"
        )
    return found
