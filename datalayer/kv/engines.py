"""Engines by name: how a store is opened by somebody who knows no class of ours, as settings do.

An engine of your own is an object with a ``name``, its ``abilities`` and ``open(name, **options)``; ``register`` it
once.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable
from typing import Any, get_type_hints

from ..contracts.store import Engine, Store, abilities_of
from ..contracts.suggest import did_you_mean
from ..errors import AlreadyExistsError, ConfigError


class StoreEngine:
    """An engine made of a class of stores, or of a function that takes options and returns a store.

    Its abilities are those of the class, or of the class that the function says it returns, unless they are given.
    """

    def __init__(self, name: str, make: Callable[..., Store], *, abilities: Iterable[type] | None = None) -> None:
        self.name = name
        self.abilities = frozenset(abilities) if abilities is not None else abilities_of(_made_by(make))
        self._make = make
        self._options = [p.name for p in inspect.signature(make).parameters.values() if p.name != "name"]

    def open(self, name: str, **options: Any) -> Store:
        for option in options:
            if option not in self._options:
                expected = f"; expected one of {', '.join(self._options)}"
                hint = did_you_mean(option, self._options) or expected
                raise ConfigError(f"engine {self.name!r} has no option {option!r}{hint}")
        return self._make(name=name, **options)

    def __repr__(self) -> str:
        return f"<engine {self.name!r}>"


class Engines:
    """A registry of engines. Thread-safe."""

    def __init__(self, *engines: Engine) -> None:
        self._lock = threading.Lock()
        self._engines = {engine.name: engine for engine in engines}

    def register(self, engine: Engine) -> None:
        """Make the engine known. AlreadyExistsError if its name is."""
        with self._lock:
            if engine.name in self._engines:
                raise AlreadyExistsError(f"engine {engine.name!r} is registered already; give yours another name")
            self._engines[engine.name] = engine

    def engine(self, name: str) -> Engine:
        """The engine of that name; ConfigError if there is none."""
        found = self._engines.get(name)
        if found is None:
            hint = did_you_mean(name, self._engines)
            raise ConfigError(f"engine: found {name!r}, expected one of {', '.join(self.names())}{hint}")
        return found

    def open(self, engine: str, name: str, **options: Any) -> Store:
        """A new store of that engine; the caller closes it."""
        return self.engine(engine).open(name, **options)

    def names(self, *abilities: type) -> list[str]:
        """The names of all engines, or of those whose stores have all of these abilities: ``names(Versioned)``."""
        engines = list(self._engines.values())  # a copy: others may register meanwhile
        return sorted(engine.name for engine in engines if engine.abilities.issuperset(abilities))

    def __repr__(self) -> str:
        return f"<engines {', '.join(self.names())}>"


def _made_by(make: Callable[..., Store]) -> type:
    made = make if isinstance(make, type) else get_type_hints(make).get("return", object)
    return made if isinstance(made, type) else object
