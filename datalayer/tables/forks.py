"""Which objects need new locks and sockets in a forked child, and the one hook that gives them."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """Has something that a forked child cannot use: a lock that another thread held, a socket of the parent's."""

    def reset_after_fork(self) -> None: ...


_alive: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_after_fork(thing: Renewable) -> None:
    """Have ``reset_after_fork`` called in every forked child, for as long as the thing lives."""
    _alive.add(thing)


def _renew_all() -> None:
    for thing in list(_alive):
        thing.reset_after_fork()


os.register_at_fork(after_in_child=_renew_all)
