"""What was found when a store was opened or checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Damage:
    """One file that is not what it should be. ``path`` is relative to the store; ``moved_to`` is where it was put."""

    path: str
    reason: str
    key: bytes | None = None
    moved_to: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """For JSON; ``key`` is in hexadecimal."""
        key = None if self.key is None else self.key.hex()
        return {"path": self.path, "reason": self.reason, "key": key, "moved_to": self.moved_to}

    def __str__(self) -> str:
        moved = f"; moved to {self.moved_to}" if self.moved_to else ""
        return f"{self.path}: {self.reason}{moved}"


@dataclass
class Report:
    """``files`` is how many versions were looked at, ``finished`` how many interrupted commits were completed and
    ``swept`` how many left-over temporary files removed, both of which a crash explains. Damage a crash does not
    explain."""

    path: str
    keys: int = 0
    files: int = 0
    finished: int = 0
    swept: int = 0
    damages: list[Damage] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damages

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        counts = {"keys": self.keys, "files": self.files, "finished": self.finished, "swept": self.swept}
        return {"path": self.path, "ok": self.ok, **counts, "damages": [damage.to_dict() for damage in self.damages]}

    def __str__(self) -> str:
        return "\n".join([self._summary(), *self._lines()])

    def _summary(self) -> str:
        state = "sound" if self.ok else f"{len(self.damages)} damaged"
        recovered = f", {self.finished} commits finished, {self.swept} temporary files removed"
        return f"{self.path}: {state}; {self.keys} keys in {self.files} files{recovered}"

    def _lines(self) -> Iterable[str]:
        return (f"  {damage}" for damage in self.damages)
