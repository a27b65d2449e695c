"""Says which reads of a history no correct cache could have answered.

Every rule compares a read's version with the least that it may be, known from what had happened before it *began*, or
with the most that it may be, known from what was announced before it *ended*. Nothing is searched, so a history of
millions of events is checked while it grows.

A read that found no row fits any version in which the row does not exist; it then counts as the least of them that is
possible, so a doubt never makes a right history wrong.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from datalayer.testing.histories.events import Event, Kind, version_of
from datalayer.testing.histories.stairs import Stairs


class Rule(StrEnum):
    """What is promised."""

    READ_YOUR_WRITES = "read your writes"
    """A process reads what it has committed before, at every level."""
    UNCOMMITTED = "no uncommitted read"
    """Nobody reads what was rolled back, or two different writers' rows of one version."""
    STALE = "no stale shared read"
    """A ``shared`` (or ``database``) read is not behind any commit that was acknowledged before it began."""
    ORDER = "real-time order"
    """... nor behind any ``shared`` or ``database`` read of any process that had ended before it began."""
    MONOTONIC = "monotonic reads"
    """Within one process no cached or shared read, L1 included, is behind an earlier one."""
    BOUNDED = "bounded staleness"
    """A ``cached`` read is not behind what was acknowledged a lease before it began."""
    FUTURE = "no future value"
    """Nothing is read whose COMMIT had not been begun when the read ended."""
    CONVERGED = "convergence"
    """When all writers have ended, every read says what the database says."""
    LOST_WRITE = "no lost write"
    """What was acknowledged is in the database in the end, each version from one writer."""


#: Levels of reads: a ``listed`` one is what a cached list said, which is bounded but of a time of its own.
_BOUNDED = ("cached", "listed")
_MONOTONIC = ("cached", "shared")


class Anomaly(NamedTuple):
    """A broken promise. ``what`` names the read and what it should have seen."""

    rule: Rule | str
    key: str
    what: str


class _Row:
    """What is known of one key."""

    __slots__ = ("absent", "acked", "announced", "attempts", "by_version", "final", "own", "seen", "strict")

    def __init__(self) -> None:
        self.acked = Stairs()
        self.strict = Stairs()
        self.own: dict[str, Stairs] = defaultdict(Stairs)
        self.seen: dict[str, Stairs] = defaultdict(Stairs)
        self.announced = -1
        self.absent: list[int] = []
        self.attempts: dict[str, int] = {}
        self.by_version: dict[int, tuple[str, bool]] = {}
        self.final: tuple[float, str, str] | None = None

    def least(self, text: str, floor: int) -> int:
        """The least version from ``floor`` on that the observation fits, or the greatest of all below it."""
        if text == "-":
            at = bisect_left(self.absent, floor)
            return self.absent[at] if at < len(self.absent) else self.absent[-1] if self.absent else -1
        if text.startswith("~"):
            other = max(floor, 0)
            return other if other != int(text[1:]) else other + 1 if other < self.announced else other - 1
        return int(text)


class Checker:
    """Takes events in the order of their ends. Not thread-safe.

    ``lease``: the greatest age of a ``cached`` read in seconds. ``most``: how many anomalies are kept in words.
    """

    def __init__(self, *, lease: float, most: int = 50) -> None:
        self.lease = lease
        self.anomalies: list[Anomaly] = []
        self.broken: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.counters: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._most = most
        self._rows: dict[str, _Row] = defaultdict(_Row)
        self._dead: set[str] = set()
        self._read: dict[str, str] = {}

    @property
    def length(self) -> int:
        """How many reads and writes the history has."""
        return self.counts[Kind.READ.name] + self.counts[Kind.COMMITTED.name]

    def feed(self, event: Event) -> None:
        """Judge one event. One that comes late only makes the checker see less."""
        self.counts[event.kind.name] += 1
        match event.kind:
            case Kind.READ:
                self.counts[f"READ {event.level}"] += 1
                self._judge(event)
            case Kind.START | Kind.INTEND:
                self._announced(event)
            case Kind.COMMITTED:
                self._acknowledged(event)
            case Kind.ROLLED_BACK:
                self._rolled_back(event)
            case Kind.FINAL:
                self._ended(event)
            case Kind.WRONG:
                for what in event.versions:
                    self._break(event.attempt, "", f"{event.process}: {what}")
            case Kind.COUNT:
                self.counters.update({name: int(value) for name, value in event.versions.items()})
            case Kind.FAULT:
                self.faults.update(event.versions.keys())

    # -- writes ----------------------------------------------------------------------------------------------------

    def _announced(self, event: Event) -> None:
        for key, text in event.versions.items():
            row, (number, absent) = self._rows[key], version_of(text)
            row.announced = max(row.announced, number)
            row.attempts[event.attempt] = number
            if absent and number not in row.absent[-8:]:
                insort(row.absent, number)
            if event.kind is Kind.START:
                row.acked.climb(float("-inf"), number)

    def _acknowledged(self, event: Event) -> None:
        for key, text in event.versions.items():
            row, (number, absent) = self._rows[key], version_of(text)
            row.acked.climb(event.end, number)
            row.own[event.process].climb(event.end, number)
            self._one_writer(row, key, number, event.attempt, acknowledged=True, absent=absent)

    def _rolled_back(self, event: Event) -> None:
        self._dead.add(event.attempt)
        if event.attempt in self._read:
            self._break(Rule.UNCOMMITTED, "", f"{self._read[event.attempt]}, and its writer rolled back")

    def _one_writer(
        self, row: _Row, key: str, number: int, attempt: str, *, acknowledged: bool, absent: bool = False
    ) -> None:
        """Each version has one writer: whoever was seen or acknowledged first."""
        other, was = row.by_version.setdefault(number, (attempt, acknowledged))
        if other == attempt:
            row.by_version[number] = attempt, was or acknowledged
        elif acknowledged and was:
            self._break(Rule.LOST_WRITE, key, f"version {number} was acknowledged to {other} and to {attempt}")
        else:
            self._break(Rule.UNCOMMITTED, key, f"version {number} is of {other} and of {attempt}")

    def _ended(self, event: Event) -> None:
        for key, text in event.versions.items():
            row = self._rows[key]
            row.final = event.end, text, event.attempt
            most = row.acked.top
            if row.least(text, most) < most:
                self._break(Rule.LOST_WRITE, key, f"{most} was acknowledged, the database has {text}")
            elif text.isdigit():
                self._one_writer(row, key, int(text), event.attempt, acknowledged=False)

    # -- reads -----------------------------------------------------------------------------------------------------

    def _judge(self, event: Event) -> None:
        for key, text in event.versions.items():
            row = self._rows[key]
            floors = dict(self._floors(row, event))
            version = row.least(text, max(floors.values(), default=-1))
            for rule, floor in floors.items():
                if version < floor:
                    self._break(rule, key, f"{_shown(event)} read {text}, at least {floor} was due")
            self._not_too_new(row, key, text, event)
            self._as_the_database(row, key, text, event)
            self._remember(row, event, text, version)

    def _floors(self, row: _Row, event: Event) -> Iterator[tuple[Rule, int]]:
        began = event.begin
        yield Rule.READ_YOUR_WRITES, row.own[event.process].before(began)
        if event.level in _BOUNDED:
            yield Rule.BOUNDED, row.acked.before(began - self.lease)
        else:
            yield Rule.STALE, row.acked.before(began)
            yield Rule.ORDER, row.strict.before(began)
        if event.level in _MONOTONIC:
            yield Rule.MONOTONIC, row.seen[event.process].before(began)

    def _not_too_new(self, row: _Row, key: str, text: str, event: Event) -> None:
        if not text.isdigit():
            return
        number, attempt = int(text), event.attempt
        if attempt in self._dead:
            self._break(Rule.UNCOMMITTED, key, f"{_shown(event)} read {text} of {attempt}, which was rolled back")
        elif row.attempts.get(attempt) != number:
            self._break(Rule.FUTURE, key, f"{_shown(event)} read {text} of {attempt}, whose COMMIT was not begun")
        else:
            self._one_writer(row, key, number, attempt, acknowledged=False)
            if attempt not in self._read:
                self._read[attempt] = f"{_shown(event)} read {text} of {key}"

    def _as_the_database(self, row: _Row, key: str, text: str, event: Event) -> None:
        if row.final is None or event.begin <= row.final[0] + (self.lease if event.level in _BOUNDED else 0.0):
            return
        _, final, attempt = row.final
        agrees = final != text[1:] if text.startswith("~") else (text, event.attempt) == (final, attempt)
        if not agrees:
            self._break(Rule.CONVERGED, key, f"{_shown(event)} read {text}, the database has {final}")

    def _remember(self, row: _Row, event: Event, text: str, version: int) -> None:
        if event.level not in _BOUNDED:
            row.strict.climb(event.end, version)
        if event.level in _MONOTONIC and not text.startswith("~"):  # nobody can know which row was missed
            row.seen[event.process].climb(event.end, version)

    def _break(self, rule: str, key: str, what: str) -> None:
        self.broken[str(rule)] += 1
        if len(self.anomalies) < self._most:
            self.anomalies.append(Anomaly(rule, key, what))


def _shown(event: Event) -> str:
    return f"{event.level} of process {event.process} [{event.begin:.6f}, {event.end:.6f}]"
