"""``Measured``: a provider whose hits, misses, latencies and errors are told to a recorder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..contracts.observe import MetricsRecorder
from ..contracts.provider import Provider
from .wrapper import Wrapper


class Measured(Wrapper):
    """Reports each call as tier ``name``; ``model`` is the ``group`` of a key, by default what stands before its last
    colon: with tables, their name. Seconds are wall time around the inner provider. Adds about two microseconds."""

    def __init__(
        self, inner: Provider, recorder: MetricsRecorder, *, name: str, group: Callable[[str], str] | None = None
    ) -> None:
        super().__init__(inner)
        self._recorder, self._name = recorder, name
        self._group = group or (lambda key: key.rpartition(":")[0].rpartition(":")[2])

    def get(self, key: str) -> bytes | None:
        found: bytes | None = self._timed("get", lambda: self.inner.get(key))
        (self._recorder.miss if found is None else self._recorder.hit)(self._name, self._group(key))
        return found

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        asked = list(dict.fromkeys(keys))
        found: dict[str, bytes] = self._timed("get_many", lambda: self.inner.get_many(asked))
        self._count(self._recorder.hit, [key for key in asked if key in found])
        self._count(self._recorder.miss, [key for key in asked if key not in found])
        return found

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self._timed("set", lambda: self.inner.set(key, value, ttl))

    def set_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> None:
        self._timed("set_many", lambda: self.inner.set_many(items, ttl))

    def delete(self, key: str) -> bool:
        found: bool = self._timed("delete", lambda: self.inner.delete(key))
        return found

    def delete_many(self, keys: Iterable[str]) -> int:
        count: int = self._timed("delete_many", lambda: self.inner.delete_many(keys))
        return count

    def exists(self, key: str) -> bool:
        found: bool = self._timed("exists", lambda: self.inner.exists(key))
        return found

    def _timed(self, operation: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        try:
            return call()
        except Exception as error:
            self._recorder.error(self._name, type(error).__name__)
            raise
        finally:
            self._recorder.latency(self._name, operation, time.perf_counter() - began)

    def _count(self, report: Callable[[str, str, int], None], keys: list[str]) -> None:
        groups: dict[str, int] = {}
        for key in keys:
            group = self._group(key)
            groups[group] = groups.get(group, 0) + 1
        for group, count in groups.items():
            report(self._name, group, count)
