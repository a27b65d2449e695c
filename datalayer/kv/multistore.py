"""Several stores under one roof: opened by name, each by the engine that suits it, and closed together."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from ..contracts.store import Store
from ..errors import AlreadyExistsError, ConfigError, NotFoundError, UnavailableError
from .engines import Engines
from .factory import ENGINES


class MultiStore:
    """Stores by name. Thread-safe. It owns what was opened by it or added to it."""

    def __init__(self, *, engines: Engines = ENGINES) -> None:
        self._engines = engines
        self._lock = threading.Lock()
        self._stores: dict[str, Store] = {}
        self._open = True

    @classmethod
    def from_config(cls, stores: Mapping[str, Mapping[str, Any]], *, engines: Engines = ENGINES) -> Self:
        """Open all of ``{name: {"engine": ..., option: ...}}``, as a settings file has it, or none of them.

        ConfigError names the store whose settings are wrong.
        """
        made = cls(engines=engines)
        try:
            for name, options in _checked(stores).items():
                made._open_one(name, dict(options))
        except BaseException:
            made.close()
            raise
        return made

    def open(self, name: str, engine: str = "memory", **options: Any) -> Store:
        """Open a store and keep it. AlreadyExistsError if the name is taken, ConfigError for an unknown engine."""
        with self._lock:
            self._check_free(name)
            store = self._stores[name] = self._engines.open(engine, name, **options)
            return store

    def add(self, name: str, store: Store) -> None:
        """Keep a store that is open already, and own it from now on. AlreadyExistsError if the name is taken."""
        with self._lock:
            self._check_free(name)
            self._stores[name] = store

    def store(self, name: str) -> Store:
        """The store of that name; NotFoundError if there is none."""
        with self._lock:
            return self._found(name)

    def names(self) -> list[str]:
        with self._lock:
            self._check_open()
            return sorted(self._stores)

    def remove(self, name: str) -> None:
        """Close the store and forget it; what it has stored stays where it is."""
        with self._lock:
            store = self._found(name)
            del self._stores[name]
        store.close()

    def close(self) -> None:
        """Close all stores, also when one of them fails; the first error is raised at the end. May be called twice."""
        with self._lock:
            self._open = False
            stores, self._stores = list(self._stores.values()), {}
        errors: list[Exception] = []
        for store in stores:
            try:
                store.close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<MultiStore {', '.join(sorted(self._stores)) or 'empty'}>"

    def _open_one(self, name: str, options: dict[str, Any]) -> None:
        try:
            self.open(name, **options)
        except ConfigError as error:
            raise ConfigError(f"store {name!r}: {error}") from error

    def _found(self, name: str) -> Store:
        self._check_open()
        if name not in self._stores:
            raise NotFoundError(f"there is no store {name!r}; there are {sorted(self._stores) or 'none'}")
        return self._stores[name]

    def _check_free(self, name: str) -> None:
        self._check_open()
        if name in self._stores:
            raise AlreadyExistsError(f"a store {name!r} is open already; remove it first or take another name")

    def _check_open(self) -> None:
        if not self._open:
            raise UnavailableError("the MultiStore is closed; make another one")


def _checked(stores: Any) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(stores, Mapping):
        raise ConfigError(f"stores are a {type(stores).__name__}; expected a mapping of names to their settings")
    for name, options in stores.items():
        if not isinstance(options, Mapping) or not isinstance(options.get("engine"), str):
            raise ConfigError(f"store {name!r} has no engine; expected a mapping such as {{'engine': 'memory'}}")
        if odd := [option for option in options if not isinstance(option, str)]:
            raise ConfigError(f"store {name!r} has an option {odd[0]!r}; expected names")
    return stores
