"""``Layers``: several providers or stores as one, the nearest first.

A read asks one after the other and fills what it found into those above. A write goes to the lowest first, where the
truth is, and then upwards, so that whoever misses a higher layer finds it. Within this process a fill never overtakes
a write (:mod:`.flights`); between processes a fill only adds where there is nothing, where the layer can do that. What
remains: another process that read the lowest layer just before a delete may fill a shared upper layer just after it,
and its own memory does not hear of other processes' writes. Give upper layers a ``ttl``, which bounds both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Self, TypeVar, cast

from ..contracts.observe import MetricsRecorder
from ..contracts.provider import Expiring, Provider, Scannable
from ..errors import ConfigError, UnavailableError
from ..observe.metrics import NullRecorder
from .abilities import with_abilities
from .checks import check_key, check_ttl, check_value
from .flights import Flights
from .forks import renew_after_fork
from .level import Layer, Level
from .store import Store

R = TypeVar("R")

log = logging.getLogger("datalayer.tables")


class Layers:
    """A :class:`~datalayer.contracts.provider.Provider` made of others, from the nearest to the one that has it all.

    Each layer is ``(name, provider)``, ``(name, store)`` or a :class:`Layer`. Also Scannable if all of them are, and
    Expiring if the lowest is. Thread-safe. ``close`` closes them all.

    A layer above the lowest that cannot be reached counts as a miss for reads, with a line in the log at the first time
    and a count in ``recorder``, which also hears of hits and misses by layer. A write that fails in one layer is tried
    in the others all the same, the key is then deleted from the layers where it failed, and the first error is raised:
    readers find the new value or the one before, and a layer that can neither be written nor cleared may keep that.
    """

    def __new__(cls, *layers: Any, **_: Any) -> Self:
        levels = [Level(layer) for layer in layers]
        scans = bool(levels) and all(isinstance(level.provider, Scannable) for level in levels)
        expires = bool(levels) and isinstance(levels[-1].provider, Expiring)
        made: Any = with_abilities(cls, (_Scans,) * scans + (_Expires,) * expires)
        return cast(Self, object.__new__(made))

    def __init__(self, *layers: tuple[str, Provider | Store] | Layer, recorder: MetricsRecorder | None = None) -> None:
        if not layers:
            raise ConfigError('Layers has no layer; expected ("L1", provider), ("persistent", store), ...')
        self._levels: Sequence[Level] = tuple(map(Level, layers))
        self.names = tuple(level.name for level in self._levels)
        if len(set(self.names)) < len(self.names):
            raise ConfigError(f"two layers have one name: {', '.join(self.names)}")
        self._lowest = self._levels[-1]
        self._recorder = recorder or NullRecorder()
        self._flights: Flights[bytes | None] = Flights()
        self._closed = False
        renew_after_fork(self)

    # -- reading ---------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        """The value of the first layer that has one. Concurrent misses of a key ask the layers below the first once."""
        self._open()
        ticket = self._flights.tickets([check_key(key)])
        value = self._asked(self._levels[0], key)
        if value is not None or len(self._levels) == 1:
            return value
        return self._flights.load(key, lambda: self._fetch(key, ticket))

    def _fetch(self, key: str, ticket: dict[str, int]) -> bytes | None:
        for number, level in enumerate(self._levels[1:], start=1):
            value = self._asked(level, key)
            if value is not None:
                self._fill(number, {key: value}, ticket)
                return value
        return None

    def _asked(self, level: Level, key: str) -> bytes | None:
        value = self._read(level, lambda: level.provider.get(key), None)
        (self._recorder.miss if value is None else self._recorder.hit)(level.name, "")
        return value

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """As :meth:`get` for many: each layer is asked once, for what those above it did not have."""
        self._open()
        tickets = self._flights.tickets(check_key(key) for key in keys)
        found: dict[str, bytes] = {}
        for number, level in enumerate(self._levels):
            missing = [key for key in tickets if key not in found]
            if missing:
                here = self._asked_many(level, missing)
                self._fill(number, here, {key: tickets[key] for key in here})
                found |= here
        return found

    def _asked_many(self, level: Level, keys: list[str]) -> dict[str, bytes]:
        here: dict[str, bytes] = self._read(level, lambda: level.provider.get_many(keys), {})
        self._recorder.hit(level.name, "", len(here))
        self._recorder.miss(level.name, "", len(keys) - len(here))
        return here

    def exists(self, key: str) -> bool:
        """Whether any layer has a value; fills nothing."""
        self._open()
        return any(self._read(level, lambda level=level: level.provider.exists(key), False) for level in self._levels)  # type: ignore[misc]

    def _fill(self, number: int, items: Mapping[str, bytes], tickets: Mapping[str, int]) -> None:
        """Fill what level ``number`` had into those above it."""
        if not number or not items:
            return
        source, unknown = self._levels[number], list[tuple[float | None, list[str]]]()
        for life, keys in source.tried(lambda: list(source.lives(items)), unknown, self._recorder.error):
            with self._flights.filling({key: tickets[key] for key in keys}) as valid:
                some = {key: items[key] for key in valid}
                for level in reversed(self._levels[:number] if some else ()):
                    level.tried(partial(level.fill, some, life), None, self._recorder.error)

    # -- writing ---------------------------------------------------------------------------------------------------

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        """Write to every layer, the lowest first."""
        check_value(value, check_key(key)), check_ttl(ttl)
        self._everywhere([key], lambda level: level.provider.set(key, value, level.life(ttl)))

    def set_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> None:
        """Write to every layer, the lowest first: one call to each."""
        check_ttl(ttl)
        for key, value in items.items():
            check_value(value, check_key(key))
        self._everywhere(list(items), lambda level: level.provider.set_many(items, level.life(ttl)))

    def delete(self, key: str) -> bool:
        """Delete from every layer, the lowest first; says whether any of them had it."""
        return any(self._everywhere([check_key(key)], lambda level: level.provider.delete(key)))

    def delete_many(self, keys: Iterable[str]) -> int:
        """Delete from every layer; returns the largest number that one of them had."""
        picked = list(dict.fromkeys(map(check_key, keys)))
        return max(self._everywhere(picked, lambda level: level.provider.delete_many(picked)))

    def _everywhere(self, keys: list[str] | None, write: Callable[[Level], R]) -> list[R]:
        """Write to all levels from the lowest up, whatever happens in one of them; then raise its error."""
        self._open()
        results: list[R] = []
        failed: list[tuple[Level, Exception]] = []
        with self._flights.writing(keys):
            for level in reversed(self._levels):
                try:
                    results.append(write(level))
                except Exception as error:
                    failed.append((level, error))
            for level, _ in failed:
                self._forget(level, keys)
            if failed and failed[0][0] is self._lowest:  # nobody knows what is there: nothing above it may claim to
                for level in self._levels[:-1]:
                    self._forget(level, keys)
        if failed:
            raise failed[0][1]
        return results

    def _forget(self, level: Level, keys: list[str] | None) -> None:
        if keys is not None and level is not self._lowest:
            try:
                level.provider.delete_many(keys)
            except Exception as error:
                log.error("layer %s could be neither written nor cleared of %d keys: %s", level.name, len(keys), error)

    # -- the rest --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close every layer, also when one of them fails; the first error is raised at the end."""
        if self._closed:
            return
        self._closed = True
        errors = []
        for level in self._levels:
            try:
                level.provider.close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def reset_after_fork(self) -> None:
        """In the child: no loads under way, and locks that nobody holds."""
        self._flights = Flights()

    def __repr__(self) -> str:
        return f"<Layers: {', '.join(f'{level.name} {level.provider!r}' for level in self._levels)}>"

    def _open(self) -> None:
        if self._closed:
            raise UnavailableError("these Layers are closed; make others")

    def _read(self, level: Level, call: Callable[[], R], otherwise: R) -> R:
        return call() if level is self._lowest else level.tried(call, otherwise, self._recorder.error)


class _Scans(Layers):
    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys of the lowest layer, which has them all."""
        self._open()
        lowest: Any = self._lowest.provider
        found: Iterator[str] = lowest.keys(prefix)
        return found

    def clear(self, prefix: str = "") -> int:
        """Clear every layer, the lowest first; returns the largest number that one of them forgot."""
        return max(self._everywhere(None, lambda level: _clear(level.provider, prefix)))


class _Expires(Layers):
    def ttl(self, key: str) -> float | None:
        """What the value has left in the lowest layer."""
        self._open()
        lowest: Any = self._lowest.provider
        left: float | None = lowest.ttl(key)
        return left

    def ttl_many(self, keys: Iterable[str]) -> dict[str, float]:
        self._open()
        lowest: Any = self._lowest.provider
        left: dict[str, float] = lowest.ttl_many(keys)
        return left


def _clear(provider: Any, prefix: str) -> int:
    count: int = provider.clear(prefix)
    return count
