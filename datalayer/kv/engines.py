"""Engines by name: how a store is opened by somebody who knows no class of ours, as settings do.

An engine of your own is an object with a ``name`` and ``open(name, **options)``; ``register`` it once.
"""

from __future__ import annotations

import difflib
import inspect
import threading
from collections.abc import Callable
from typing import Any

from ..contracts.store import Engine, Store
from ..errors import AlreadyExistsError, ConfigError


class StoreEngine:
    """An engine made of a function that takes options and returns a store."""

    def __init__(self, name: str, make: Callable[..., Store]) -> None:
        self.name = name
        self._make = make
        self._options = [p.name for p in inspect.signature(make).parameters.values() if p.name != "name"]

    def open(self, name: str, **options: Any) -> Store:
        for option in options:
            if option not in self._options:
                near = difflib.get_close_matches(option, self._options, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; expected one of {', '.join(self._options)}"
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
            near = difflib.get_close_matches(name, self._engines, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"engine: found {name!r}, expected one of {', '.join(self.names())}{hint}")
        return found

    def open(self, engine: str, name: str, **options: Any) -> Store:
        """A new store of that engine; the caller closes it."""
        return self.engine(engine).open(name, **options)

    def names(self) -> list[str]:
        return sorted(self._engines)

    def __repr__(self) -> str:
        return f"<engines {', '.join(self.names())}>"
