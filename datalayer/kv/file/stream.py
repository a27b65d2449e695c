"""A value of the file engine as a binary file, for values that should not be in memory at once."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from ...errors import StoreCorruptError
from .disk import Disk
from .record import Reader


class ValueStream(io.RawIOBase):
    """Forward only. Each chunk is checked before any byte of it is handed out."""

    def __init__(self, disk: Disk, file: int, reader: Reader, on_damage: Callable[[str], None]) -> None:
        super().__init__()
        self._disk = disk
        self._file = file
        self._reader = reader
        self._on_damage = on_damage
        self._chunk = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._chunk:
            self._chunk = memoryview(self._next())
        size = min(len(buffer), len(self._chunk))
        buffer[:size] = self._chunk[:size]
        self._chunk = self._chunk[size:]
        return size

    def close(self) -> None:
        if not self.closed:
            self._disk.close(self._file)
        super().close()

    def _next(self) -> bytes:
        try:
            return self._reader.chunk()
        except StoreCorruptError as error:
            self._on_damage(str(error))
            raise
