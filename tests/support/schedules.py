"""Deterministic schedules: actors that stop at named points, processes whose threads the test plays, a clock it moves.

A *process* here is a whole layer with its own L1, leases and ears, but without its threads: the test renews leases,
sends heartbeats and delivers the bus by hand, so that nothing happens by chance.
"""

from __future__ import annotations

import itertools
import select
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import redis

from datalayer import DataLayer
from datalayer.contracts.fence import Message, State
from datalayer.contracts.pauses import POINTS, pause_at
from datalayer.tiers.l2 import scripts

_HERE = threading.local()
_PATIENCE = 20.0


class Deviated(AssertionError):
    """The schedule could not be played: somebody did not come where it was expected."""


class Crashed(BaseException):
    """What an actor that is left behind dies of: nothing of it runs any more."""


class Actor:
    """One thread of control, played point by point."""

    def __init__(self, job: Callable[[], Any], *, cut_off: bool = False) -> None:
        self._job = job
        self.cut_off = cut_off
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._wanted: str | None = None
        self._doomed = self._ended = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._begun = False

    def until(self, name: str) -> Actor:
        """Let it run to the point of this name and stop there."""
        assert name in POINTS or name.startswith("test."), name
        self._wanted = name
        self._resume()
        if self._ended:
            raise Deviated(f"the actor ended before {name}: {self._error!r} {self._result!r}")
        return self

    def go(self) -> None:
        """Let it run by itself; :meth:`rest` waits for its end."""
        self._begun = True
        self._thread.start()

    def rest(self) -> Any:
        if not self._stopped.acquire(timeout=_PATIENCE):
            raise Deviated("the actor does not end")
        return self.finish()

    def finish(self) -> Any:
        """Let it run to its end; returns its result or raises its error."""
        self._wanted = None
        if not self._ended:
            self._resume()
        if self._error is not None:
            raise self._error
        return self._result

    def crash(self) -> None:
        """Kill it where it stands; finally-blocks of the library run, but nothing that it would have sent."""
        self._doomed = True
        self._wanted = None
        self._resume()

    def _resume(self) -> None:
        if not self._begun:
            self._begun = True
            self._thread.start()
        else:
            self._go.release()
        if not self._stopped.acquire(timeout=_PATIENCE):
            raise Deviated(f"the actor is stuck on its way to {self._wanted or 'its end'}")

    def _run(self) -> None:
        _HERE.actor = self
        try:
            self._result = self._job()
        except BaseException as error:
            self._error = error
        self._ended = True
        self._stopped.release()

    def pass_point(self, name: str) -> None:
        if self._doomed:
            raise Crashed
        if name != self._wanted:
            return
        self._stopped.release()
        self._go.acquire()
        if self._doomed:
            raise Crashed


def pass_by(name: str) -> None:
    """A point of the test's own."""
    actor = getattr(_HERE, "actor", None)
    if actor is not None:
        actor.pass_point(name)


def cut_off() -> bool:
    """Whether the actor that runs here is cut off from Redis."""
    return bool(getattr(getattr(_HERE, "actor", None), "cut_off", False))


@contextmanager
def points() -> Iterator[None]:
    """Every point of the protocol stops those actors that are to stop there."""
    with ExitStack() as stack:
        for name in POINTS:
            stack.enter_context(pause_at(name, lambda name=name: pass_by(name)))
        yield


class Clock:
    """Seconds that pass when the test says so, the same for all processes; ``hook`` runs once, at the next look."""

    def __init__(self) -> None:
        self.value = 1000.0
        self.hook: Callable[[], object] | None = None

    def monotonic(self) -> float:
        hook, self.hook = self.hook, None
        if hook is not None:
            hook()
        return self.value

    def now(self) -> datetime:
        return datetime.now(UTC)

    def skip(self, seconds: float) -> None:
        self.value += seconds


class Process:
    """A layer that does by itself only what its callers do."""

    _numbers = itertools.count()

    def __init__(self, layer: DataLayer, clock: Any) -> None:
        self.layer = layer
        self.clock = clock
        self.authority: Any = layer._parts.authority
        self.fence, self.bus = self.authority.fence, self.authority.bus
        self.authority._started = True
        self.authority.marker._sleep = self.authority.sleep = clock.skip
        self.wire: Any = layer._parts.l2._wire  # type: ignore[attr-defined]
        self._ears: list[Any] = []

    @property
    def place(self) -> Any:
        return self.wire.places[0]

    def keep(self) -> None:
        """One turn of the keeper."""
        self.authority._keep()

    def open(self) -> Process:
        """Get the epoch on and settled, and hear the bus."""
        for _ in range(2000):
            self.keep()
            stand = self.fence.stands[0]
            if stand.state == State.ON and stand.settled:
                break
            threading.Event().wait(0.005)
        else:
            raise Deviated(f"the epoch is not opened: {self.fence.stands[0]}")
        self.listen()
        self.beat()
        return self

    def listen(self) -> None:
        for ear in self._ears:
            ear.close()
        self._ears = self.authority._listener.open()
        self.received()

    def received(self) -> list[Message]:
        """What has come over the bus since the last time; nobody has heard it yet."""
        nonce = str(next(self._numbers))
        self.sync()
        self.ask("PUBLISH", self.place.channel, f"sync - 0 {nonce}")
        found: list[Message] = []
        while True:
            if not select.select(self._ears, [], [], _PATIENCE)[0]:
                raise Deviated("the bus is silent")
            for channel, data in self._ears[0].messages():
                message = self.authority._listener.message(channel, data)
                if message.kind == "sync":
                    if message.rest == [nonce]:
                        return found
                elif message is not None:
                    found.append(message)

    def hear(self, messages: Sequence[Message] | None = None) -> None:
        for message in self.received() if messages is None else messages:
            self.bus.hear(message)

    def beat(self) -> None:
        """A heartbeat, and what came before it."""
        self.bus.beat()
        self.hear()

    def sync(self) -> None:
        """What this process has sent without waiting has been executed."""
        self.layer._parts.l2.ping()

    def ask(self, *words: Any) -> Any:
        """A command on this process's own server."""
        from datalayer.tiers.l2.links import pack

        replies = self.wire.ask(self.place, pack(words), 1, urgent=True)
        return None if replies is None else replies[0]

    def close(self) -> None:
        for ear in self._ears:
            ear.close()
        self.layer.close()


@contextmanager
def other_script(name: str, *changes: tuple[str, str]) -> Iterator[None]:
    """A script with some of its text replaced; connections that are made inside the block load it."""
    original, text = scripts.ALL[name], scripts.ALL[name].decode()
    for old, new in changes:
        assert old in text, f"{name} does not contain {old!r}"
        text = text.replace(old, new)
    scripts.ALL[name] = text.encode()
    scripts.SHA[name] = scripts.sha(scripts.ALL[name])
    try:
        yield
    finally:
        scripts.ALL[name] = original
        scripts.SHA[name] = scripts.sha(original)


def lose_header(client: redis.Redis, place: Any) -> None:
    client.delete(place.header)
