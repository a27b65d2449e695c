"""Turns a misspelt name into the name that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable


def hint(name: str, known: Iterable[str]) -> str:
    """``did you mean 'l1_ttl'?`` when one of ``known`` is close to ``name``, else the list of them."""
    names = sorted(known)
    close = _closest(name, names, 0.6)
    return f"did you mean {close!r}?" if close else f"known names: {', '.join(names) or 'none'}"


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6, shown: str = "{!r}") -> str:
    """``; did you mean 'name'?``, for the end of a sentence; nothing when no known name is close."""
    close = _closest(name, list(known), cutoff)
    return f"; did you mean {shown.format(close)}?" if close else ""


def _closest(name: str, known: list[str], cutoff: float) -> str | None:
    from difflib import get_close_matches  # only for errors

    return next(iter(get_close_matches(name, known, n=1, cutoff=cutoff)), None)
