"""The three ways of a queued write to its journal.

=========  ======================================================  ===================================================
``Local``  no Redis: number, journal, memory of this process       readers of this process see it at once
``Filed``  number from Redis, own file, then the overlay in Redis  all readers see it at once
``Stream`` number, stream and overlay in one step of Redis         all readers see it at once
=========  ======================================================  ===================================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..coherence.ending import still, usable
from ..coherence.strict import Strict
from ..contracts.fence import Refusal, Stand
from ..contracts.journal import (
    MOST_COUNT,
    Appending,
    Draft,
    Entry,
    Journal,
    JournalFailed,
    pack_seq,
    unpack_seq,
)
from ..contracts.pauses import point
from .own import Held
from .stream import StreamJournal

if TYPE_CHECKING:
    from ..tiers.l2.overlay import RedisOverlay

_MOST_DRAFTS = 200


@dataclass(frozen=True, slots=True)
class Queued:
    """A write that its journal has. ``shown``: every reader sees it; if not, it counts once the database has it."""

    entry: Entry
    shard: int
    epoch: bytes
    shown: bool = True


@dataclass(frozen=True, slots=True)
class Unqueued:
    """A write that did not get into its journal. ``certain``: it will not turn up there either."""

    reason: str
    certain: bool = True


Answer = Queued | Unqueued


class Numbers(Protocol):
    """Makes numbers without Redis."""

    def next(self, how_many: int) -> range: ...

    def close(self) -> None: ...


class Route(Protocol):
    """Thread-safe."""

    durability: str

    def send(self, drafts: Sequence[Draft]) -> list[Answer]:
        """Queue some writes; an answer for each, in order."""

    def journals(self) -> list[Journal]:
        """What this process may flush."""

    def clear(self, entries: Iterable[Entry]) -> bool:
        """The database has these: readers need not be told of them any more. False to be called again."""

    def vouches(self, held: Held) -> bool:
        """Whether the shared tier, when it shows nothing for a key, would show this write if it were still queued."""

    def close(self) -> None: ...


class Local:
    """No Redis."""

    def __init__(self, journal: Appending, sequence: Numbers) -> None:
        self._journal = journal
        self._sequence = sequence
        self.durability = journal.durability

    def send(self, drafts: Sequence[Draft]) -> list[Answer]:
        numbers = self._sequence.next(len(drafts))
        point("wb.after_seq")
        entries = [Entry(0, seq, *draft) for seq, draft in zip(numbers, drafts, strict=True)]
        try:
            self._journal.append(entries)
        except JournalFailed as error:
            return [Unqueued(error.reason, error.certain)] * len(drafts)
        return [Queued(entry, 0, b"") for entry in entries]

    def journals(self) -> list[Journal]:
        return [self._journal]

    def clear(self, entries: Iterable[Entry]) -> bool:
        return True

    def vouches(self, held: Held) -> bool:
        return False

    def close(self) -> None:
        self._journal.close()
        self._sequence.close()


class _Shared(ABC):
    """What both ways by Redis have in common. ``base`` is added to every epoch."""

    def __init__(self, overlay: RedisOverlay, authority: Strict, base: int) -> None:
        self._overlay = overlay
        self._authority = authority
        self._base = base

    def send(self, drafts: Sequence[Draft]) -> list[Answer]:
        answers: list[Answer] = [Unqueued("")] * len(drafts)
        by_shard: dict[int, list[int]] = {}
        for i, draft in enumerate(drafts):
            by_shard.setdefault(self._overlay.shard_of(draft.address), []).append(i)
        for shard, places in by_shard.items():
            for at in range(0, len(places), _MOST_DRAFTS):
                part = places[at : at + _MOST_DRAFTS]
                for i, answer in zip(part, self._send(shard, [drafts[i] for i in part]), strict=True):
                    answers[i] = answer
        return answers

    def _send(self, shard: int, drafts: Sequence[Draft]) -> list[Answer]:
        stand = usable(self._authority, shard)
        if stand is None:
            return [Unqueued("Redis has no epoch that could be used now")] * len(drafts)
        answers = self._queue(shard, stand, drafts)
        if any(isinstance(a, Queued) for a in answers) and not still(self._authority, shard, stand):
            # While this process stood still others may have written past Redis: their numbers are larger than ours.
            return [
                Unqueued("the epoch ended meanwhile", certain=False) if isinstance(a, Queued) else a for a in answers
            ]
        return answers

    @abstractmethod
    def _queue(self, shard: int, stand: Stand, drafts: Sequence[Draft]) -> list[Answer]:
        """Queue writes of one shard under a stand."""

    def epoch_of(self, stand: Stand) -> int:
        return self._base + stand.number

    def _refused(self, shard: int, stand: Stand, refusal: Refusal, how_many: int, *, certain: bool) -> list[Answer]:
        if refusal.reason in ("RUN", "EPOCH"):
            self._authority.doubt(shard, stand)
        return [Unqueued(f"Redis refused it ({refusal.reason})", certain)] * how_many

    def clear(self, entries: Iterable[Entry]) -> bool:
        by_shard: dict[int, dict[str, int]] = {}
        for entry in entries:
            address = f"{entry.space}:{entry.name}"
            of = by_shard.setdefault(self._overlay.shard_of(address), {})
            of[address] = max(of.get(address, 0), entry.seq)
        heard = [self._clear(shard, done) for shard, done in by_shard.items()]
        return all(heard)

    def _clear(self, shard: int, done: dict[str, int]) -> bool:
        stand = usable(self._authority, shard)
        if stand is None:
            return True  # an epoch that is over is read by nobody, and the next one begins without overlays
        number = self.epoch_of(stand)
        items = [(a, count if epoch == number else 0) for a, s in done.items() for epoch, count in [unpack_seq(s)]]
        for at in range(0, len(items), 500):
            refusal = self._overlay.clear(shard, stand, items[at : at + 500])
            if refusal is not None:
                self._refused(shard, stand, refusal, 0, certain=True)
                return not still(self._authority, shard, stand)
        return True

    def vouches(self, held: Held) -> bool:
        found = self._authority.stands[held.shard]
        return found.epoch == held.epoch


class Filed(_Shared):
    """The ``file`` journal with Redis: NEXTSEQ, append and fsync, OVERLAY."""

    def __init__(self, journal: Appending, overlay: RedisOverlay, authority: Strict, base: int) -> None:
        super().__init__(overlay, authority, base)
        self._journal = journal
        self.durability = journal.durability

    def _queue(self, shard: int, stand: Stand, drafts: Sequence[Draft]) -> list[Answer]:
        counts = self._overlay.next(shard, stand, len(drafts))
        if isinstance(counts, Refusal):
            return self._refused(shard, stand, counts, len(drafts), certain=True)
        if counts[-1] > MOST_COUNT:
            return [Unqueued("the epoch has used up its numbers")] * len(drafts)
        point("wb.after_seq")
        epoch = self.epoch_of(stand)
        entries = [Entry(0, pack_seq(epoch, count), *draft) for count, draft in zip(counts, drafts, strict=True)]
        try:
            self._journal.append(entries)
        except JournalFailed as error:
            return [Unqueued(error.reason, error.certain)] * len(drafts)
        shown = self._overlay.overlay(shard, stand, entries)
        if isinstance(shown, Refusal):
            self._refused(shard, stand, shown, 0, certain=True)
            shown = [False] * len(entries)
        return [Queued(entry, shard, stand.epoch, yes) for entry, yes in zip(entries, shown, strict=True)]

    def journals(self) -> list[Journal]:
        return [self._journal]

    def close(self) -> None:
        self._journal.close()


class Stream(_Shared):
    """The ``redis`` journal: everything in one step."""

    durability = StreamJournal.durability

    def __init__(self, overlay: RedisOverlay, authority: Strict, base: int, *, prefix: str, most: int) -> None:
        super().__init__(overlay, authority, base)
        self._most = most
        self.streams = [StreamJournal(overlay, shard, prefix) for shard in range(overlay.shards)]

    def _queue(self, shard: int, stand: Stand, drafts: Sequence[Draft]) -> list[Answer]:
        epoch = self.epoch_of(stand)
        counts = self._overlay.enqueue(shard, stand, epoch, drafts, most=self._most)
        if isinstance(counts, Refusal):
            return self._refused(shard, stand, counts, len(drafts), certain=counts.reason != "LOST")
        entries = [Entry(seq, seq, *d) for c, d in zip(counts, drafts, strict=True) for seq in [pack_seq(epoch, c)]]
        return [Queued(entry, shard, stand.epoch) for entry in entries]

    def journals(self) -> list[Journal]:
        return list(self.streams)

    def close(self) -> None:
        """The streams are Redis' own."""
