"""One of the processes that all want the same cold rows at the same moment."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack
from typing import Any

from sqlalchemy.orm import Mapped

from datalayer import DataLayer, Model, column
from datalayer.contracts.pauses import pause_at
from datalayer.testing.faults import die_with_parent

THREADS = 16


class Flight(Model):
    __tablename__ = "flight_rows"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


class Interrupted(BaseException):
    """What a leader dies of, as of a KeyboardInterrupt."""


class Trouble:
    """Whoever comes first to the point where the database is asked next has it."""

    def __init__(self, kind: str | None, first: Any) -> None:
        self._kind = kind
        self._first = first

    def __call__(self) -> None:
        if self._kind is None:
            return
        with self._first.get_lock():
            mine, self._first.value = self._first.value == 0, 1
        if mine and self._kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if mine and self._kind == "raise":
            raise Interrupted


def main(url: str, redis: str, prefix: str, keys: list[int], trouble: Any, gate: Any, told: Any) -> None:
    """Read every key from all threads at once; tell how long each read took, and what it got."""
    die_with_parent()
    with DataLayer(url, redis=redis, key_prefix=prefix, models=[Flight], pool_size=20) as layer, ExitStack() as stack:
        rows = layer.repository(Flight)
        while rows.get_one(0).name != "0" or not layer.caches.ladders()[0].counts["l2_hits"]:
            layer.caches.ladders()[0].clear_local()
        found: list[tuple[float, str]] = []

        together = threading.Barrier(THREADS + 1)

        def read() -> None:
            for key in keys:
                together.wait(60)
                began = time.monotonic()
                try:
                    name = rows.get_one(key).name
                except Interrupted:
                    name = "interrupted"
                found.append((time.monotonic() - began, name))

        stack.enter_context(pause_at("read.after_lease", Trouble(*trouble)))
        threads = [threading.Thread(target=read) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for _ in keys:
            while together.n_waiting < THREADS:
                time.sleep(0.001)
            gate.wait(60)  # by this thread alone: who is killed must not be in the middle of it
            together.wait(60)
        for thread in threads:
            thread.join()
        told.put(found)
