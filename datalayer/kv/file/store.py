"""The store in files: what it acknowledged survives a power cut, and a wrong bit is never handed out.

Every write is a new file with a number of its own; nothing is ever changed in place. The newest number of a key is its
value. So a crash can lose what was not acknowledged and nothing else, readers need no lock, and old versions cost
nothing but their room.

*One write*: the file is staged (written under ``tmp`` and synced), gets its number, is renamed to its place, and the
folder of that place is synced. Only the last three happen under the lock; threads wait for the disk side by side.

*A commit* of several writes: all are staged and the names in ``tmp`` synced; then a list of the renames is staged and
renamed into ``intents``, and that folder synced. This is the moment at which the commit happens. The renames, syncs and
the removal of the list follow; a crash leaves the list, and the next opening does the rest.

*A crash* therefore leaves: temporary files (removed), lists (finished), old versions that were being removed (kept a
little longer). It never leaves a version that fails its check. One that does so all the same was damaged by something
else: it goes into quarantine, which is logged, told to listeners and noted in :attr:`FileStore.report`, and the version
before it is served; if there is none, StoreCorruptError is raised until the key is written or deleted.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from heapq import merge
from operator import index
from typing import BinaryIO, NamedTuple, SupportsIndex, TypeVar

from ...config.units import refused
from ...contracts.clock import Clock, SystemClock
from ...contracts.store import Buffer, StoreEvent, Version
from ...errors import (
    NotFoundError,
    StoreCorruptError,
    StoreError,
    StoreLockedError,
    TransactionOutcomeUnknown,
    UnavailableError,
)
from ..checks import FOREVER, checked_key, checked_prefix, checked_value, deadline, shown
from ..events import Events
from ..history import History, Record
from ..overlay import OverlayTransaction, Reads, Seen, Stamps, Write
from ..snapshots import SnapshotView
from . import intent, names
from .disk import Disk, RealDisk, UnsyncedDisk
from .record import Head, Reader, encode, pieces_from, pieces_of, value_size
from .recovery import Mark, Recovery, finish, move_to_quarantine
from .report import Damage, Report
from .stream import ValueStream
from .volume import Volume, describe

DAMAGED = ("previous", "raise")
WEEK = 7 * 24 * 3600.0
_COMPACT_AFTER = 1000

_log = logging.getLogger("datalayer.kv")

T = TypeVar("T")


class _Staged(NamedTuple):
    """A version that is safe under a temporary name and has no number yet."""

    temp: str
    key: bytes
    live: bool
    ends: float


class FileStore:
    """A store in a folder of its own, for one process at a time. Thread-safe; reading takes no lock.

    ``keep_versions`` states of each key are kept, the current one included; the history of a deleted or expired key
    goes after ``keep_deleted`` seconds (see :meth:`compact`). ``damaged="raise"`` raises StoreCorruptError where
    ``"previous"`` serves the version before a damaged one. ``sync=False`` acknowledges without waiting for the medium.

    A write costs a new file and two syncs, which is what a disk takes for them. Opening lists the folder and reads no
    file. ``report`` says what the opening found, and collects damage found since.

    Raises StoreLockedError if the store is open elsewhere, in this process too. A forked child must open its own after
    the parent closed its store; writing through the parent's is refused.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str = "file",
        keep_versions: int = 10,
        keep_deleted: float = WEEK,
        damaged: str = "previous",
        sync: bool = True,
        clock: Clock | None = None,
        disk: Disk | None = None,
    ) -> None:
        if keep_versions < 1:
            raise refused("keep_versions", keep_versions, "a number of 1 or more")
        if damaged not in DAMAGED:
            raise refused("damaged", damaged, "'previous' or 'raise'")
        self.name = name
        self._disk = disk or (RealDisk() if sync else UnsyncedDisk())
        self._clock: Clock = clock or SystemClock()
        self._keep_deleted = keep_deleted
        self._serve_previous = damaged == "previous"
        self._events = Events(name)
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._history: History[None] = History(keep_versions)
        self._marks: dict[str, Mark] = {}
        self._stuck: dict[bytes, list[str]] = {}  # old versions whose removal failed
        self._deaths = 0
        self._open = False
        self._volume = Volume(os.path.abspath(path), self._disk, lambda: self._events.tell("read_only"))
        self._lock_file, self.report = self._recover()
        self._open = True

    # -- Store ---------------------------------------------------------------------------------------------------------

    def get(self, key: bytes, version: SupportsIndex | None = None) -> bytes | None:
        self._check_open()
        key = checked_key(key)
        if version is not None:
            return self._get_version(key, index(version))
        return self._read_live(key, lambda: self._history.current(key, self._now()), self._read)

    def put(self, key: bytes, value: Buffer, ttl: float | None = None) -> None:
        key, value = checked_key(key), checked_value(value)
        self._write(key, pieces_of(value), ttl)
        self._events.tell("put", (key,))

    def delete(self, key: bytes) -> bool:
        key = checked_key(key)
        with self._lock:
            self._check_open()
            if self._history.current(key, self._now()) is None and not self._is_marked(key):
                return False
            self._delete(key)
        self._events.tell("delete", (key,))
        return True

    def exists(self, key: bytes) -> bool:
        self._check_open()
        key = checked_key(key)
        found = self._history.current(key, self._now()) is not None
        if not (found and self._serve_previous):
            self._check_unmarked(key)
        return found

    def close(self) -> None:
        with self._lock:
            if not self._open:
                return
            self._open = False
            if self._volume.failure is None and self._pid == os.getpid():
                self._leave_clean()
            self._disk.unlock(self._lock_file)
        self._events.tell("close")

    # -- Scannable, Expiring -------------------------------------------------------------------------------------------

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self._scan(self.known_keys(checked_prefix(prefix)))

    def keys(self, prefix: bytes = b"") -> Iterator[bytes]:
        return (key for key in self.known_keys(checked_prefix(prefix)) if self.exists(key))

    def ttl(self, key: bytes) -> float | None:
        self._check_open()
        now = self._now()
        record = self._history.current(checked_key(key), now)
        return None if record is None else record.deadline - now

    # -- Versioned, Snapshots ------------------------------------------------------------------------------------------

    def versions(self, key: bytes) -> list[Version]:
        """What is kept of the key, oldest first. Reads the header of each file."""
        self._check_open()
        key = checked_key(key)
        versions = (self._describe(key, record) for record in self._history.chain(key))
        return [version for version in versions if version is not None]

    def restore(self, key: bytes, version: SupportsIndex) -> int:
        key, number = checked_key(key), index(version)
        with self._lock:
            self._check_open()
            old = self._find(key, number)
            new = self._copy(key, old) if old.live else self._delete(key)
        self._events.tell("restore", (key,))
        return new

    def snapshot(self) -> SnapshotView:
        with self._lock:
            self._check_open()
            return SnapshotView(self, self._history.pin(), self._history.unpin)

    # -- Streaming -----------------------------------------------------------------------------------------------------

    def put_stream(self, key: bytes, source: BinaryIO, ttl: float | None = None) -> int:
        key = checked_key(key)
        size = 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for piece in pieces_from(source):
                size += len(piece)
                yield piece

        self._write(key, counted(), ttl)
        self._events.tell("put", (key,))
        return size

    def get_stream(self, key: bytes) -> BinaryIO | None:
        self._check_open()
        key = checked_key(key)
        return self._read_live(key, lambda: self._history.current(key, self._now()), self._open_stream)

    # -- Transactional, Observable -------------------------------------------------------------------------------------

    def begin(self) -> OverlayTransaction:
        self._check_open()
        return OverlayTransaction(self)

    def subscribe(self, listener: Callable[[StoreEvent], None]) -> Callable[[], None]:
        return self._events.subscribe(listener)

    # -- what transactions and snapshots stand on ----------------------------------------------------------------------

    def see(self, key: bytes) -> Seen:
        stamp = self.stamp(key)  # before the value: a write in between makes the stamp old, never the value
        return Seen(stamp, self.get(key))

    def see_all(self, prefix: bytes) -> list[tuple[bytes, Seen]]:
        with self._lock:
            stamps = self.stamps(prefix)
            return [(key, Seen(stamp, value)) for key, stamp in stamps if (value := self.get(key)) is not None]

    def stamp(self, key: bytes) -> int:
        record = self._history.current(key, self._now())
        return 0 if record is None else record.number

    def stamps(self, prefix: bytes) -> Stamps:
        with self._lock:
            return tuple((key, number) for key in self.known_keys(prefix) if (number := self.stamp(key)))

    def commit(self, reads: Reads, writes: Mapping[bytes, Write]) -> None:
        """All writes or none, for everybody else at one moment, over a crash too.

        TransactionOutcomeUnknown when the disk fails after the list of the commit was moved to its place: this store
        shows the state before it and takes no more writes; the next opening decides.
        """
        self._check_open()
        staged: list[_Staged] = []
        try:
            with self._translating("stage a commit"):
                for key, write in writes.items():
                    pieces = pieces_of(write.value or b"")
                    staged.append(self._stage(key, pieces, write.ttl, live=write.value is not None))
            with self._lock:
                self._check_open()
                reads.verify(self)
                self._publish_all(self._without_idle_deletions(staged))
        except BaseException:
            if self._volume.failure is None:  # else the list of the commit may still need what it names
                for one in staged:
                    self._volume.discard(one.temp)
            raise
        self._events.tell("commit", writes)

    def get_as_of(self, key: bytes, moment: int) -> bytes | None:
        self._check_open()
        chain = [record for record in self._history.chain(key) if record.number <= moment]
        mark = self._marks.get(names.stem(key)) if self._marks else None
        if not chain and (mark is None or mark.number > moment):
            return None
        return self._read_live(key, lambda: self._history.as_of(key, moment, self._now()), self._read)

    def known_keys(self, prefix: bytes) -> Iterator[bytes]:
        """Keys in order, including those that are deleted but not forgotten, and those whose value is damaged."""
        with self._lock:
            self._check_open()
            keys = self._history.ordered(prefix)
            marked = {mark.key for mark in self._marks.values() if mark.key is not None and mark.key.startswith(prefix)}
            lost = sorted(key for key in marked if not self._history.chain(key))
            return merge(keys, lost) if lost else keys

    # -- upkeep --------------------------------------------------------------------------------------------------------

    def compact(self) -> int:
        """Forget keys that were deleted or expired ``keep_deleted`` seconds ago, with their history; returns how many.

        Happens by itself now and then. Costs a walk over all keys, and the removal of the files.
        """
        with self._lock, self._translating("forget deleted keys"):
            self._check_writable()
            dead = self._history.dead(self._now() - self._keep_deleted)
            self._remove_history(dead)
            self._deaths = 0
            return len(dead)

    @property
    def path(self) -> str:
        return self._volume.path

    @property
    def read_only(self) -> bool:
        """Whether an error of the disk ended all writing until the store is opened again."""
        return self._volume.failure is not None

    def __len__(self) -> int:
        """How many keys are there, deleted and expired ones included until they are forgotten."""
        return len(self._history)

    def __repr__(self) -> str:
        state = "closed" if not self._open else "read-only" if self.read_only else f"{len(self)} keys"
        return f"<FileStore {self.path}: {state}>"

    # -- opening and closing -------------------------------------------------------------------------------------------

    def _recover(self) -> tuple[int, Report]:
        with self._translating("be opened"):
            self._volume.make_root()
            lock = lock_volume(self._volume)
            try:
                new = self._volume.prepare()
                found = Recovery(self._volume, new=new).run()
            except BaseException:
                self._disk.unlock(lock)
                raise
        for key, records in found.chains.items():
            self._history.load(key, records)
        self._history.last = max(self._history.last, found.last)
        self._marks = found.marks
        self._deaths = len(self._history.dead(self._now() - self._keep_deleted))
        for damage in found.report.damages:
            _log.error("store %s is damaged: %s", self._volume.path, damage)
        return lock, found.report

    def _leave_clean(self) -> None:
        with contextlib.suppress(OSError):
            self._disk.close(self._disk.create(self._volume.at("CLEAN")))

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read_live(self, key: bytes, find: Callable[[], Record[None] | None], read: Callable[..., T]) -> T | None:
        """What ``read`` makes of the version that ``find`` finds; of the next one that it finds, if that is damaged.

        A version that is gone when it is opened was pruned after it was found: its successor is there by now.
        """
        while (record := find()) is not None:
            if not self._serve_previous:
                self._check_unmarked(key)
            try:
                return read(key, record)
            except FileNotFoundError:
                if self._history.find(key, record.number) is not None:
                    self._quarantine(key, record, "its file is gone")
            except StoreCorruptError as error:
                self._quarantine(key, record, str(error))
            except OSError as error:
                raise self._error("read", error) from error
        self._check_unmarked(key)
        return None

    def _get_version(self, key: bytes, number: int) -> bytes | None:
        record = self._find(key, number)
        if not record.there(self._now()):
            return None
        try:
            return self._read(key, record)
        except StoreCorruptError as error:
            self._quarantine(key, record, str(error))
            raise
        except FileNotFoundError as error:
            raise NotFoundError(f"key {shown(key)} has no version {number} any more") from error
        except OSError as error:
            raise self._error("read", error) from error

    def _read(self, key: bytes, record: Record[None]) -> bytes:
        file, reader = self._open_version(key, record)
        try:
            return reader.value()
        finally:
            self._disk.close(file)

    def _open_stream(self, key: bytes, record: Record[None]) -> BinaryIO:
        file, reader = self._open_version(key, record)

        def on_damage(reason: str) -> None:
            self._quarantine(key, record, reason)

        return io.BufferedReader(ValueStream(self._disk, file, reader, on_damage))

    def _open_version(self, key: bytes, record: Record[None]) -> tuple[int, Reader]:
        """The version's file, its header read and compared with what its name says."""
        file = self._disk.open(self._place(key, record))
        try:
            reader = Reader(self._disk, file)
            head = reader.head
            if (head.key, head.live, head.moment) != (key, record.live, names.to_micro(record.deadline)):
                raise StoreCorruptError("a header is that of another version")
            return file, reader
        except BaseException:
            self._disk.close(file)
            raise

    def _describe(self, key: bytes, record: Record[None]) -> Version | None:
        if not record.live:
            return Version(record.number, 0, True, _moment(names.to_micro(record.deadline)))
        try:
            file, reader = self._open_version(key, record)
            self._disk.close(file)
            size = value_size(key, self._disk.size(self._place(key, record)))
        except FileNotFoundError:
            return None
        except StoreCorruptError as error:
            self._quarantine(key, record, str(error))
            return None
        except OSError as error:
            raise self._error("read", error) from error
        return Version(record.number, size, False, _moment(reader.head.written))

    def _find(self, key: bytes, number: int) -> Record[None]:
        record = self._history.find(key, number)
        if record is None:
            kept = [r.number for r in self._history.chain(key)]
            raise NotFoundError(f"key {shown(key)} has no version {number}; kept are {kept or 'none'}")
        return record

    def _scan(self, keys: Iterator[bytes]) -> Iterator[tuple[bytes, bytes]]:
        for key in keys:
            value = self.get(key)
            if value is not None:
                yield key, value

    # -- writing -------------------------------------------------------------------------------------------------------

    def _write(self, key: bytes, pieces: Iterable[bytes | memoryview], ttl: float | None, *, live: bool = True) -> int:
        self._check_open()
        with self._translating(f"write key {shown(key)}"):
            staged = self._stage(key, pieces, ttl, live=live)
            try:
                with self._lock:
                    self._check_open()
                    return self._publish(staged)
            except BaseException:
                self._volume.discard(staged.temp)
                raise

    def _delete(self, key: bytes) -> int:
        return self._write(key, (), None, live=False)

    def _copy(self, key: bytes, old: Record[None]) -> int:
        try:
            file, reader = self._open_version(key, old)
            try:
                return self._write(key, iter(reader.chunk, b""), None)
            finally:
                self._disk.close(file)
        except StoreCorruptError as error:
            self._quarantine(key, old, str(error))
            raise
        except OSError as error:
            raise self._error("read", error) from error

    def _stage(self, key: bytes, pieces: Iterable[bytes | memoryview], ttl: float | None, *, live: bool) -> _Staged:
        """Write a version under a temporary name and sync it. Needs no lock."""
        self._check_writable()
        now = self._now()
        ends = deadline(ttl, now) if live else now
        head = Head(key, live, names.to_micro(now), names.to_micro(ends))
        temp = self._volume.write_temp(encode(head, pieces))
        return _Staged(temp, key, live, names.to_seconds(head.moment))

    def _publish(self, staged: _Staged) -> int:
        """Give the version its number and place. Until the folder is synced nobody here sees it."""
        self._volume.check_writable()
        shard, record = names.shard(staged.key), self._number(staged)
        self._volume.make_shard(shard)
        self._disk.rename(self._volume.at("tmp", staged.temp), self._place(staged.key, record))
        self._volume.sync_dir(self._volume.at("data", shard))
        self._take_in([(staged.key, record)])
        return record.number

    def _publish_all(self, staged: list[_Staged]) -> None:
        """As one: by a list of the renames."""
        with self._translating("commit"):
            self._volume.check_writable()
            if len(staged) < 2:
                for one in staged:
                    self._publish(one)
                return
            records = [(one.key, self._number(one)) for one in staged]
            moves = [
                intent.Move(one.temp, names.shard(key), names.name(key, record))
                for one, (key, record) in zip(staged, records, strict=True)
            ]
            self._volume.sync_dir(self._volume.at("tmp"))
            listed = self._volume.write_temp([intent.encode(moves)])
            name = f"{self._history.last:x}"
            try:
                self._disk.rename(self._volume.at("tmp", listed), self._volume.at("intents", name))
            except OSError:
                self._volume.discard(listed)
                raise
        self._finish(name, moves)
        self._take_in(records)

    def _finish(self, name: str, moves: list[intent.Move]) -> None:
        try:
            self._volume.sync_dir(self._volume.at("intents"))
            finish(self._volume, name, moves)
        except OSError as error:
            self._volume.fail(error)
            raise TransactionOutcomeUnknown(
                f"the disk failed while store {self.name!r} committed ({describe(error)}); close the store, see to the "
                "disk and open it again: it will have all of the commit or nothing"
            ) from error

    def _without_idle_deletions(self, staged: list[_Staged]) -> list[_Staged]:
        """The versions but for deletions of what is not there."""
        idle = [one for one in staged if not one.live and not self.stamp(one.key) and not self._is_marked(one.key)]
        for one in idle:
            self._volume.discard(one.temp)
        return [one for one in staged if one not in idle]

    def _number(self, staged: _Staged) -> Record[None]:
        return Record(self._history.next_number(), staged.ends, staged.live, None)

    def _take_in(self, records: list[tuple[bytes, Record[None]]]) -> None:
        """Show the versions to readers and remove what they push out."""
        for key, record in records:
            dropped = self._history.add(key, record)
            self._remove_versions(key, dropped)
            self._deaths += not record.live or record.deadline < FOREVER
        if self._deaths > _COMPACT_AFTER:
            self.compact()

    def _remove_versions(self, key: bytes, records: Sequence[Record[None]]) -> None:
        if records or key in self._stuck:
            paths = [*self._stuck.pop(key, ()), *(self._place(key, record) for record in records)]
            if left := self._volume.remove_all(paths):
                self._stuck[key] = left

    def _remove_history(self, keys: list[bytes]) -> None:
        """Remove all versions of dead keys: the newest last, and only when the others are gone for good, those too that
        were pruned before, because it is what says that the key is dead."""
        for key in keys:
            self._remove_versions(key, self._history.trim(key))
        for shard in sorted({names.shard(key) for key in keys}):
            self._volume.sync_dir(self._volume.at("data", shard))
        for key in keys:
            if key not in self._stuck:
                last = self._history.chain(key)
                self._history.forget(key)
                self._remove_versions(key, last)

    # -- damage --------------------------------------------------------------------------------------------------------

    def _quarantine(self, key: bytes, record: Record[None], reason: str) -> None:
        """Put a version out of the way, once, and say so everywhere."""
        with self._lock:
            if not self._open or self._history.find(key, record.number) is None:
                return
            self._history.remove(key, record.number)
            stem, shard, name = names.stem(key), names.shard(key), names.name(key, record)
            mark = self._marks.get(stem)
            if mark is None or mark.number < record.number:
                self._marks[stem] = Mark(record.number, key)
            moved_to = None if self.read_only else move_to_quarantine(self._volume, f"data/{shard}", name)
            damage = Damage(f"data/{shard}/{name}", reason, key, moved_to)
            self.report.damages.append(damage)
        _log.error("store %s is damaged: %s", self.path, damage)
        self._events.tell("quarantine", (key,))

    def _is_marked(self, key: bytes) -> bool:
        """Whether the newest that was written under the key is in quarantine."""
        mark = self._marks.get(names.stem(key)) if self._marks else None
        if mark is None:
            return False
        chain = self._history.chain(key)
        return not chain or chain[-1].number < mark.number

    def _check_unmarked(self, key: bytes) -> None:
        if self._marks and self._is_marked(key):
            raise StoreCorruptError(
                f"the value of key {shown(key)} in store {self.name!r} is damaged and no earlier one can be served; "
                "restore a version of it, write it again or delete it (see store.report)"
            )

    # -- small things --------------------------------------------------------------------------------------------------

    def _place(self, key: bytes, record: Record[None]) -> str:
        return self._volume.at("data", names.shard(key), names.name(key, record))

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _check_open(self) -> None:
        if not self._open:
            raise UnavailableError(f"store {self.name!r} is closed; open another one")

    def _check_writable(self) -> None:
        self._check_open()
        self._volume.check_writable()
        if self._pid != os.getpid():
            raise StoreError(
                f"store {self.name!r} was opened by process {self._pid} and this is {os.getpid()}, forked from it; "
                "open the store in one process only"
            )

    @contextlib.contextmanager
    def _translating(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(what, error) from error

    def _error(self, what: str, error: OSError) -> StoreError:
        return StoreError(f"store {self._volume.path} could not {what}: {describe(error)}")


def lock_volume(volume: Volume) -> int:
    """Hold the lock of a store's folder; StoreLockedError, with the holder's process, if somebody else does."""
    try:
        return volume.disk.lock(volume.at("lock"))
    except BlockingIOError as error:
        holder = volume.read(volume.at("lock")).decode(errors="replace").strip() or "unknown"
        raise StoreLockedError(
            f"store {volume.path} is open already, in process {holder} (this is {os.getpid()}); close it there"
        ) from error


def _moment(micro: int) -> datetime:
    return datetime.fromtimestamp(micro / names.MICRO, UTC)
