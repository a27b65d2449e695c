"""Turns a misspelt name into the name that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def hint(name: str, known: Iterable[str]) -> str:
    """``did you mean 'l1_ttl'?`` when one of ``known`` is close to ``name``, else the list of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known names: {', '.join(names) or 'none'}"
