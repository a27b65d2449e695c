"""SQL scripts as statements: cut at the semicolons that are not inside of strings, comments or function bodies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<line>--[^\n]*)
  | (?P<block>/\*)
  | (?P<escape>\b[eE]'(?:[^'\\]|\\.|'')*')
  | (?P<string>'(?:[^']|'')*')
  | (?P<name>"(?:[^"]|"")*")
  | (?P<dollar>\$(?:[A-Za-z_\x80-\uffff][\w\x80-\uffff]*)?\$)
  | (?P<word>[A-Za-z_\x80-\uffff][\w$\x80-\uffff]*)
  | (?P<end>;)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. ``line``: of its first word in the script, from 1. ``comments``: the lines above it.

    ``bare`` is the statement without comments and with empty strings, its white space single, for rules to look at.
    """

    text: str
    bare: str
    line: int
    comments: tuple[str, ...]


def split(script: str, first_line: int = 1) -> list[Statement]:
    """The statements of a script, in order, without their semicolons."""
    return list(_Splitter(script, first_line).statements())


class _Splitter:
    def __init__(self, script: str, first_line: int) -> None:
        self._script = script
        self._first_line = first_line
        self._reset(0)

    def _reset(self, start: int) -> None:
        self._start = start
        self._first: int | None = None
        self._bare: list[str] = []
        self._comments: list[str] = []
        self._words: list[str] = []
        self._depth = 0

    def statements(self) -> Iterator[Statement]:
        at = 0
        while found := _TOKEN.search(self._script, at):
            self._plain(at, found.start())
            at = found.end()
            if found.lastgroup == "end" and not self._depth:
                yield from self._close(found.start())
                self._reset(at)
            else:
                at = self._take(found, at)
        self._plain(at, len(self._script))
        yield from self._close(len(self._script))

    def _plain(self, start: int, end: int) -> None:
        text = self._script[start:end]
        if text.strip() and self._first is None:
            self._first = start + len(text) - len(text.lstrip())
        self._bare.append(text)

    def _take(self, found: re.Match[str], at: int) -> int:
        kind, text = found.lastgroup, found[0]
        if kind == "line":
            self._comments.append(text)
            self._bare.append(" ")
            return at
        if kind == "block":
            self._bare.append(" ")
            return self._end_of_comment(at)
        if self._first is None:
            self._first = found.start()
        if kind == "dollar":
            self._bare.append("''")
            closed = self._script.find(text, at)
            return len(self._script) if closed < 0 else closed + len(text)
        self._bare.append("''" if kind in ("string", "escape") else text)
        if kind == "word":
            self._word(text.upper())
        return at

    def _end_of_comment(self, at: int) -> int:
        # PostgreSQL's comments nest.
        depth = 1
        for found in re.compile(r"/\*|\*/").finditer(self._script, at):
            depth += 1 if found[0] == "/*" else -1
            if depth == 0:
                return found.end()
        return len(self._script)

    def _word(self, word: str) -> None:
        """BEGIN ... END in the body of an SQLite trigger or an SQL function holds statements of its own."""
        before, self._words = self._words, [*self._words[-40:], word]
        body = "CREATE" in before and ("TRIGGER" in before or "FUNCTION" in before or "PROCEDURE" in before)
        if self._depth and word == "CASE":
            self._depth += 1
        elif word == "BEGIN" and body and not self._depth:
            self._depth = 1
        elif word == "END" and self._depth:
            self._depth -= 1

    def _close(self, end: int) -> Iterator[Statement]:
        if self._first is None:
            return
        line = self._first_line + self._script.count("\n", 0, self._first)
        bare = " ".join("".join(self._bare).split())
        text = self._script[self._first : end].strip()
        if text:
            yield Statement(text, bare, line, tuple(self._comments))
