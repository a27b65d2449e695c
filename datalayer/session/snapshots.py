"""Immutable views of rows: what ``get_snapshot`` returns, shared by everybody and as fast to read as a slots class."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from ..models.copying import frozen
from ..models.schema import Schema
from ..models.sealed import encrypted_attributes


class Snapshot:
    """A row that nobody can change. Attributes are the model's column attributes; an absent column raises.

    Equal when class and values are equal. Thread-safe, because it never changes.
    """

    __slots__ = ()

    #: Encrypted columns: a ``repr`` says that they are there and no more.
    _secret: ClassVar[frozenset[str]] = frozenset()

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(
            f"{type(self).__name__} is a snapshot and cannot be changed; get() returns an instance that can"
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"{type(self).__name__} is a snapshot and cannot be changed; get() returns an instance that can"
        )

    def to_dict(self) -> dict[str, Any]:
        """The values by attribute name; absent columns are left out."""
        return {name: getattr(self, name) for name in _slots(self) if hasattr(self, name)}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.to_dict() == self.to_dict()

    def __hash__(self) -> int:
        return hash((type(self), *(str(v) for v in self.to_dict().values())))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={self._shown(name)}" for name in _slots(self))
        return f"{type(self).__name__}({shown})"

    def _shown(self, name: str) -> str:
        value = getattr(self, name, "<not cached>")
        return "<encrypted>" if name in self._secret and value is not None else repr(value)


def _slots(snapshot: Snapshot) -> tuple[str, ...]:
    return tuple(type(snapshot).__slots__)


def snapshot_class(schema: Schema) -> type[Snapshot]:
    """The snapshot class of a model, with one slot for each column that ``select`` returns."""
    slots = tuple(dict.fromkeys(schema.full.keys))
    body = {
        "__slots__": slots,
        "__module__": schema.cls.__module__,
        "_secret": frozenset(encrypted_attributes(schema.mapper)),
    }
    return type(f"{schema.cls.__name__}Snapshot", (Snapshot,), body)


def make_snapshot(cls: type[Snapshot], keys: tuple[str, ...], values: tuple[Any, ...]) -> Snapshot:
    made = cls.__new__(cls)
    for key, value in zip(keys, values, strict=True):
        object.__setattr__(made, key, frozen(value))
    return made
