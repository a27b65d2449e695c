"""Files named ``NNN_description.sql``: found, read, and checked before any of them is run.

A file is one of these::

    001_people.sql                       up only, or up and down in sections: -- +up ... -- +down ...
    002_index.up.sql, 002_index.down.sql

``-- datalayer: no-transaction`` runs the statements one by one without a transaction, as CREATE INDEX CONCURRENTLY
demands. ``-- datalayer: allow <rule>`` above a statement tells the lint that it is meant.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import MigrationFileError
from .sqltext import Statement, split

_NAME = re.compile(r"(?P<version>\d+)_(?P<name>[^.]+)(?:\.(?P<way>up|down))?\.sql$")
_MARK = re.compile(r"^[ \t]*--[ \t]*(?:\+|migrate:[ \t]*|\+goose[ \t]+)(?P<way>up|down)\b.*$", re.I | re.M)
_OUTSIDE = re.compile(r"^[ \t]*--[ \t]*datalayer:[ \t]*no-transaction[ \t]*$", re.I | re.M)
_CONTROL = re.compile(r"(BEGIN|START TRANSACTION|COMMIT|END|ROLLBACK|ABORT|SAVEPOINT|RELEASE)\b", re.I)
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Script:
    """One direction of a migration. ``outside``: not in a transaction."""

    text: str
    outside: bool
    path: Path
    first_line: int = 1

    @property
    def checksum(self) -> str:
        """Of the text as it is read: line ends and white space at the ends of lines do not count."""
        lines = (line.rstrip() for line in self.text.splitlines())
        return hashlib.sha256("\n".join(lines).strip().encode()).hexdigest()

    def statements(self) -> list[Statement]:
        """What is run. BEGIN at the start and COMMIT at the end mean what is done anyway; others raise."""
        found = split(self.text, self.first_line)
        if len(found) > 1 and _is(found[0], "BEGIN|START TRANSACTION") and _is(found[-1], "COMMIT|END"):
            found = found[1:-1]
        for statement in found:
            if _CONTROL.match(statement.bare):
                raise MigrationFileError(
                    f"{self.path.name}, line {statement.line}: {statement.bare[:40]!r} would end the transaction that "
                    "the file is run in; take it out, or write -- datalayer: no-transaction and split the file"
                )
        return found


def _is(statement: Statement, words: str) -> bool:
    return re.fullmatch(rf"({words})( TRANSACTION| WORK)?", statement.bare, re.I) is not None


@dataclass(frozen=True, slots=True)
class MigrationFile:
    """One migration: its number, its description, and what it does and undoes."""

    version: int
    digits: str
    name: str
    up: Script
    down: Script | None


def read_directory(directory: str | Path) -> list[MigrationFile]:
    """The migrations of a directory in order. MigrationFileError for what cannot be used; nothing has been run then."""
    folder = Path(directory)
    if not folder.is_dir():
        raise MigrationFileError(f"{folder}: there is no such directory; expected one with NNN_description.sql files")
    parts: dict[int, list[tuple[re.Match[str], Path]]] = {}
    for path in sorted(folder.glob("*.sql")):
        found = _parsed(path)
        parts.setdefault(int(found["version"]), []).append((found, path))
    return [_migration(version, parts[version]) for version in sorted(parts)]


def _parsed(path: Path) -> re.Match[str]:
    found = _NAME.match(path.name)
    if found is None:
        raise MigrationFileError(f"{path.name}: expected a name such as 001_description.sql or 001_description.up.sql")
    if int(found["version"]) > _LARGEST:
        raise MigrationFileError(f"{path.name}: the number is larger than {_LARGEST}")
    return found


def _migration(version: int, parts: list[tuple[re.Match[str], Path]]) -> MigrationFile:
    _require_one(version, parts)
    scripts = {way: script for found, path in parts for way, script in _scripts(found["way"], path)}
    found = parts[0][0]
    if "up" not in scripts:
        raise MigrationFileError(f"{parts[0][1].name}: there is a way down and none up; add {found['name']}.up.sql")
    return MigrationFile(version, found["version"], found["name"], scripts["up"], scripts.get("down"))


def _require_one(version: int, parts: list[tuple[re.Match[str], Path]]) -> None:
    ways = sorted(found["way"] or "both" for found, _ in parts)
    names = {found["name"] for found, _ in parts}
    if len(names) > 1 or ways not in (["both"], ["up"], ["down"], ["down", "up"]):
        listed = ", ".join(path.name for _, path in parts)
        raise MigrationFileError(f"number {version} is used more than once: {listed}; give one of them the next number")


def _scripts(way: str | None, path: Path) -> Iterator[tuple[str, Script]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise MigrationFileError(f"{path.name}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    if "\x00" in text:
        raise MigrationFileError(f"{path.name}: contains a zero byte; expected SQL text")
    marks = list(_MARK.finditer(text))
    if way is not None or not marks:
        yield way or "up", Script(text, bool(_OUTSIDE.search(text)), path)
        return
    head = text[: marks[0].start()]
    if split(head):
        raise MigrationFileError(
            f"{path.name}: there are statements above the first -- +up or -- +down; move them below"
        )
    if len({mark["way"].lower() for mark in marks}) != len(marks):
        raise MigrationFileError(f"{path.name}: more than one section of one direction; join them")
    for mark, end in zip(marks, [*(m.start() for m in marks[1:]), len(text)], strict=True):
        body = text[mark.end() : end]
        outside = bool(_OUTSIDE.search(head) or _OUTSIDE.search(body))
        yield mark["way"].lower(), Script(body, outside, path, 1 + text.count("\n", 0, mark.end()))
