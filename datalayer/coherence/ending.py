"""Writing past a shared tier that cannot be reached: end its epoch, and wait until nobody believes in it any more.

Afterwards the database alone decides the order of writes, until the next epoch begins: its number is larger than that
of the epoch that was ended, and so are all sequence numbers made in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..contracts.fence import Stand, State
from ..errors import L2UnavailableError
from .strict import Strict

_PAUSE = 0.02
_PATIENCE = 5


def usable(authority: Strict, shard: int) -> Stand | None:
    """A stand under which writes may be numbered, or None.

    A lease that ran out because the database cannot be asked is used further: nobody who asks the same database could
    have ended the epoch. Where the network is cut in two, with the database on one side and Redis on the other, a write
    of this process can then lose against an earlier one of the other side.
    """
    authority.start()
    fence = authority.fence
    found = fence.live(shard)
    if found is None:
        try:
            fence.poll()
        except Exception:
            last = fence.stands[shard]
            return last if last.state != State.OFF else None
        found = fence.live(shard)
    return found if found is not None and found.state != State.OFF else None


def still(authority: Strict, shard: int, used: Stand) -> bool:
    """Whether the epoch that a number was made in had not been ended when it was made."""
    fence = authority.fence
    found = fence.live(shard)
    if found is None or found.epoch != used.epoch:
        try:
            fence.poll()
        except Exception:
            return fence.stands[shard].epoch == used.epoch
        found = fence.live(shard)
    return found is not None and found.epoch == used.epoch and found.state != State.OFF


def ended(
    authority: Strict, shard: int, *, may_revoke: bool = True, sleep: Callable[[float], None] = time.sleep
) -> Stand:
    """The shard's stand once its epoch is off and every lease on the one before is over. Database errors come through.

    L2UnavailableError if the epoch may not be ended, or if it cannot be in a few leases' time.
    """
    fence = authority.fence
    deadline = fence.clock() + _PATIENCE * fence.lease
    while True:
        fence.poll()
        found = fence.live(shard)
        if found is not None and found.state == State.OFF and fence.waited(shard, found.epoch):
            return found
        if found is not None and found.state != State.OFF:
            if not may_revoke or fence.storming():
                raise L2UnavailableError(
                    f"shard {shard} of Redis takes no queued writes, and this process may not end its epoch; "
                    "the write is refused, because what is queued there may be newer"
                )
            fence.revoke(shard, found.epoch)
        if fence.clock() > deadline:
            raise L2UnavailableError(
                f"shard {shard} of Redis takes no queued writes, and its epoch did not end in {_PATIENCE} leases"
            )
        sleep(_PAUSE)
