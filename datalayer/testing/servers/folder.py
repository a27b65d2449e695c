"""A server's private folder, which is removed even when the process that made it was killed."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
from pathlib import Path

_PREFIX = "datalayer-test-"
_LOCK = "owner.lock"
_GRACE_SECONDS = 60.0


class PrivateFolder:
    """A new folder below the system's temporary folder; ``remove()`` deletes it and may be called twice.

    The owner holds a file lock inside, so that any later run can tell an orphan from a folder in use.
    """

    def __init__(self, kind: str) -> None:
        _remove_orphans()
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{kind}-"))
        self._lock = (self.path / _LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _remove_orphans() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime > _GRACE_SECONDS and _is_orphan(folder):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # another user's folder, or one that vanished while we looked


def _is_orphan(folder: Path) -> bool:
    with (folder / _LOCK).open("r") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
