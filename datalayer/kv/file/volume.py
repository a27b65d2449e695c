"""The folder of a store: where its files are, and how one gets there without ever being seen half written.

::

    FORMAT        says that this is a store, and which format
    CLEAN         the store was closed in order
    lock          held while the store is open
    data/00..ff/  the versions, by a hash of their keys
    tmp/          what is being written; emptied when the store is opened
    intents/      commits that have happened and whose files are being moved to their places
    quarantine/   files that failed their check

A file is written under ``tmp``, synced, renamed to its place, and the folder of that place synced: only then does it
count. When a sync fails, nobody can say what the medium holds: the kernel may have dropped the data and will report no
second error. So the volume takes no more writes from then on, until it is opened again.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator

from ...errors import StoreCorruptError, StoreError
from .disk import Disk

FORMAT = b"datalayer key/value store, format 1\n"
FOLDERS = ("data", "tmp", "intents", "quarantine")
_OWN = {"FORMAT", "CLEAN", "lock", *FOLDERS}

_log = logging.getLogger("datalayer.kv")


class Volume:
    """Paths and safe writing for one store. Renaming needs the store's lock, staging does not."""

    def __init__(self, path: str, disk: Disk, on_failure: Callable[[], None]) -> None:
        self.path = path
        self.disk = disk
        self.failure: str | None = None
        self._on_failure = on_failure
        self._numbers = itertools.count()
        self._shards: set[str] = set()
        self._made: set[str] = set()

    def at(self, *parts: str) -> str:
        return "/".join((self.path, *parts))

    # -- making the folder ---------------------------------------------------------------------------------------------

    def make_root(self) -> None:
        """The folder itself, with those above it that are missing."""
        for path in reversed([self.path, *_above(self.path)]):
            if not self.disk.exists(path):
                with contextlib.suppress(FileExistsError):
                    self.disk.make_dir(path)
                self._made.add(path)

    def prepare(self) -> bool:
        """Make what is missing in the folder; says whether it is a new store. StoreError if it is something else."""
        names = set(self.disk.list_dir(self.path))
        if "FORMAT" in names:
            self._check_format()
        else:
            self._check_is_ours(names)
            self._sync_above()
        for folder in FOLDERS:
            if folder not in names:
                self.disk.make_dir(self.at(folder))
        if "FORMAT" not in names:
            self._write_format()
        elif not names.issuperset(FOLDERS):
            self.sync_dir(self.path)
        self._shards = set(self.disk.list_dir(self.at("data")))
        return "FORMAT" not in names

    def look(self) -> list[str]:
        """As :meth:`prepare`, making nothing; returns the folders that are missing."""
        self._check_format()
        missing = [folder for folder in FOLDERS if not self.disk.exists(self.at(folder))]
        if "data" not in missing:
            self._shards = set(self.disk.list_dir(self.at("data")))
        return missing

    def shards(self) -> list[str]:
        """The folders below ``data`` that there are."""
        return sorted(self._shards)

    def make_shard(self, shard: str) -> None:
        """The folder below ``data``, safe before anything is put there."""
        if shard not in self._shards:
            with contextlib.suppress(FileExistsError):  # left by an attempt that failed before the sync
                self.disk.make_dir(self.at("data", shard))
            self.sync_dir(self.at("data"))
            self._shards.add(shard)

    def _check_format(self) -> None:
        found = self.read(self.at("FORMAT"))
        if found != FORMAT:
            raise StoreCorruptError(
                f"{self.at('FORMAT')} holds {found[:60]!r}; expected {FORMAT!r}: a store of another format, or damaged"
            )

    def _check_is_ours(self, names: set[str]) -> None:
        if strange := sorted(names - _OWN):
            raise StoreError(f"{self.path} is not a store: it has {strange[0]!r} in it; give an empty folder")
        if "data" in names and self.disk.list_dir(self.at("data")):
            raise StoreCorruptError(f"{self.path} has data but no file FORMAT; put {FORMAT!r} there if it is a store")

    def _sync_above(self) -> None:
        """Make the way to the folder safe: an attempt that was cut short may have made some of it. What cannot be
        synced and was not made by us now is not ours to sync."""
        below = self.path
        for folder in _above(self.path):
            try:
                self.disk.sync_dir(folder)
            except OSError:
                if below in self._made:
                    raise
            below = folder

    def _write_format(self) -> None:
        self.remove_all(self.at("tmp", left) for left in self.disk.list_dir(self.at("tmp")))  # of an attempt cut short
        temp = self.write_temp([FORMAT])
        self.disk.rename(self.at("tmp", temp), self.at("FORMAT"))
        self.sync_dir(self.path)

    # -- files ---------------------------------------------------------------------------------------------------------

    def write_temp(self, parts: Iterable[bytes | memoryview]) -> str:
        """A new file below ``tmp`` with all the parts, synced; returns its name. On any error it is removed again."""
        self.check_writable()
        name = f"{next(self._numbers):x}"
        file = self.disk.create(self.at("tmp", name))
        try:
            try:
                for part in parts:
                    self.disk.write(file, part)
                self.sync(file)
            finally:
                self.disk.close(file)
        except BaseException:
            self.discard(name)
            raise
        return name

    def discard(self, temp: str) -> None:
        """Remove a temporary file; if that fails, the next opening does it."""
        with contextlib.suppress(OSError):
            self.disk.remove(self.at("tmp", temp))

    def read(self, path: str) -> bytes:
        """A whole small file."""
        file = self.disk.open(path)
        try:
            return b"".join(iter(lambda: self.disk.read(file, 1 << 16), b""))
        finally:
            self.disk.close(file)

    def remove_all(self, paths: Iterable[str]) -> list[str]:
        """Remove files that nobody needs; returns those that could not be."""
        left = []
        for path in paths:
            try:
                self.disk.remove(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                _log.warning("%s could not be removed: %s", path, describe(error))
                left.append(path)
        return left

    # -- syncing and its failure ---------------------------------------------------------------------------------------

    def sync(self, file: int) -> None:
        with self._failing():
            self.disk.sync(file)

    def sync_dir(self, path: str) -> None:
        with self._failing():
            self.disk.sync_dir(path)

    def fail(self, error: OSError) -> None:
        """Take no more writes."""
        if self.failure is None:
            self.failure = describe(error)
            _log.error("store %s is read-only until it is opened again: %s", self.path, self.failure)
            self._on_failure()

    def check_writable(self) -> None:
        if self.failure is not None:
            raise StoreError(
                f"store {self.path} is read-only since an error ({self.failure}) left it open what the disk holds; "
                "see to the disk, close the store and open it again"
            )

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.fail(error)
            raise


def _above(path: str) -> list[str]:
    """The folders that the path lies in, the nearest first."""
    above = []
    while (folder := os.path.dirname(path)) != path:
        above.append(path := folder)
    return above


def describe(error: OSError) -> str:
    """The error's symbolic name and text, without a path."""
    return f"{errno.errorcode.get(error.errno or 0, type(error).__name__)}: {error.strerror or error}"
