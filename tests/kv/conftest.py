"""Stores on disks that fail."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from datalayer.kv.file.disk import RealDisk

CHANGING = ("make_dir", "create", "write", "sync", "rename", "remove", "sync_dir")


class FailingDisk:
    """A disk whose n-th call of the given kinds fails, and all later ones too if ``forever``. ``calls`` counts them."""

    def __init__(self, disk: Any = None, *, kinds: tuple[str, ...] = CHANGING, code: int = errno.EIO) -> None:
        self._disk = disk or RealDisk()
        self.fail_at = -1
        self.kinds = kinds
        self.code = code
        self.forever = False
        self.calls = 0
        self.failed: str | None = None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._disk, name)
        if name not in self.kinds:
            return method

        def call(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls == self.fail_at or (self.forever and self.failed):
                self.failed = self.failed or name
                if name == "write" and self.code == errno.ENOSPC:
                    method(arguments[0], arguments[1][: len(arguments[1]) // 2])  # what still fitted
                raise OSError(self.code, os.strerror(self.code))
            return method(*arguments)

        return call


@pytest.fixture
def failing_disk() -> type[FailingDisk]:
    return FailingDisk
