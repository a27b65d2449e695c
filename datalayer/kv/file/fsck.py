"""Reading every bit of a store that is closed, to know that it is sound."""

from __future__ import annotations

import os
from collections.abc import Callable

from ...errors import NotFoundError, StoreCorruptError, StoreError
from ..history import Record
from . import names
from .disk import Disk, RealDisk
from .record import Reader
from .recovery import Recovery
from .report import Damage, Report
from .store import lock_volume
from .volume import Volume, describe


def fsck(
    path: str | os.PathLike[str],
    *,
    repair: bool = False,
    progress: Callable[[int, int], None] | None = None,
    disk: Disk | None = None,
) -> Report:
    """Check every file of the store at ``path``; what it says of damage is in the report.

    Without ``repair`` nothing is changed but the lock file. With it, interrupted commits are finished, left-over
    temporary files removed and damaged versions put into quarantine, so that the versions before them are served.
    ``progress`` is called with the number of files that were read and of all.
    NotFoundError if there is no store, StoreLockedError if it is open, StoreCorruptError if it cannot be recognised.
    """
    volume = Volume(os.path.abspath(path), disk or RealDisk(), lambda: None)
    if not volume.disk.exists(volume.at("FORMAT")):
        raise NotFoundError(f"{volume.path} is not a store: it has no file FORMAT; give the folder of a FileStore")
    lock = lock_volume(volume)
    try:
        if repair:
            volume.prepare()
        elif missing := volume.look():
            return Report(volume.path, damages=[Damage(folder, "is missing") for folder in missing])
        return _Check(volume, repair).run(progress)
    except OSError as error:
        raise StoreError(f"store {volume.path} could not be checked: {describe(error)}") from error
    finally:
        volume.disk.unlock(lock)


class _Check:
    def __init__(self, volume: Volume, repair: bool) -> None:
        self._volume = volume
        self._repair = repair
        self._recovery = Recovery(volume, repair=repair)

    def run(self, progress: Callable[[int, int], None] | None) -> Report:
        found = self._recovery.run()
        versions = ((key, record) for key, records in found.chains.items() for record in records)
        for done, (key, record) in enumerate(versions, start=1):
            self._check(key, record)
            if progress is not None:
                progress(done, found.report.files)
        for name in self._volume.disk.list_dir(self._volume.at("quarantine")):
            if not any(damage.moved_to == f"quarantine/{name}" for damage in found.report.damages):
                found.report.damages.append(Damage(f"quarantine/{name}", "was put there earlier"))
        return found.report

    def _check(self, key: bytes, record: Record[None]) -> None:
        folder, name = f"data/{names.shard(key)}", names.name(key, record)
        try:
            self._read(self._volume.at(folder, name), key, record)
        except StoreCorruptError as error:
            if record.live:
                self._recovery.quarantine(folder, name, str(error), key)
            else:
                # The name of a deletion says all there is to it; without it an older value would come back.
                self._recovery.found.report.damages.append(Damage(f"{folder}/{name}", str(error), key))

    def _read(self, path: str, key: bytes, record: Record[None]) -> None:
        disk = self._volume.disk
        file = disk.open(path)
        try:
            reader = Reader(disk, file)
            head = reader.head
            if (head.key, head.live, head.moment) != (key, record.live, names.to_micro(record.deadline)):
                raise StoreCorruptError("a header is that of another version")
            while reader.chunk():
                pass
        finally:
            disk.close(file)
