"""What a write set means to the shared tier: the names of keys and tags, shard by shard.

Tags of a space: ``=<space>`` stands for all of its rows, ``+<space>`` for rows that did not exist. They are marked in
every shard, because every shard holds rows of the space. Tags of cached queries live in one shard for each table:
``?<table>`` for any change of the table, ``!<table>`` for changes whose old and new values are not known,
``?<table>:<column>=<digest>`` for rows with a value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from ..contracts.coherence import Change, WriteSet
from ..contracts.fence import Names
from ..contracts.keys import key_text

#: A transaction that wrote more rows of one space than this marks the space instead.
MOST_KEYS = 2000

#: A transaction that wrote more values than this, of columns that cached queries ask by, does not name them.
MOST_VALUES = 200


class Named(Protocol):
    """What naming needs of a space."""

    space: str


class Touched(NamedTuple):
    """Names of keys, of tags that concern every shard, and of tags that live in one."""

    keys: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()
    narrow: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.keys or self.wide or self.narrow)


class Shards(Protocol):
    shards: int

    def shard_of(self, name: str) -> int: ...


def touched(
    written: WriteSet, changes: Iterable[tuple[Named, Change]], known: Container[str], narrow: tuple[str, ...]
) -> Touched:
    """The names of everything that ``written`` concerns. A table that is not ``known`` is named after itself.

    ``changes`` are what it means for the spaces, ``narrow`` its :func:`query_tags`.
    """
    keys: list[str] = []
    wide: set[str] = set()
    for space, change in changes:
        _name(space.space, change, keys, wide)
    for base, rows in written.keys.items():
        if base not in known:
            _name(_quoted(base), Change(keys=frozenset(rows)), keys, wide)
    wide.update(f"={_quoted(t)}" for t in written.tables | written.deleted | written.rekeyed if t not in known)
    wide.update(f"+{_quoted(table)}" for table in written.births if table not in known)
    return Touched(tuple(keys), tuple(wide), narrow)


def _name(space: str, change: Change, keys: list[str], wide: set[str]) -> None:
    if change.whole or len(change.keys) > MOST_KEYS:
        wide.add(f"={space}")
    else:
        keys += [f"{space}:{key_text(key if isinstance(key, tuple) else (key,))}" for key in change.keys]
    if change.births or change.whole:
        wide.add(f"+{space}")


def query_tags(written: WriteSet, tables: Iterable[str]) -> Iterable[str]:
    """The tags of the cached queries that may have changed; ``tables`` are all that there are."""
    vague = written.tables | written.births | written.deleted | written.rekeyed
    if written.everything:
        vague = vague.union(tables)
    exact = {table for tables in written.extent.values() for table in tables}
    for table in vague | exact:
        yield table_tag(table)
    many = len(written.values) > MOST_VALUES
    for table in vague | written.vague | ({table for table, _, _ in written.values} if many else set()):
        yield vague_tag(table)
    for table, column, value in () if many else written.values:
        yield value_tag(table, column, value)


def table_tag(table: str) -> str:
    """The tag of every change of a table."""
    return f"?{_quoted(table)}"


def vague_tag(table: str) -> str:
    """The tag of the changes of a table whose old and new values are not known."""
    return f"!{_quoted(table)}"


def value_tag(table: str, column: str, value: Any) -> str:
    """The tag of the rows of a table whose column has a value."""
    text = f"{type(value).__name__}:{value}".encode("utf-8", "surrogatepass")
    return f"?{_quoted(table)}:{_quoted(column)}={hashlib.blake2b(text, digest_size=10).hexdigest()}"


def home(name: str) -> str:
    """What decides in which shard a name lives: itself, or the table of a query's tag."""
    return "?" + name[1:].partition(":")[0] if name[:1] in ("?", "!") else name


def _quoted(name: str) -> str:
    return quote(name, safe="-_.")


def distribute(names: Touched, shards: Shards) -> dict[int, Names]:
    """The names that concern each shard."""
    keys: dict[int, list[str]] = {}
    tags: dict[int, list[str]] = {}
    for key in names.keys:
        keys.setdefault(shards.shard_of(key), []).append(key)
    for tag in names.narrow:
        tags.setdefault(shards.shard_of(tag), []).append(tag)
    if names.wide:
        for shard in range(shards.shards):
            tags.setdefault(shard, []).extend(names.wide)
    return {shard: Names(tuple(keys.get(shard, ())), tuple(tags.get(shard, ()))) for shard in keys.keys() | tags.keys()}
