"""Turns a misspelt name into an error that says which name was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, TypeVar, dataclass_transform

from datalayer.errors import ConfigError

C = TypeVar("C")


def hint(name: str, known: Iterable[str]) -> str:
    """``did you mean 'ttl'?`` when one of ``known`` is close to ``name``, else the whole list of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known names: {', '.join(names) or 'none'}"


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
