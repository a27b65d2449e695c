"""Policies as keyword-only values that know a misspelt option."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar, dataclass_transform

from datalayer.contracts.suggest import hint
from datalayer.errors import ConfigError

C = TypeVar("C")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def options(cls: type[C]) -> type[C]:
    """A frozen keyword-only dataclass to which an unknown keyword is a ConfigError with a suggestion."""
    made: type[C] = dataclass(frozen=True, kw_only=True)(cls)
    initialise: Any = made.__init__
    known = [item.name for item in fields(made)]  # type: ignore[arg-type]  # made is a dataclass since the line above

    def __init__(self: C, **given: Any) -> None:
        for name in given:
            if name not in known:
                raise ConfigError(f"{made.__name__}: unknown option {name!r}; {hint(name, known)}")
        initialise(self, **given)

    made.__init__ = __init__  # type: ignore[assignment]
    return made
