"""What a named query writes: what its header says, held against what its text shows.

A statement that writes must say so (``-- writes: players, events``), because every cache depends on it, and may not
leave out a table that the text names. More may be said than the text shows, for functions and triggers that write.
``none`` and ``*`` (any table) are answers too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from ..errors import QueryError
from .text import SqlText, Token

Change = Literal["insert", "update", "delete"]

_READS = frozenset({"SELECT", "VALUES", "TABLE", "WITH", "SHOW"})
_REFUSED = {
    **dict.fromkeys(
        ("BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "PREPARE"),
        "transactions are the session's",
    ),
    **dict.fromkeys(("SET", "RESET", "DISCARD", "LISTEN", "UNLISTEN"), "it would outlive the call on its connection"),
    **dict.fromkeys(("CREATE", "ALTER", "DROP", "GRANT", "REVOKE"), "the schema is changed by migrations"),
    "COPY": "bulk_load() copies rows",
    "DO": "a block of code hides what it writes; make it a function",
}
_BETWEEN = frozenset({"OR", "ABORT", "FAIL", "IGNORE", "REPLACE", "ROLLBACK", "INTO", "FROM", "ONLY", "TABLE"})
_FOLLOWED = {"INSERT": ("INTO", "OR"), "REPLACE": ("INTO",), "MERGE": ("INTO",), "DELETE": ("FROM",)}
_CHANGES: dict[str, tuple[Change, ...]] = {
    "INSERT": ("insert",),
    "UPDATE": ("update",),
    "DELETE": ("delete",),
    "MERGE": ("insert", "update", "delete"),
    "REPLACE": ("insert", "update", "delete"),
    "TRUNCATE": ("delete",),
    "INTO": ("insert",),
}
_ONE = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_NAME = re.compile(_ONE)
_QUALIFIED = re.compile(rf"{_ONE}(?:\.{_ONE})?")
_NAMES = re.compile(rf"{_QUALIFIED.pattern}(?:\s*,\s*{_QUALIFIED.pattern})*")
_ALL: tuple[Change, ...] = ("insert", "update", "delete")


class Written(NamedTuple):
    """A table, or None for any, and how it is changed. The name is as it is written, without quotes."""

    table: str | None
    change: Change


def written_by(sql: SqlText, declared: str | None, what: str) -> Iterator[Written]:
    """What the statement writes. QueryError if the header leaves it out or contradicts the text."""
    first = next((token.text.upper() for token in sql.tokens if token.text != "("), "")
    if first in _REFUSED:
        raise QueryError(f"{what} begins with {first}: {_REFUSED[first]}")
    shown = list(_shown(sql.tokens))
    names = sorted({write.table for write in shown if write.table})
    if declared is None:
        if shown:
            raise QueryError(
                f"{what} writes and does not say so; add '-- writes: {', '.join(names) or '*'}' below its name"
            )
        if first not in _READS:
            raise QueryError(f"{what} begins with {first}; say which tables it writes: '-- writes: players', or 'none'")
        return
    said = _said(declared, what)
    left_out = [name for name in names if not any(same_table(name, other) for other in said)]
    if left_out and "*" not in said:
        raise QueryError(f"{what} writes {', '.join(left_out)}, which '-- writes: {declared}' leaves out")
    yield from shown
    for name in said:
        if not any(same_table(name, known) for known in names):
            yield from (Written(None if name == "*" else name, change) for change in _ALL)


def same_table(one: str, other: str) -> bool:
    """Whether two names may mean one table: a schema counts if both have one, case does not."""
    a, b = one.casefold().split("."), other.casefold().split(".")
    return a[-1] == b[-1] and (len(a) == 1 or len(b) == 1 or a == b)


def _said(declared: str, what: str) -> list[str]:
    if declared in ("none", "*"):
        return [] if declared == "none" else ["*"]
    if not _NAMES.fullmatch(declared):
        raise QueryError(f"{what}: '-- writes: {declared}' is no list of tables; expected names, 'none' or '*'")
    return [".".join(map(_unquoted, _NAME.findall(name))) for name in _QUALIFIED.findall(declared)]


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _shown(tokens: Sequence[Token]) -> Iterator[Written]:
    """The tables that the text itself writes, wherever in the statement that is."""
    careful = any(_upper(tokens, i) == "CONFLICT" for i in range(len(tokens)))
    for i in range(len(tokens)):
        verb = _verb(tokens, i)
        if verb is None:
            continue
        changes = _CHANGES[verb]
        if verb == "INSERT" and (careful or _upper(tokens, i + 1) == "OR"):
            changes = _ALL
        for table in _targets(tokens, i + 1, many=verb == "TRUNCATE"):
            yield from (Written(table, change) for change in changes)


def _verb(tokens: Sequence[Token], i: int) -> str | None:
    """The verb at ``i``, where a statement can begin: alone, in WITH (...), or after it. Or the INTO of a SELECT."""
    verb = _upper(tokens, i)
    if verb == "INTO":
        before = _upper(tokens, i - 1) if i else ""
        return verb if before not in (*_FOLLOWED, *_BETWEEN) else None
    if verb not in _CHANGES or (i and tokens[i - 1].text not in ("(", ")")):
        return None
    following = tokens[i + 1] if i + 1 < len(tokens) else None
    if following is None or following.kind not in ("word", "name"):
        return None
    return verb if following.text.upper() in _FOLLOWED.get(verb, (following.text.upper(),)) else None


def _targets(tokens: Sequence[Token], i: int, *, many: bool) -> Iterator[str | None]:
    while True:
        while _upper(tokens, i) in _BETWEEN and tokens[i].kind == "word":
            i += 1
        if i >= len(tokens) or tokens[i].kind not in ("word", "name"):
            yield None
            return
        name = _plain(tokens[i])
        while i + 2 < len(tokens) and tokens[i + 1].text == ".":
            i += 2
            name += f".{_plain(tokens[i])}"
        yield name
        i += 1
        if not many or i >= len(tokens) or tokens[i].text != ",":
            return
        i += 1


def _plain(token: Token) -> str:
    if token.kind == "name":
        quote = token.text[0]
        return token.text[1:-1].replace(quote * 2, quote)
    return token.text.lower()


def _upper(tokens: Sequence[Token], i: int) -> str:
    return tokens[i].text.upper() if i < len(tokens) else ""
