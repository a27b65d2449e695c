"""Databases for tests of stores, which ask what a store does and not how long a disk takes."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


def quick_sqlite(url: str, **options: Any) -> sa.Engine:
    """An engine of an SQLite file that waits for no disk and keeps its journal in memory."""
    engine = sa.create_engine(url, **options)
    sa.event.listen(engine, "connect", _hurry)
    return engine


def _hurry(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA journal_mode = MEMORY").fetchall()
