"""Classes that have exactly the abilities of what they stand for, so that ``isinstance`` tells the truth."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def with_abilities(cls: type[Any], *mixins: type[Any]) -> type[Any]:
    """The class with these mixins before it; the same class for the same mixins."""
    return type(cls.__name__, (*mixins, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__}) if mixins else cls
