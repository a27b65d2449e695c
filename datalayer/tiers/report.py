"""Tells a recorder what the tiers have counted: the differences since the last time, every so often.

The hit in L1 is a handful of instructions and gets no other for being measured. Its counters exist already; here they
are read and compared. So hits, misses, evictions and errors arrive in sums, at most one interval late.
"""

from __future__ import annotations

import random
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from ..contracts.observe import MetricsRecorder
from ..observe.rounds import Rounds
from .ladder import Ladder

#: Entries of one model whose age is told at a time.
_SAMPLE = 100


class Report:
    """Reports what the ladders of one layer count. Thread-safe. ``interval`` in seconds.

    ``failures`` are the layer's errors by kind. The age of what L1 served is a sample: of up to 100 entries of each
    model that are held and have been read, as they are at that moment. To know it for every read would make the hit
    path dearer by a look at the clock and a call.
    """

    def __init__(
        self,
        recorder: MetricsRecorder,
        ladders: Callable[[], Iterable[Ladder]],
        failures: Mapping[str, int],
        interval: float,
    ) -> None:
        self._recorder = recorder
        self._ladders = ladders
        self._failures = failures
        self._lock = threading.Lock()
        self._told: weakref.WeakKeyDictionary[Ladder, Counter[tuple[str, str]]] = weakref.WeakKeyDictionary()
        self._told_failures: Counter[str] = Counter()
        self._rounds = Rounds("datalayer-metrics", interval, self.turn)
        self._rounds.start()

    def turn(self) -> None:
        """Report now what has happened since the last time."""
        with self._lock:
            for ladder in self._ladders():
                self._tell(ladder, self._new(ladder))
            failures = Counter(self._failures)
            for kind, count in (failures - self._told_failures).items():
                for _ in range(count):
                    self._recorder.error("layer" if kind == "hook" else "l2", kind)
            self._told_failures = failures

    def _new(self, ladder: Ladder) -> Counter[tuple[str, str]]:
        counted = _counted(ladder)
        told, self._told[ladder] = self._told.get(ladder, Counter()), counted
        return counted - told  # only what grew

    def _tell(self, ladder: Ladder, new: Counter[tuple[str, str]]) -> None:
        recorder, model = self._recorder, ladder.root.__name__
        tellers = {"hit": recorder.hit, "miss": recorder.miss, "evicted": recorder.evicted}
        for (tier, what), count in new.items():
            if what in tellers:
                tellers[what](tier, model, count)
            else:
                for _ in range(count):
                    recorder.error(tier, what)
        for age in _ages(ladder):
            recorder.age("l1", model, age)

    def close(self) -> None:
        """Report for the last time, and stop."""
        self._rounds.close()
        self.turn()

    def reset_after_fork(self) -> None:
        """In the child: what was counted before the fork is the parent's to tell."""
        self._lock = threading.Lock()
        self._told = weakref.WeakKeyDictionary({ladder: _counted(ladder) for ladder in self._ladders()})
        self._told_failures = Counter(self._failures)
        if self._rounds.reset_after_fork():
            self._rounds.start()


def _counted(ladder: Ladder) -> Counter[tuple[str, str]]:
    counts = dict(ladder.counts)
    found = Counter(
        {
            ("l1", "hit"): ladder.l1.hits,
            ("l1", "miss"): counts.get("l1_misses", 0),
            ("l1", "evicted"): ladder.l1.evictions,
            ("l2", "hit"): counts.get("l2_hits", 0),
            ("l2", "miss"): counts.get("l2_misses", 0),
            ("l3", "hit"): counts.get("l3_reads", 0),
        }
    )
    for name, count in counts.items():
        if name.startswith(("decode_", "unencodable_")):
            found["l2", name] = count
    return found


def _ages(ladder: Ladder) -> list[float]:
    l1 = ladder.l1
    with l1.lock:
        entries = list(l1.index.values())
    picked = random.sample(entries, min(_SAMPLE, len(entries)))
    now = l1.clock()
    return [max(0.0, now - entry.born) for entry in picked if entry.hits and entry.deadline > now]
