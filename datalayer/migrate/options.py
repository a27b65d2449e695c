"""What a caller may choose about a migration, in one immutable object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from ..errors import ConfigError
from .history import DEFAULT_TABLE

Progress = Callable[[str, int, int], None]
NotNull = Literal["refuse", "multistep"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MigrateOptions:
    """How a migration behaves. All times are in seconds.

    ``lock_timeout``: how long one statement may queue for a table's lock, and so how long it can make others queue.
    ``retries``: how often a step is tried again after that. ``wait``: how long to wait for another migrator.
    ``not_null``: what to do about a NOT NULL column without a server default: ``"refuse"``, or ``"multistep"``: add it
    nullable, fill it with the column's scalar default in batches of at most ``batch_size`` rows, then prove and set it.
    ``extensions``: PostgreSQL extensions that must be there first, besides those that column types show to be needed.
    ``partitions_ahead``: how many partitions after the current one are kept ready. ``alongside_alembic``: add to a
    schema although Alembic has versioned it. ``progress``: called with a text, the rows done and an estimate of all
    rows after each batch. ``table``: where migrations are recorded. ``written``: called with a table's name whenever
    rows of it were filled.
    ``fence_shards``: for how many shards of the shared cache the coherence protocol's tables are made (PostgreSQL).
    """

    lock_timeout: float = 3.0
    retries: int = 10
    wait: float = 120.0
    not_null: NotNull = "refuse"
    batch_size: int = 5000
    extensions: tuple[str, ...] = ()
    partitions_ahead: int = 3
    alongside_alembic: bool = False
    progress: Progress | None = None
    table: str = DEFAULT_TABLE
    written: Callable[[str], None] | None = None
    fence_shards: int = 0

    def __post_init__(self) -> None:
        if self.not_null not in ("refuse", "multistep"):
            raise ConfigError(f'not_null is {self.not_null!r}, expected "refuse" or "multistep"')
        for name in ("lock_timeout", "batch_size"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected more than 0")
        for name in ("retries", "wait", "partitions_ahead", "fence_shards"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected 0 or more")

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """Options from keywords. ConfigError for an unknown name."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(given) - set(known)):
            raise ConfigError(f"migrate: unknown option {unknown[0]!r}; expected one of {', '.join(known)}")
        if "extensions" in given:
            given = {**given, "extensions": tuple(given["extensions"])}
        return cls(**given)
