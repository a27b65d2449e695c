"""The read-only copies of a layer's database: that of the settings, and those that models name."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from ..crypto.vault import detach

if TYPE_CHECKING:
    from ..tiers.replica import Replica


@dataclass(slots=True)
class Copy:
    """One copy, with what hangs on its engine."""

    replica: Replica
    folder: tempfile.TemporaryDirectory[str] | None
    sealed: bool

    def close(self) -> None:
        self.replica.engine.dispose()
        if self.sealed:
            detach(self.replica.engine.dialect)
        if self.folder is not None:
            self.folder.cleanup()


class Replicas:
    """Thread-safe. ``default`` is the URL of the settings; other copies are opened when they are first asked for."""

    def __init__(self, make: Callable[[str], Copy], default: str | None) -> None:
        self._make = make
        self._default = default
        self._lock = threading.Lock()
        self._copies: dict[str, Copy] = {}
        self.of(default)

    def of(self, url: str | None) -> Replica | None:
        """The copy at ``url``, or that of the settings; None when there is neither."""
        url = url or self._default
        if url is None:
            return None
        with self._lock:
            if url not in self._copies:
                self._copies[url] = self._make(url)
            return self._copies[url].replica

    def opened(self) -> dict[str, Replica]:
        """Those that are in use, by a name that shows no password."""
        with self._lock:
            return {self._name(url): copy.replica for url, copy in self._copies.items()}

    def _name(self, url: str) -> str:
        parsed = make_url(url)
        return "replica" if url == self._default else f"replica {parsed.host or ''}/{parsed.database or ''}"

    def close(self) -> None:
        for copy in self._copies.values():
            copy.close()

    def reset_after_fork(self) -> None:
        """In the child: the parent's connections stay the parent's."""
        self._lock = threading.Lock()
        for copy in self._copies.values():
            copy.replica.reset_after_fork()
