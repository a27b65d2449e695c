"""SQL text that people write, cut into what is SQL and what is a parameter, so that no value is ever put into it.

A parameter is ``:name`` outside of strings, quoted names and comments. ``::type`` is a cast, ``\\:`` a colon. After
``IN`` a parameter is a list, with or without parentheses of its own. What could end a condition early, or hide the
rest of it, is refused: a parenthesis too many, a semicolon, a string or comment without an end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import sqlalchemy as sa

from ..errors import QueryError
from .types import type_for

_TOKEN = re.compile(
    r"""
    (?P<line>--[^\n]*)
  | (?P<block>/\*)
  | (?P<string>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*')
  | (?P<name>"(?:[^"]|"")*"|`(?:[^`]|``)*`)
  | (?P<dollar>\$(?:[^\W\d]\w*)?\$)
  | (?P<position>\$\w+|\?\d+)
  | (?P<cast>::)
  | (?P<colon>\\:)
  | (?P<parameter>(?<![\w:]):[^\W\d]\w*)
  | (?P<word>[^\W\d][\w$]*)
  | (?P<number>\d\w*)
  | (?P<mark>\S)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENTS = ("line", "block")
_NO_END = {"'": "a string", '"': "a quoted name", "`": "a quoted name"}
_PAIRS = {")": "(", "]": "["}


class Token(NamedTuple):
    """A piece of SQL. ``kind``: word, name, string, mark, parameter, ... ``start`` and ``end``: where it is."""

    kind: str
    text: str
    start: int
    end: int


class Parameter(NamedTuple):
    """A place where a value goes. ``many``: a list of them, in parentheses."""

    name: str
    many: bool


@dataclass(frozen=True)
class SqlText:
    """One condition or one statement. ``pieces``: SQL and parameters in turn. ``tokens``: without comments."""

    source: str
    pieces: tuple[str | Parameter, ...]
    tokens: tuple[Token, ...]

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters by name, in the order in which they occur first."""
        found: dict[str, Parameter] = {}
        for piece in self.pieces:
            if isinstance(piece, Parameter):
                found.setdefault(piece.name, piece)
        return found

    def render(self, place: Callable[[Parameter], str]) -> str:
        """The SQL with ``place(parameter)`` where a value goes."""
        return "".join(p if isinstance(p, str) else place(p) for p in self.pieces)

    @cached_property
    def clause(self) -> sa.TextClause:
        """SQLAlchemy's form of it. Every colon that is not a parameter's is quoted, so it cannot become one."""
        parts = [p.replace(":", "\\:") if isinstance(p, str) else f":{p.name}" for p in self.pieces]
        for i, following in enumerate(parts[1:]):
            if following.startswith("\\:") and isinstance(self.pieces[i], Parameter):
                parts[i] += " "  # ":n::int" would not be seen as a parameter
        return sa.text("".join(parts))

    @property
    def names(self) -> list[str]:
        """The words of the SQL and what it quotes as names, in their order; None of them is a string."""
        return [t.text.strip('"`') if t.kind == "name" else t.text for t in self.tokens if t.kind in ("word", "name")]

    def bound(self, values: Mapping[str, Any], what: str, *, unique: bool = False) -> sa.TextClause:
        """The clause with a value for each parameter. QueryError for missing and unknown ones, and for SQL as a value.

        ``unique``: two texts in one statement may use the same name for different values.
        """
        wanted = self.parameters
        check_names(wanted, values, what)
        made = [_bind(parameter, values[name], what, unique) for name, parameter in wanted.items()]
        return self.clause.bindparams(*made)


def check_names(wanted: Collection[str], given: Collection[str], what: str) -> None:
    """QueryError unless the names are the same."""
    missing = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in wanted]
    if missing or unknown:
        raise QueryError(
            f"{what}: parameters without a value: {', '.join(missing) or 'none'}; values without a parameter: "
            f"{', '.join(unknown) or 'none'}; it has {', '.join(f':{name}' for name in wanted) or 'no parameters'}"
        )


def parse(source: str, what: str) -> SqlText:
    """Cut a text into pieces. QueryError, which begins with ``what``, for text that cannot be whole."""
    if not isinstance(source, str):
        raise QueryError(f"{what} got {type(source).__name__!r}; expected SQL as text")
    tokens = tuple(_tokens(source, what))
    _check_pairs(tokens, what)
    return SqlText(source, tuple(_pieces(source, tokens, what)), tokens)


def parse_condition(source: str, what: str) -> SqlText:
    """A text that may stand in parentheses in a WHERE clause, and cannot leave them."""
    found = parse(source, what)
    if not found.tokens:
        raise QueryError(f"{what} is empty; expected a condition such as 'level > :n'")
    if any(token.text == ";" for token in found.tokens if token.kind == "mark"):
        raise QueryError(f"{what} has a semicolon; expected one condition")
    # The line break ends a comment, which would otherwise swallow the parenthesis.
    return SqlText(source, ("(", *found.pieces, "\n)" if "--" in source else ")"), found.tokens)


# -- tokens ----------------------------------------------------------------------------------------------------------


def _tokens(source: str, what: str) -> Iterator[Token]:
    if "\0" in source:
        raise QueryError(f"{what} has a NUL character")
    if "%(" in source:
        raise QueryError(f"{what} has '%(', which begins a parameter of a driver; write '%' || '(' or '% ('")
    at = 0
    while found := _TOKEN.search(source, at):
        kind, text, at = found.lastgroup or "", found[0], found.end()
        if kind == "block":
            at = _end_of_comment(source, at, what)
        elif kind == "dollar":
            at = _end_of_dollar(source, text, at, what)
            yield Token("string", source[found.start() : at], found.start(), at)
        elif kind == "position":
            raise QueryError(f"{what} has the positional parameter {text!r}; name it, such as :name")
        elif kind not in _COMMENTS:
            if text in _NO_END:
                raise QueryError(f"{what}: {_NO_END[text]} has no end: {source[found.start() :][:30]!r}")
            yield Token(kind, text, found.start(), at)


def _end_of_comment(source: str, at: int, what: str) -> int:
    end, inner = source.find("*/", at), source.find("/*", at)
    if end < 0:
        raise QueryError(f"{what}: a comment has no end: {source[at - 2 :][:30]!r}")
    if 0 <= inner < end:
        raise QueryError(f"{what}: a comment in a comment ends in one database where it goes on in another")
    return end + 2


def _end_of_dollar(source: str, quote: str, at: int, what: str) -> int:
    end = source.find(quote, at)
    if end < 0:
        raise QueryError(f"{what}: a string has no end: {source[at - len(quote) :][:30]!r}")
    return end + len(quote)


def _check_pairs(tokens: Sequence[Token], what: str) -> None:
    opened: list[str] = []
    for token in tokens:
        if token.kind != "mark":
            continue
        if token.text in "([":
            opened.append(token.text)
        elif token.text in _PAIRS and (not opened or opened.pop() != _PAIRS[token.text]):
            raise QueryError(f"{what} has a {token.text!r} that closes nothing")
    if opened:
        raise QueryError(f"{what} has a {opened[-1]!r} that is not closed")


# -- pieces ----------------------------------------------------------------------------------------------------------


def _pieces(source: str, tokens: Sequence[Token], what: str) -> Iterator[str | Parameter]:
    at, known = 0, dict[str, bool]()
    for i, token in enumerate(tokens):
        if token.kind == "colon":
            yield source[at : token.start] + ":"
            at = token.end
        if token.kind != "parameter":
            continue
        start, end, many = _extent(tokens, i)
        name = token.text[1:]
        if known.setdefault(name, many) != many:
            raise QueryError(f"{what}: :{name} is a list after IN and a single value elsewhere; use two names")
        yield source[at:start]
        yield Parameter(name, many)
        at = end
    yield source[at:]


def _extent(tokens: Sequence[Token], i: int) -> tuple[int, int, bool]:
    """Where the parameter at ``i`` begins and ends, and whether it is a list: then its parentheses belong to it."""
    token = tokens[i]
    before = [t.text.upper() for t in tokens[max(0, i - 2) : i]]
    if before[-1:] == ["IN"]:
        return token.start, token.end, True
    if before == ["IN", "("] and i + 1 < len(tokens) and tokens[i + 1].text == ")":
        return tokens[i - 1].start, tokens[i + 1].end, True
    return token.start, token.end, False


# -- values ----------------------------------------------------------------------------------------------------------


def _bind(parameter: Parameter, value: Any, what: str, unique: bool) -> sa.BindParameter[Any]:
    if isinstance(value, sa.ClauseElement) or hasattr(value, "__clause_element__"):
        raise QueryError(f"{what}: the value of :{parameter.name} is an SQL expression; expected a plain value")
    if not parameter.many:
        return sa.bindparam(parameter.name, value, type_=type_for(value), unique=unique)
    if not isinstance(value, list | tuple | set | frozenset):
        raise QueryError(
            f"{what}: the value of :{parameter.name} is a {type(value).__name__}; expected a list, for it follows IN"
        )
    kinds = {type(item) for item in value}
    kind = type_for(next(iter(value))) if len(kinds) == 1 else None
    return sa.bindparam(parameter.name, list(value), type_=kind, expanding=True, unique=unique)
