"""The engines that this package brings along, and the one call that opens any of them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ..contracts.clock import Clock
from ..contracts.store import Store
from .engines import Engines, StoreEngine
from .file import FileStore
from .memory import MemoryStore
from .sql import SqlStore


def _sql(*, name: str, database: sa.Engine | str, create: bool = True, clock: Clock | None = None) -> SqlStore:
    if isinstance(database, sa.Engine):
        return SqlStore(database, table=name, create=create, clock=clock)
    engine = sa.create_engine(database)
    try:
        return SqlStore(engine, table=name, create=create, clock=clock, dispose=True)
    except BaseException:
        engine.dispose()
        raise


ENGINES = Engines(StoreEngine("memory", MemoryStore), StoreEngine("file", FileStore), StoreEngine("sql", _sql))


def open_store(engine: str, name: str = "store", **options: Any) -> Store:
    """A store of the engine with that name: ``"memory"``, ``"file"``, ``"sql"`` or one registered in :data:`ENGINES`.

    The options are those of the class; ``file`` needs ``path``; ``sql`` needs ``database``, an SQLAlchemy engine
    or a URL, and takes ``name`` as the table's. The caller closes the store.
    """
    return ENGINES.open(engine, name, **options)
