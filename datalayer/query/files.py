"""``.sql`` files with named queries, read and checked without a database.

A query is a header, comment lines that say more, and one statement::

    -- name: list_recent :many
    -- returns: Player
    -- The players who were seen last.
    SELECT * FROM players WHERE seen > :since ORDER BY seen DESC LIMIT :n;

Kinds: ``:many`` rows, ``:one`` row or none, ``:scalar`` the one value of one row, ``:exec`` the number of rows written.
``-- returns:`` is a mapped class, a type, or ``name type`` pairs; ``-- writes:`` the tables that the statement writes.
Every other comment line before the statement is the method's documentation.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..contracts.suggest import did_you_mean
from ..errors import QueryError
from .effects import Written, written_by
from .text import SqlText, parse

KINDS = ("one", "many", "exec", "scalar")
RESERVED = ("in_session", "definitions")

_HEADER = re.compile(r"--\s*name\s*:(?P<rest>.*)", re.IGNORECASE)
_NAME = re.compile(r"\s*(?P<name>\S+)\s+:(?P<kind>\S+)\s*")
_NOTE = re.compile(r"--\s*(?P<key>[A-Za-z]+)\s*:(?P<text>.*)")
_KEYS = ("returns", "writes")


@dataclass(frozen=True, slots=True)
class Definition:
    """One named query. ``line``: of its header, ``first``: of its first line after the comments, both from 1."""

    name: str
    kind: str
    sql: SqlText
    written: tuple[Written, ...]
    returns: str | None
    doc: str
    path: Path
    line: int
    first: int

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.name} ({self.path.name}:{self.line})"


def read_queries(directory: str | Path) -> dict[str, Definition]:
    """The queries of all ``*.sql`` files of a directory, by name. QueryError says where something is wrong."""
    folder = Path(directory)
    if not folder.is_dir():
        raise QueryError(f"{str(folder)!r} is no directory; expected one with .sql files")
    found: dict[str, Definition] = {}
    for path in sorted(folder.glob("*.sql")):
        for definition in read_file(path):
            other = found.setdefault(definition.name, definition)
            if other is not definition:
                raise QueryError(f"two queries are named {definition.name!r}: {other.place} and {definition.place}")
    if not found:
        raise QueryError(f"{str(folder)!r} has no queries; expected .sql files with '-- name: list_recent :many'")
    return found


def read_file(path: Path) -> list[Definition]:
    """The queries of one file, in order."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"{path.name} cannot be read: {type(error).__name__}; expected UTF-8 text") from error
    starts = [i for i, line in enumerate(lines) if _HEADER.match(line.strip())]
    before = lines[: starts[0]] if starts else lines
    for number, line in enumerate(before, 1):
        if line.strip() and not line.strip().startswith("--"):
            raise QueryError(f"{path.name}:{number}: SQL before the first '-- name: ... :many' header")
    ends = [*starts[1:], len(lines)] if starts else []
    return [_definition(path, start + 1, lines[start:end]) for start, end in zip(starts, ends, strict=True)]


def _definition(path: Path, line: int, block: Sequence[str]) -> Definition:
    name, kind = _header(block[0].strip(), f"{path.name}:{line}")
    what = f"{name} ({path.name}:{line})"
    comments = 1
    while comments < len(block) and (not block[comments].strip() or block[comments].strip().startswith("--")):
        comments += 1
    notes, doc = _notes(block[1:comments], what)
    sql = _statement("\n".join(block[comments:]), what)
    written = tuple(written_by(sql, notes.get("writes"), what))
    if kind == "exec" and "returns" in notes:
        raise QueryError(f"{what} is :exec, which returns the number of rows; leave '-- returns:' out")
    return Definition(name, kind, sql, written, notes.get("returns"), doc, path, line, line + comments)


def _header(text: str, where: str) -> tuple[str, str]:
    found = _NAME.fullmatch(_HEADER.match(text)["rest"])  # type: ignore[index]  # such lines were looked for
    if found is None:
        raise QueryError(f"{where}: {text!r} is no header; expected such as '-- name: list_recent :many'")
    name, kind = found["name"], found["kind"]
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_") or name in RESERVED:
        raise QueryError(f"{where}: {name!r} cannot be the name of a method; choose another")
    if kind not in KINDS:
        raise QueryError(f"{where}: {name} is :{kind}; expected {', '.join(f':{k}' for k in KINDS)}")
    return name, kind


def _notes(comments: Sequence[str], what: str) -> tuple[dict[str, str], str]:
    """What the comments below a header say, and the rest of them as documentation."""
    notes: dict[str, str] = {}
    doc: list[str] = []
    for comment in comments:
        text = comment.strip()
        found = _NOTE.fullmatch(text)
        key = found["key"].lower() if found else ""
        if found and key in _KEYS:
            if key in notes:
                raise QueryError(f"{what} says '-- {key}:' twice")
            notes[key] = found["text"].strip()
        elif key and (close := did_you_mean(key, _KEYS, cutoff=0.75, shown="'-- {}:'")):
            raise QueryError(f"{what}: '-- {key}:' is not known{close}")
        elif text:
            doc.append(text.removeprefix("--").strip())
    return notes, "\n".join(doc).strip()


def _statement(source: str, what: str) -> SqlText:
    """One statement without its semicolon."""
    found = parse(source, what)
    ends = [token for token in found.tokens if token.kind == "mark" and token.text == ";"]
    if ends and ends[0] is not found.tokens[-1]:
        raise QueryError(f"{what} has more than one statement; give each a '-- name:' header of its own")
    if ends:
        found = parse(source[: ends[0].start], what)
    if not found.tokens:
        raise QueryError(f"{what} has no statement")
    return found
