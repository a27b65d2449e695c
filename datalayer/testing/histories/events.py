"""One line of a history, as a value and as text: a killed process leaves whole lines or nothing.

``<kind> <end> <begin> <process> <level> <attempt> <key>=<version>...``; times in seconds of CLOCK_MONOTONIC, which all
processes of a machine share. A version with ``!`` is one in which the row does not exist, ``-`` says that no row was
found, and ``~7`` that the row was not found under what it had in version 7 only.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote, unquote


class Kind(StrEnum):
    """What happened."""

    START = "S"
    """The state before the history begins."""
    INTEND = "I"
    """A transaction is complete, and COMMIT is about to be sent."""
    COMMITTED = "A"
    """COMMIT has returned."""
    ROLLED_BACK = "X"
    """It will never be committed."""
    UNKNOWN = "U"
    """COMMIT was sent, perhaps; its outcome was not told."""
    READ = "R"
    """A row, or its absence, was read."""
    FINAL = "F"
    """What the database holds when all writers have ended; reads that begin later must say the same."""
    WRONG = "W"
    """A process has seen something wrong by itself; ``attempt`` is the rule, the key says what."""
    COUNT = "C"
    """Counters of a process: names and numbers."""
    FAULT = "E"
    """A fault was injected; the key names it."""


class Version(NamedTuple):
    """A version of a row. ``absent``: the row does not exist in it."""

    number: int
    absent: bool = False

    def __str__(self) -> str:
        return f"{self.number}!" if self.absent else str(self.number)


class Event(NamedTuple):
    """``begin`` and ``end`` are the same but for reads. ``versions`` holds the texts of versions by key."""

    kind: Kind
    end: float
    begin: float
    process: str
    level: str
    attempt: str
    versions: Mapping[str, str]

    def line(self) -> bytes:
        pairs = " ".join(f"{quote(key, safe='')}={version}" for key, version in self.versions.items())
        head = f"{self.kind} {self.end:.6f} {self.begin:.6f} {self.process} {self.level or '-'} {self.attempt or '-'}"
        return f"{head} {pairs}\n".encode()


def parse(line: bytes) -> Event:
    """The event of a line. ValueError for one that is none."""
    kind, end, begin, process, level, attempt, *pairs = line.decode().split()
    versions = {}
    for pair in pairs:
        key, found, version = pair.partition("=")
        if not found:
            raise ValueError(f"{pair!r} in a history's line is no key=version")
        versions[unquote(key)] = version
    level, attempt = ("" if text == "-" else text for text in (level, attempt))
    return Event(Kind(kind), float(end), float(begin), process, level, attempt, versions)


def version_of(text: str) -> Version:
    """The version that an intention names."""
    return Version(int(text.removesuffix("!")), text.endswith("!"))
