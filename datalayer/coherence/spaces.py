"""The spaces of one layer, found by their tables or their name: a commit must not get slower with every model."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator

from ..contracts.coherence import Space, WriteSet

_Refs = list["weakref.ref[Space]"]


class Spaces:
    """Holds spaces weakly. Not thread-safe: whoever adds or looks holds the lock."""

    def __init__(self) -> None:
        self._all: _Refs = []
        self._by_table: dict[str, _Refs] = {}
        self._by_name: dict[str, _Refs] = {}

    def add(self, space: Space) -> None:
        found = weakref.ref(space)
        self._all.append(found)
        self._by_name.setdefault(space.space, []).append(found)
        for table in {space.base_table, *space.tables}:
            self._by_table.setdefault(table, []).append(found)

    def __iter__(self) -> Iterator[Space]:
        return (space for ref in self._all if (space := ref()) is not None)

    def __contains__(self, table: object) -> bool:
        """Whether rows of a table are in any space."""
        return any(ref() is not None for ref in self._by_table.get(str(table), ()))

    def named(self, name: str) -> list[Space]:
        """The spaces of this name in the shared tier."""
        return [space for ref in self._by_name.get(name, ()) if (space := ref()) is not None]

    def concerned(self, written: WriteSet) -> Iterable[Space]:
        """The spaces that a write set may concern."""
        if written.everything:
            return self
        tables = {*written.keys, *written.tables, *written.births, *written.reborn}.union(*written.extent.values())
        refs = {ref for table in tables for ref in self._by_table.get(table, ())}
        return [space for ref in refs if (space := ref()) is not None]
