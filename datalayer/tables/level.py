"""One layer of several: its provider, what it may keep for how long, and whether it can be reached."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ..contracts.provider import Adding, Expiring, Provider
from ..errors import ConfigError, UnavailableError
from .checks import check_ttl
from .store import Store, StoreProvider

R = TypeVar("R")

log = logging.getLogger("datalayer.tables")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer with options. ``ttl`` in seconds bounds the life of what this layer keeps, whatever a write says.

    ``pause`` in seconds is how long reads leave a layer above the lowest alone once it could not be reached, so that a
    dead server does not cost every read its timeout.
    """

    name: str
    provider: Provider | Store
    ttl: float | None = None
    pause: float = 1.0


class Level:
    """One layer as ``Layers`` uses it. Thread-safe."""

    def __init__(self, layer: Layer | tuple[str, Provider | Store]) -> None:
        layer = layer if isinstance(layer, Layer) else Layer(name=layer[0], provider=layer[1])
        self.name, self.ttl = layer.name, check_ttl(layer.ttl)
        self.provider = _provider(layer)
        self._expiring = self.provider if isinstance(self.provider, Expiring) else None
        self._adding = self.provider if isinstance(self.provider, Adding) else None
        self._pause = layer.pause
        self._resume_at: float | None = None  # written without a lock: at worst two threads try again, or log, at once

    def life(self, ttl: float | None) -> float | None:
        """What a value that has ``ttl`` seconds left gets here."""
        return self.ttl if ttl is None else ttl if self.ttl is None else min(ttl, self.ttl)

    def lives(self, keys: Iterable[str]) -> Iterator[tuple[float | None, list[str]]]:
        """Keys with what they have left, those of about the same in one group with its shortest; None is no end.

        A value may leave the layer above before its time, but never after it. A level that cannot say how long values
        have left passes them on without an end.
        """
        if self._expiring is None:
            yield None, list(keys)
        else:
            yield from _grouped(self._expiring.ttl_many(keys))

    def fill(self, items: Mapping[str, bytes], ttl: float | None) -> None:
        """Keep values that a lower level has, but not in place of any that came here meanwhile."""
        life = self.life(ttl)
        if self._adding is None:
            self.provider.set_many(items, life)
        elif len(items) == 1:
            self._adding.add(*next(iter(items.items())), life)
        else:
            self._adding.add_many(items, life)

    def tried(self, call: Callable[[], R], otherwise: R, on_error: Callable[[str, str], None]) -> R:
        """What the call returns, or ``otherwise`` if the level cannot be reached, or could not a moment ago."""
        resume_at = self._resume_at
        if resume_at is not None and time.monotonic() < resume_at:
            return otherwise
        try:
            found = call()
        except UnavailableError as error:
            self._resume_at = time.monotonic() + self._pause * (0.75 + 0.5 * random.random())
            on_error(self.name, type(error).__name__)
            if resume_at is None:
                log.warning("layer %s cannot be reached and is passed over: %s", self.name, error)
            return otherwise
        if resume_at is not None:
            self._resume_at = None
            log.warning("layer %s answers again", self.name)
        return found


def _provider(layer: Layer) -> Provider:
    if not isinstance(layer.name, str) or not layer.name:
        raise ConfigError(f"a layer's name is {layer.name!r}; expected a text such as 'L1'")
    if isinstance(layer.provider, Provider):
        return layer.provider
    if isinstance(layer.provider, Store):
        return StoreProvider(layer.provider)
    raise ConfigError(f"layer {layer.name} is a {type(layer.provider).__name__}; expected a provider or a store")


def _grouped(left: Mapping[str, float]) -> Iterator[tuple[float | None, list[str]]]:
    groups: dict[float, list[str]] = {}
    for key, seconds in left.items():
        if seconds > 0:
            groups.setdefault(math.inf if seconds == math.inf else math.frexp(seconds)[1], []).append(key)
    for size, keys in groups.items():
        yield (None if size == math.inf else min(left[key] for key in keys)), keys
