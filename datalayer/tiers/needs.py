"""What goes up and down the stairs of a space, and what the ladder needs of other rooms."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple, Protocol, Unpack

from ..contracts.coherence import Absent, Change
from ..contracts.tier import Found, Keeping, Put
from ..models.schema import Projection

KeyText = Callable[[tuple[Any, ...]], str]

FOREVER = [inf]


class Load(Protocol):
    """Reads one row from the database. ``proves``: :meth:`proved` may be called."""

    proves: bool

    def __call__(self, key: tuple[Any, ...]) -> tuple[Any, ...] | None: ...

    def proved(self, key: tuple[Any, ...], xids: Sequence[str]) -> tuple[bool, tuple[Any, ...] | None]:
        """The row, and whether these transactions had ended in the very snapshot that it was read in."""


LoadMany = Callable[[Sequence[tuple[Any, ...]]], Mapping[tuple[Any, ...], tuple[Any, ...]]]


class Backlog(Protocol):
    """The queued writes of one space, as far as this process knows them."""

    def newest(self, key: tuple[Any, ...], *, vouched: bool) -> tuple[Any, ...] | Absent | None:
        """The row that a queued write of this process leaves, in the order of ``schema.full``; None: ask the database.

        ``vouched``: the shared tier has just said that it shows nothing queued for the key.
        """

    def settle(self, key: tuple[Any, ...]) -> None:
        """Wait, not for ever, until the database has what is queued for the key."""


class Single(Protocol):
    """What the ladder needs of single-flight: see :class:`datalayer.coherence.flights.Flights`."""

    def lead(self, key: Hashable) -> bool: ...

    def land(self, key: Hashable) -> None: ...

    def reset_after_fork(self) -> None: ...


class Nobody:
    """Single-flight switched off."""

    def lead(self, key: Hashable) -> bool:
        return True

    def land(self, key: Hashable) -> None:
        """Nobody waits."""

    def reset_after_fork(self) -> None:
        """Nobody waits."""


class Row(NamedTuple):
    """A row on its way to the caller: values in the order of ``projection``, and the tier that had it.

    The values belong to the tier: copy what is mutable before handing it out.
    """

    values: tuple[Any, ...]
    projection: Projection
    tier: str


class Merge(NamedTuple):
    """Leave to add a section to a value of another shape, given by that very value."""

    found: Found


class Gate(Protocol):
    """What the ladder needs of the coherence room: see :class:`datalayer.coherence.guard.Guard`."""

    refused: int

    def ticket(self, key: Hashable) -> Any | None: ...

    def put(self, key: Hashable, ticket: Any, value: Any, **how: Unpack[Keeping]) -> bool: ...

    def finished(self, key: Hashable) -> None: ...

    def drop_key(self, key: Hashable) -> None: ...

    def drop_all(self) -> None: ...

    def drop_absent(self) -> None: ...

    def tickets(self) -> Any | None: ...

    def free(self, keys: Sequence[Hashable]) -> Sequence[Hashable]: ...

    def put_many(self, tickets: Any, puts: Sequence[Put], until: float = inf) -> None: ...

    def glance(self) -> Any | None: ...

    def put_seen(self, key: Hashable, glance: Any, value: Any, **how: Unpack[Keeping]) -> bool: ...

    def reserve(self, keys: Iterable[Hashable]) -> Any: ...

    def begin(self, change: Change) -> None: ...

    def end(self, change: Change, kept: Sequence[tuple[Any, ...]] = ()) -> None: ...

    def reset_after_fork(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Lives:
    """How long values live, in seconds, and whether each tier takes part.

    ``beside``: how long L1 may serve what was read without a look at the marks of a shared tier that others use,
    counted from before the read; None when there is no such tier.
    """

    l2: float
    negative: float
    beside: float | None = None
    use_l1: bool = True
    use_l2: bool = True
