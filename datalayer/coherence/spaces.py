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
        _append(self._all, found)
        _append(self._by_name.setdefault(space.space, []), found)
        for table in {space.base_table, *space.tables}:
            _append(self._by_table.setdefault(table, []), found)

    def __iter__(self) -> Iterator[Space]:
        return iter(_living(self._all))

    def __contains__(self, table: object) -> bool:
        """Whether rows of a table are in any space."""
        return bool(_living(self._by_table.get(str(table), ())))

    def named(self, name: str) -> list[Space]:
        """The spaces of this name in the shared tier."""
        return _living(self._by_name.get(name, ()))

    def concerned(self, written: WriteSet) -> Iterable[Space]:
        """The spaces that a write set may concern."""
        if written.everything:
            return self
        tables = {*written.keys, *written.tables, *written.births, *written.reborn}.union(*written.extent.values())
        found = {id(space): space for table in tables for space in _living(self._by_table.get(table, ()))}
        return found.values()


def _append(refs: _Refs, found: weakref.ref[Space]) -> None:
    refs[:] = [*(ref for ref in refs if ref() is not None), found]


def _living(refs: Iterable[weakref.ref[Space]]) -> list[Space]:
    return [space for ref in refs if (space := ref()) is not None]
