"""Classes that have exactly the abilities of what they stand for, so that ``isinstance`` tells the truth."""

from __future__ import annotations

from typing import Any

_made: dict[Any, Any] = {}


def with_abilities(cls: type[Any], mixins: tuple[type[Any], ...]) -> Any:
    """The class with these mixins before it; the same class for the same mixins."""
    if not mixins:
        return cls
    found = _made.get((cls, mixins))
    if found is None:
        names = {"__module__": cls.__module__, "__doc__": cls.__doc__}
        found = _made.setdefault((cls, mixins), type(cls.__name__, (*mixins, cls), names))
    return found
