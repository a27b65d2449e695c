"""The file engine: ``store`` has the idea, ``volume`` the folder, ``recovery`` the opening, ``disk`` the seam."""

from __future__ import annotations

from .fsck import fsck
from .report import Damage, Report
from .store import FileStore

__all__ = ["Damage", "FileStore", "Report", "fsck"]
