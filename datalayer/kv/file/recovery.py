"""Opening a store: finish what a crash interrupted, throw away what never counted, list the rest.

Every step can be repeated, so that a crash in the middle of a recovery needs nothing but the next one. Damage that no
crash explains is reported, and put out of the way unless the caller only looks.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from ...errors import StoreCorruptError
from ..history import Record
from . import intent, names
from .names import Named
from .record import Reader
from .report import Damage, Report
from .volume import Volume


class Mark(NamedTuple):
    """The newest version of a key that is in quarantine; ``key`` is None if even that could not be read."""

    number: int
    key: bytes | None


@dataclass
class Found:
    """The content of a store's folder. ``marks`` is by the keys' part of a name."""

    report: Report
    chains: dict[bytes, list[Record[None]]] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)
    last: int = 0


class Recovery:
    """One opening of one volume, whose lock is held. With ``repair`` False nothing is changed."""

    def __init__(self, volume: Volume, *, repair: bool = True, new: bool = False) -> None:
        self._volume = volume
        self._new = new
        self._disk = volume.disk
        self._repair = repair
        self.found = Found(Report(volume.path))
        self._report = self.found.report

    def run(self) -> Found:
        if self._repair and not self._new:
            self._sync_after_crash()
        self._finish_commits()
        self._sweep()
        for shard in self._volume.shards():
            self._list(shard)
        self._list_quarantine()
        self._report.keys = len(self.found.chains)
        self._report.files = sum(map(len, self.found.chains.values()))
        return self.found

    def quarantine(self, folder: str, name: str, reason: str, key: bytes | None = None) -> Damage:
        """Report a file below the store's folder and, when repairing, move it out of the way."""
        moved_to = None
        if self._repair:
            moved_to = move_to_quarantine(self._volume, folder, name)
        damage = Damage(f"{folder}/{name}", reason, key, moved_to)
        self._report.damages.append(damage)
        return damage

    # -- commits -------------------------------------------------------------------------------------------------------

    def _finish_commits(self) -> None:
        for name in sorted(self._disk.list_dir(self._volume.at("intents"))):
            try:
                moves = intent.decode(self._volume.read(self._volume.at("intents", name)))
            except StoreCorruptError as error:
                self.quarantine("intents", name, str(error))
                continue
            self._check_moves(name, moves)
            if self._repair:
                finish(self._volume, name, moves)
                self._report.finished += 1

    def _check_moves(self, name: str, moves: list[intent.Move]) -> None:
        for move in moves:
            places = (self._volume.at("tmp", move.temp), self._volume.at("data", move.shard, move.name))
            if not any(map(self._disk.exists, places)):
                reason = f"commit {name} lists it, but it is neither there nor waiting in tmp"
                self._report.damages.append(Damage(f"data/{move.shard}/{move.name}", reason))

    def _sweep(self) -> None:
        """Remove what was being written. Commits are finished by now, so none of it is needed."""
        if self._repair:
            left = self._disk.list_dir(self._volume.at("tmp"))
            stuck = self._volume.remove_all(self._volume.at("tmp", name) for name in left)
            self._report.swept = len(left) - len(stuck)

    def _sync_after_crash(self) -> None:
        """A process that was killed may have renamed without syncing. What we show or build upon must be safe first.

        The mark of an orderly end needs no sync of its own: after a power cut everything that is there is safe.
        """
        clean = self._volume.at("CLEAN")
        if self._disk.exists(clean):
            self._disk.remove(clean)
            return
        self._volume.sync_dir(self._volume.path)
        for folder in ("intents", "data", *(f"data/{shard}" for shard in self._volume.shards())):
            self._volume.sync_dir(self._volume.at(folder))

    # -- versions ------------------------------------------------------------------------------------------------------

    def _list(self, shard: str) -> None:
        folder = f"data/{shard}"
        groups: defaultdict[str, list[Named]] = defaultdict(list)
        for name in self._disk.list_dir(self._volume.at(folder)):
            named = names.parse(name)
            if named is None:
                self.quarantine(folder, name, "not the name of a version")
                continue
            groups[named.stem].append(named)
        for stem, versions in groups.items():
            self._take(shard, stem, versions)

    def _take(self, shard: str, stem: str, versions: list[Named]) -> None:
        folder = f"data/{shard}"
        key = self._key(folder, stem, versions)
        if key is None or names.shard(key) != shard:
            reason = "its key cannot be read" if key is None else f"its place is data/{names.shard(key)}"
            for named in versions:
                self.quarantine(folder, _name(stem, named), reason, key)
            return
        self.found.chains[key] = [named.record() for named in versions]
        self.found.last = max(self.found.last, max(named.number for named in versions))

    def _key(self, folder: str, stem: str, versions: list[Named]) -> bytes | None:
        with contextlib.suppress(ValueError):
            key = names.key_of(stem)
            if key is not None:
                return key if names.stem(key) == stem else None
        return next(filter(None, (self._key_in(folder, stem, named) for named in versions)), None)

    def _key_in(self, folder: str, stem: str, named: Named) -> bytes | None:
        """The key that the file itself names, if that fits the file's name."""
        with contextlib.suppress(StoreCorruptError, FileNotFoundError):
            file = self._disk.open(self._volume.at(folder, _name(stem, named)))
            try:
                key = Reader(self._disk, file).head.key
            finally:
                self._disk.close(file)
            if names.stem(key) == stem:
                return key
        return None

    def _list_quarantine(self) -> None:
        for name in self._disk.list_dir(self._volume.at("quarantine")):
            named = names.parse(name)
            if named is None:
                continue
            self.found.last = max(self.found.last, named.number)
            mark = self.found.marks.get(named.stem)
            if mark is None or mark.number < named.number:
                key = self._key("quarantine", named.stem, [named])
                self.found.marks[named.stem] = Mark(named.number, key)


def finish(volume: Volume, name: str, moves: list[intent.Move]) -> None:
    """Do what is left of a commit whose list is safe."""
    for move in moves:
        volume.make_shard(move.shard)
        with contextlib.suppress(FileNotFoundError):  # moved before the crash
            volume.disk.rename(volume.at("tmp", move.temp), volume.at("data", move.shard, move.name))
    for shard in sorted({move.shard for move in moves}):
        volume.sync_dir(volume.at("data", shard))
    volume.disk.remove(volume.at("intents", name))
    # Found again after these versions were pruned, the list would name files that are rightly gone.
    volume.sync_dir(volume.at("intents"))


def move_to_quarantine(volume: Volume, folder: str, name: str) -> str | None:
    """Put a file where nobody takes it for a version; returns its new place, or None if it could not be moved."""
    try:
        volume.disk.rename(volume.at(folder, name), volume.at("quarantine", name))
    except OSError:
        return None
    return f"quarantine/{name}"


def _name(stem: str, named: Named) -> str:
    return f"{stem}.{named.number:x}.{'v' if named.live else 'd'}{named.moment:x}"
