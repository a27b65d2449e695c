"""The one door to the file system: everything that the file engine does to a disk goes through these few calls.

Tests put other disks in its place: one that fails at the n-th call, and one that remembers what a power cut may lose.
Paths are text with ``/``. Errors are OSError, as the system gives them.
"""

from __future__ import annotations

import contextlib
import os
from typing import Protocol

from ...errors import ConfigError


class Disk(Protocol):
    """What the engine needs of a disk. Thread-safe."""

    def make_dir(self, path: str) -> None:
        """A new directory; FileExistsError if it is there."""

    def list_dir(self, path: str) -> list[str]: ...

    def exists(self, path: str) -> bool: ...

    def size(self, path: str) -> int: ...

    def create(self, path: str) -> int:
        """A new file, open for writing."""

    def open(self, path: str) -> int:
        """A file that is there, open for reading."""

    def read(self, file: int, size: int) -> bytes:
        """Up to ``size`` bytes; fewer only at the end."""

    def write(self, file: int, data: bytes | memoryview) -> None:
        """All of the data."""

    def sync(self, file: int) -> None:
        """Return when what was written will survive a power cut."""

    def close(self, file: int) -> None: ...

    def rename(self, old: str, new: str) -> None:
        """At once for everybody who looks, and over a power cut either done or not."""

    def remove(self, path: str) -> None: ...

    def sync_dir(self, path: str) -> None:
        """Return when the names in the directory will survive a power cut."""

    def lock(self, path: str) -> int:
        """Hold the file's lock; BlockingIOError if somebody else does."""

    def unlock(self, file: int) -> None: ...


class RealDisk:
    """The file system of this machine."""

    def make_dir(self, path: str) -> None:
        os.mkdir(path)

    def list_dir(self, path: str) -> list[str]:
        return os.listdir(path)

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def create(self, path: str) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def open(self, path: str) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, file: int, size: int) -> bytes:
        data = os.read(file, size)
        if not data or len(data) == size:
            return data
        rest = os.read(file, size - len(data))
        while rest:
            data += rest
            rest = os.read(file, size - len(data))
        return data

    def write(self, file: int, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(file, left) :]

    def sync(self, file: int) -> None:
        _sync(file)

    def close(self, file: int) -> None:
        os.close(file)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def remove(self, path: str) -> None:
        os.unlink(path)

    def sync_dir(self, path: str) -> None:
        file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _sync(file)
        finally:
            os.close(file)

    def lock(self, path: str) -> int:
        try:
            import fcntl
        except ImportError as error:
            raise ConfigError("the file engine needs the file locks of POSIX, which this system lacks") from error
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # For people who look who holds it; the lock itself is the kernel's and dies with the process.
            os.ftruncate(file, 0)
            os.write(file, f"{os.getpid()}\n".encode())
        except BaseException:
            os.close(file)
            raise
        return file

    def unlock(self, file: int) -> None:
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)  # also for a forked child that still has the file open
        os.close(file)


class UnsyncedDisk(RealDisk):
    """The same without waiting for the medium: a power cut may lose what was acknowledged, a crash of ours does not."""

    def sync(self, file: int) -> None: ...

    def sync_dir(self, path: str) -> None: ...


def _sync(file: int) -> None:
    try:
        from fcntl import F_FULLFSYNC, fcntl  # type: ignore[attr-defined,unused-ignore]
    except ImportError:
        os.fsync(file)
    else:
        fcntl(file, F_FULLFSYNC)  # macOS: fsync alone leaves the data in the drive's cache
