"""What keeps fills right and loads few: one load for all who miss a key at once, and no fill that overtakes a write.

Whoever means to fill a key takes a *ticket* before he reads. A write makes the tickets of its keys void when it begins
and again when it has ended, and keeps fills of its keys out in between: a fill whose ticket is void may hold what was
there before the write, and is dropped. A load under way is left by newcomers at the same two moments.

Tickets and locks belong to stripes of keys, so some are void without need; that costs a later miss and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

_STRIPES = 256


class _Flight(Generic[T]):
    __slots__ = ("done", "failed", "result")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.failed = True  # until it has succeeded
        self.result: T | None = None


class Flights(Generic[T]):
    """The loads under way, by key, and the tickets. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, _Flight[T]] = {}
        self._stripes = [threading.RLock() for _ in range(_STRIPES)]
        self._writes = [0] * _STRIPES

    def load(self, key: str, fetch: Callable[[], T]) -> T:
        """The result of ``fetch()``, or of the one for this key that somebody else has begun.

        A fetch that raises does so in its own thread only; who waited for it fetches for himself.
        """
        with self._lock:
            flight = self._open.get(key)
            if flight is None:
                mine = self._open[key] = _Flight()
        if flight is None:
            return self._fly(key, mine, fetch)
        flight.done.wait()
        return fetch() if flight.failed else flight.result  # type: ignore[return-value]

    def _fly(self, key: str, flight: _Flight[T], fetch: Callable[[], T]) -> T:
        try:
            result = flight.result = fetch()
            flight.failed = False
            return result
        finally:
            with self._lock:
                if self._open.get(key) is flight:
                    del self._open[key]
            flight.done.set()

    def tickets(self, keys: Iterable[str]) -> dict[str, int]:
        """A ticket for each key, to be taken before anything is read."""
        return {key: self._writes[hash(key) % _STRIPES] for key in keys}

    @contextmanager
    def filling(self, tickets: Mapping[str, int]) -> Iterator[list[str]]:
        """Keep writes of these keys out for a block, and say which of them may still be filled."""
        with self._held(tickets):
            yield [key for key, ticket in tickets.items() if self._writes[hash(key) % _STRIPES] == ticket]

    @contextmanager
    def writing(self, keys: Iterable[str] | None) -> Iterator[None]:
        """Keep other writes and fills of these keys (None: of all) out for a block; void their tickets at both ends."""
        picked = None if keys is None else list(keys)
        with self._held(picked):
            self._void(picked)
            try:
                yield
            finally:
                self._void(picked)

    @contextmanager
    def _held(self, keys: Iterable[str] | None) -> Iterator[None]:
        with ExitStack() as stack:
            for number in _numbers(keys):  # in order, so that no two wait in a circle
                stack.enter_context(self._stripes[number])
            yield

    def _void(self, keys: list[str] | None) -> None:
        with self._lock:
            for number in _numbers(keys):
                self._writes[number] += 1
            for key in list(self._open) if keys is None else keys:
                self._open.pop(key, None)


def _numbers(keys: Iterable[str] | None) -> Iterable[int]:
    return range(_STRIPES) if keys is None else sorted({hash(key) % _STRIPES for key in keys})
