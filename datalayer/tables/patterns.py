"""Patterns for keys: ``*`` is any text, ``?`` one character, ``[abc]`` one of these, ``[^a-c]`` none, ``\\`` quotes.

They are matched here, on characters, so that every provider understands the same; a provider gets what stands before
the first special character, as a literal prefix.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

from ..errors import ConfigError

_TOKEN = re.compile(r"\\(.)|\[(\^?)((?:\\.|[^\]\\])+)\]|(\*+)|(\?)|([^\\\[])", re.DOTALL)
_MEMBER = re.compile(r"\\?(.)(?:-\\?(.))?", re.DOTALL)


def split_pattern(pattern: str) -> tuple[str, Callable[[str], object]]:
    """The literal text that every match begins with, and the test of a whole key. ConfigError for a broken pattern."""
    tokens = list(_tokens(pattern))
    literals = [token[1] or token[6] for token in tokens]
    prefix = "".join(itertools.takewhile(lambda literal: literal, (literal or "" for literal in literals)))
    regex = "".join(map(_regex, tokens))
    return prefix, re.compile(regex, re.DOTALL).fullmatch


def _tokens(pattern: str) -> list[re.Match[str]]:
    found, at = [], 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is None:
            raise ConfigError(f"pattern {pattern!r} breaks off at character {at + 1}; quote [ and \\ with \\")
        found.append(token)
        at = token.end()
    return found


def _regex(token: re.Match[str]) -> str:
    quoted, negated, members, star, one, char = token.groups()
    if star:
        return ".*"
    if one:
        return "."
    if members is None:
        return re.escape(quoted or char)
    ranges = (re.escape(low) + (f"-{re.escape(high)}" if high else "") for low, high in _MEMBER.findall(members))
    return f"[{negated}{''.join(ranges)}]"
