"""Write-through: what a transaction wrote, as it is about to be committed, for the caches to hold afterwards.

Only small writes of one table by key are worth it, and only where nothing can go wrong: one plain READ COMMITTED
transaction, no tenant scopes, no key that moved. Everything else is merely invalidated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import sqlalchemy as sa

from ..contracts.coherence import Image, WriteSet
from ..errors import DecodeError
from ..models.policy import WriteMode
from ..models.schema import Schema
from ..tiers.images import Images
from ..tiers.ladder import Ladder
from .caches import Caches
from .reads import plain_connection, plain_engine

log = logging.getLogger("datalayer.session")

_MOST = 16

Made = tuple[Ladder, Images] | None


class Imager:
    """Reads the images of one layer's writes. Thread-safe. ``make``: how the rows of a shape are read, if they are."""

    def __init__(self, caches: Caches, make: Callable[[Schema], Images | None], default: WriteMode) -> None:
        self._caches = caches
        self._make = make
        self._default = default
        self._known: dict[str, Made] = {}

    def __call__(self, connection: sa.Connection, written: WriteSet) -> Image | None:
        """The image of what is about to be committed on this connection, or None."""
        if written.everything or written.strange or len(written.keys) != 1:
            return None
        ((table, keys),) = written.keys.items()
        if len(keys) > _MOST or table in written.tables or table in written.rekeyed:
            return None
        known = self._known[table] if table in self._known else self._learn(table)
        if known is None or not plain_engine(connection.engine) or not plain_connection(connection):
            return None
        ladder, images = known
        try:
            rows, xid = images.read(connection, list(keys))
        except DecodeError:  # a row that cannot be decrypted can still be written
            return None
        return Image(ladder, rows, xid)

    def _learn(self, table: str) -> Made:
        ladder = next((one for one in self._caches.ladders() if one.base_table == table), None)
        if ladder is None:  # nobody has read it yet
            return None
        try:
            images = self._make(ladder.schema) if self._suits(ladder) else None
        except Exception as error:
            log.debug("images of %s cannot be had now (%s)", table, type(error).__name__)
            return None
        self._known[table] = (ladder, images) if images is not None else None
        return self._known[table]

    def _suits(self, ladder: Ladder) -> bool:
        mode = ladder.schema.policy.write_mode or self._default
        leaves = ladder.leaves_rows and mode is not WriteMode.BEHIND
        return leaves and ladder.single and self._caches.ladder(ladder.schema) is ladder

    def forget(self) -> None:
        """The schema changed: triggers and rights may be others."""
        self._known.clear()
