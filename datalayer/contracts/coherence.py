"""What a transaction touched, as values that the session writes down and the coherence room acts on."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, Protocol


class Absent:
    """The type of :data:`ABSENT`: a row that is known not to exist, as opposed to a row that is not known."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"

    def __bool__(self) -> bool:
        return False


ABSENT = Absent()


class Outcome(Enum):
    """How a marked transaction ended. ``UNKNOWN``: COMMIT was sent and its reply never came."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class WriteSet:
    """Everything that one root transaction may change. It only grows: a savepoint's rollback takes nothing back.

    Tables are named by ``Table.fullname``. ``keys``: exact primary keys by base table. ``extent``: the tables that
    those keys' rows consist of. ``tables``: changed in rows that are not known. ``births``: got rows whose keys are not
    known. ``reborn``: got rows under keys that were given, but are not known here; that others have deleted earlier
    rows under those keys, this process may not have heard yet. ``deleted``, ``rekeyed``: tables whose foreign keys may
    cascade. ``everything``: no idea what changed. ``strange``: the transaction changed its own isolation. ``values``:
    (table, column, value) before and after, for the columns that cached queries ask by; ``vague``: tables of ``extent``
    of which they are not known.
    """

    keys: dict[str, set[tuple[Any, ...]]] = field(default_factory=dict)
    extent: dict[str, set[str]] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    births: set[str] = field(default_factory=set)
    reborn: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    rekeyed: set[str] = field(default_factory=set)
    values: set[tuple[str, str, Any]] = field(default_factory=set)
    vague: set[str] = field(default_factory=set)
    everything: bool = False
    strange: bool = False

    def __bool__(self) -> bool:
        return bool(
            self.everything or self.keys or self.tables or self.births or self.deleted or self.rekeyed or self.strange
        )

    def touch(self, base_table: str, key: tuple[Any, ...], tables: Iterable[str], *, vague: bool = True) -> None:
        """A row with this key changes. ``vague``: nobody says what its values were and become."""
        self.keys.setdefault(base_table, set()).add(key)
        self.extent.setdefault(base_table, set()).update(tables)
        if vague:
            self.vague.update(tables)


@dataclass(frozen=True, slots=True)
class Change:
    """A write set as one space sees it: some keys, or everything in it, or only new rows, ``reborn`` ones perhaps."""

    keys: frozenset[Hashable] = frozenset()
    whole: bool = False
    births: bool = False
    reborn: bool = False

    def __bool__(self) -> bool:
        return self.whole or self.births or bool(self.keys)


class Image(NamedTuple):
    """Rows of one space as a transaction that holds their locks is about to leave them, by key.

    ``xid`` is the transaction's id, where the statement that read the rows told it.
    """

    space: Space
    rows: Mapping[tuple[Any, ...], tuple[Any, ...]]
    xid: str | None


class Space(Protocol):
    """The cached rows of one root class, as the coherence room sees them. Thread-safe.

    ``strict_local``: its writers wait before COMMIT until no memory of any process serves what they replace.
    """

    base_table: str
    space: str
    tables: frozenset[str]
    strict_local: bool

    def begin(self, change: Change) -> None:
        """From now on nothing that ``change`` covers is served from or put into a cache."""

    def end(self, change: Change, kept: Any = None) -> None:
        """The transaction is over: forget what changed, then allow caching again, beginning with what is ``kept``."""

    def keep(self, rows: Mapping[tuple[Any, ...], tuple[Any, ...]]) -> Any:
        """What :meth:`end` may put into the process's memory, unless somebody else changes the rows until then."""

    def entries(self, rows: Mapping[tuple[Any, ...], tuple[Any, ...]]) -> Mapping[str, tuple[bytes, float]]:
        """The names of these rows in the shared tier, with their entries and lives in seconds."""

    def heard(self, id: str) -> None:
        """Another process is writing, or has written, the row whose key has this text."""

    def heard_whole(self) -> None:
        """Another process changes rows that it does not name, or may have."""

    def heard_births(self) -> None:
        """Another process makes rows that it does not name."""
