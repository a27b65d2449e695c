"""Writes down what one process does: one unbuffered ``write(2)`` an event, so that kill -9 loses nothing that happened.

An intention is on disk before COMMIT is sent and an acknowledgement after it has returned, so a checker never knows
less than a reader can have seen.
"""

from __future__ import annotations

import itertools
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from datalayer.testing.histories.events import Event, Kind, Version

Versions = Mapping[str, int | Version]


class Recorder:
    """Appends to one file. Thread-safe, for an event is one system call. ``process``: whose L1 the reads go through."""

    def __init__(self, path: Path, process: str | None = None) -> None:
        self.path = path
        self.process = process or str(os.getpid())
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._unique = secrets.token_hex(4)
        self._count = itertools.count(1)

    now = staticmethod(time.monotonic)

    def attempt(self) -> str:
        """A name for a transaction that no other one has; write it into the rows."""
        return f"{self._unique}.{next(self._count)}"

    def start(self, versions: Versions) -> None:
        """What is there before anybody reads or writes; its attempt is empty."""
        self._note(Kind.START, versions)

    def intend(self, attempt: str, versions: Versions) -> None:
        self._note(Kind.INTEND, versions, attempt)

    def committed(self, attempt: str, versions: Versions) -> None:
        self._note(Kind.COMMITTED, versions, attempt)

    def rolled_back(self, attempt: str, versions: Versions | None = None) -> None:
        self._note(Kind.ROLLED_BACK, versions or {}, attempt)

    def unknown(self, attempt: str, versions: Versions | None = None) -> None:
        self._note(Kind.UNKNOWN, versions or {}, attempt)

    def read(self, key: str, version: int | None, attempt: str | None, began: float, *, level: str) -> None:
        """A row was read between ``began`` and now; version None: there was no such row."""
        text = "-" if version is None else str(version)
        self._write(Event(Kind.READ, self.now(), began, self.process, level, attempt or "", {key: text}))

    def missed(self, key: str, version: int, began: float, *, level: str) -> None:
        """A row was looked for by a value that it had in ``version`` only, and not found."""
        self._write(Event(Kind.READ, self.now(), began, self.process, level, "", {key: f"~{version}"}))

    def final(self, key: str, version: int | None, attempt: str | None) -> None:
        """What the database says when all writers have ended."""
        now, text = self.now(), "-" if version is None else str(version)
        self._write(Event(Kind.FINAL, now, now, self.process, "", attempt or "", {key: text}))

    def wrong(self, rule: str, what: str) -> None:
        """This process has itself seen a promise broken."""
        now = self.now()
        self._write(Event(Kind.WRONG, now, now, self.process, "", rule, {what: "0"}))

    def fault(self, kind: str) -> None:
        now = self.now()
        self._write(Event(Kind.FAULT, now, now, self.process, "", "", {kind: "1"}))

    def count(self, counts: Mapping[str, int]) -> None:
        now = self.now()
        self._write(Event(Kind.COUNT, now, now, self.process, "", "", {k: str(v) for k, v in counts.items()}))

    def _note(self, kind: Kind, versions: Versions, attempt: str = "") -> None:
        now = self.now()
        self._write(Event(kind, now, now, self.process, "", attempt, {key: str(v) for key, v in versions.items()}))

    def _write(self, event: Event) -> None:
        os.write(self._file, event.line())

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
