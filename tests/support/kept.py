"""A key/value store in a dict, with lives: what a table's provider needs of a store, and no more."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator


class Kept:
    """Thread-safe. ``closed`` says whether somebody has closed it."""

    def __init__(self) -> None:
        self.values: dict[bytes, tuple[bytes, float]] = {}
        self.closed = False
        self._lock = threading.Lock()

    def put(self, key: bytes, value: bytes, ttl: float | None = None) -> None:
        with self._lock:
            self.values[key] = value, math.inf if ttl is None else time.monotonic() + ttl

    def get(self, key: bytes) -> bytes | None:
        value, end = self.values.get(key, (None, math.inf))
        return value if end > time.monotonic() else None

    def delete(self, key: bytes) -> bool:
        with self._lock:
            _, end = self.values.pop(key, (b"", 0.0))
            return end > time.monotonic()

    def exists(self, key: bytes) -> bool:
        return self.get(key) is not None

    def ttl(self, key: bytes) -> float | None:
        _, end = self.values.get(key, (b"", 0.0))
        return end - time.monotonic() if end > time.monotonic() else None

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with self._lock:
            keys = sorted(key for key in self.values if key.startswith(prefix))
        for key in keys:
            value = self.get(key)
            if value is not None:
                yield key, value

    def close(self) -> None:
        self.closed = True
