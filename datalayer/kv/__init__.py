"""Stores of bytes by key, usable without a database: in memory, in files, in a table."""

from __future__ import annotations

from .engines import Engines, StoreEngine
from .factory import ENGINES, open_store
from .file import Damage, FileStore, Report, fsck
from .memory import MemoryStore
from .multistore import MultiStore
from .overlay import Overlay
from .sql import SqlStore

__all__ = [
    "ENGINES",
    "Damage",
    "Engines",
    "FileStore",
    "MemoryStore",
    "MultiStore",
    "Overlay",
    "Report",
    "SqlStore",
    "StoreEngine",
    "fsck",
    "open_store",
]
