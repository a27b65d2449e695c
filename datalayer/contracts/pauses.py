"""Named points of the protocol where a test may stop, kill or fail the one who passes.

``point(name)`` does nothing unless a handler was installed with :func:`pause_at`, which only tests do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: The names that exist: a schedule that waits at another one would wait for ever.
POINTS = frozenset(
    (
        *("read.after_lease_check", "read.after_get", "read.after_lease", "read.after_db", "read.before_l1_put"),
        *("write.after_flush", "write.after_lease_check", "write.after_mark", "write.before_commit"),
        *("write.after_commit", "done.before", "revoke.after", "open.after_init", "open.after_A", "open.before_B"),
        *("poll.after_send", "poll.after_query", "bus.recv", "hb.send"),
        *("wb.after_seq", "wb.after_fsync", "wb.after_overlay", "wb.after_db_commit", "wb.after_clear"),
    )
)

_handlers: dict[str, Callable[[], object]] = {}


def point(name: str) -> None:
    """Pass a point."""
    if _handlers and (handler := _handlers.get(name)) is not None:
        handler()


@contextmanager
def pause_at(name: str, handler: Callable[[], object]) -> Iterator[None]:
    """Whoever passes the point inside the block calls ``handler``. KeyError for a name that is none."""
    if name not in POINTS:
        raise KeyError(f"{name!r} is no point of the protocol; there are {', '.join(sorted(POINTS))}")
    _handlers[name] = handler
    try:
        yield
    finally:
        del _handlers[name]
