"""Write-behind, as a layer has it: made when a model first needs it, so that others do not pay for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ..coherence.strict import Strict
from ..config.settings import Settings
from ..models.behind import write_mode_of
from ..models.policy import WriteMode
from ..models.registry import Registry
from ..models.schema import schema_of
from ..session.caches import Caches
from ..tiers.engines import own_pool
from .shared import Shared

if TYPE_CHECKING:
    from ..writes.behind import Behind
    from ..writes.shapes import Shape


class LazyBehind:
    """The write-behind of a layer. Thread-safe. ``made`` is None until somebody has asked for it."""

    def __init__(self, make: Callable[[], Behind]) -> None:
        self.made: Behind | None = None
        self._make = make
        self._lock = threading.Lock()

    def __call__(self) -> Behind:
        with self._lock:
            if self.made is None:
                self.made = self._make()
            return self.made

    def reset_after_fork(self) -> None:
        self._lock = threading.Lock()
        if self.made is not None:
            self.made.reset_after_fork()


def lazy_behind(
    settings: Settings, engine: sa.Engine, shared: Shared | None, registry: Registry, caches: Caches
) -> LazyBehind | None:
    """The write-behind of a layer; None where a database cannot do it."""
    if engine.dialect.name not in ("postgresql", "sqlite"):
        return None
    return LazyBehind(partial(_make, settings, engine, shared, registry, caches))


def _make(settings: Settings, engine: sa.Engine, shared: Shared | None, registry: Registry, caches: Caches) -> Behind:
    from ..writes.behind import Behind
    from ..writes.letters import LetterBox
    from ..writes.options import BehindOptions
    from ..writes.shapes import Shape, Shapes
    from ..writes.sink import Sink

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
