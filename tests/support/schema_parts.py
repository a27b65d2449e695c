"""Small schemas as sets of parts: any set of them, with what they need, is one, and more parts are an additive edit.

``PARTS`` are two tables and what can be on them. Each part is added to a :class:`Draft`, which becomes a MetaData.
"""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from migrate_support import metadata
from sqlalchemy.dialects import postgresql

from datalayer.models.base import UTCDateTime

EPOCH = dt.datetime(2024, 5, 17, 12, 0, tzinfo=dt.UTC)


@dataclass
class Draft:
    """What the tables will have, by table."""

    items: dict[str, list[Any]] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: list[str] = field(default_factory=lambda: ["good", "bad"])
    wide: bool = False
    tables: dict[str, Callable[[], list[Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """``needs``: other parts. ``sqlite``: SQLite can add it to a table that exists."""

    add: Callable[[Draft], None]
    needs: tuple[str, ...] = ()
    sqlite: bool = True


def table(name: str, *columns: Callable[[], sa.Column[Any]], **options: Any) -> Part:
    def add(draft: Draft) -> None:
        draft.items.setdefault(name, [])[:0] = [column() for column in columns]
        draft.options[name] = options

    return Part(add)


def on(name: str, item: Callable[[Draft], Any], *needs: str, sqlite: bool = True) -> Part:
    return Part(lambda draft: draft.items[name].append(item(draft)), (name, *needs), sqlite)


def _labelled(draft: Draft) -> None:
    draft.labels[1:1] = ["so-so"]


def _wide(draft: Draft) -> None:
    draft.wide = True


def _mood(draft: Draft) -> sa.Column[Any]:
    return sa.Column("mood", sa.Enum(*draft.labels, name="mood"))


def _id() -> sa.Column[Any]:
    return sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)


PARTS: dict[str, Part] = {
    "a": table("a", _id, lambda: sa.Column("name", sa.Text)),
    "b": table("b", _id, lambda: sa.Column("size", sa.Integer)),
    "pairs": table("pairs", _id, lambda: sa.Column("part", sa.Text, primary_key=True)),
    "note": on("a", lambda _: sa.Column("note", sa.Text)),
    "level": on("a", lambda _: sa.Column("level", sa.Integer, nullable=False, server_default="7")),
    "must": on("a", lambda _: sa.Column("must", sa.Text, nullable=False, default="a:b 100%")),
    "flag": on("b", lambda _: sa.Column("flag", sa.Boolean, nullable=False, server_default=sa.true())),
    "amount": on("b", lambda _: sa.Column("amount", sa.Numeric(10, 2))),
    "moment": on("b", lambda _: sa.Column("moment", UTCDateTime)),
    "document": on("a", lambda _: sa.Column("document", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"))),
    "strange name": on("a", lambda _: sa.Column("Order %", sa.Text)),
    "mood": on("a", _mood),
    "code": on("b", lambda _: sa.Column("code", sa.Text, unique=True)),
    "owner": on("a", lambda _: sa.Column("owner_id", sa.Integer, sa.ForeignKey("b.id", ondelete="SET NULL")), "b"),
    "boss": on("a", lambda _: sa.Column("boss_id", sa.Integer)),
    "parent": on("b", lambda _: sa.Column("parent_id", sa.Integer, sa.ForeignKey("b.id"))),
    "short": on("b", lambda draft: sa.Column("short", sa.Text() if draft.wide else sa.String(20))),
    "checked": on(
        "a", lambda _: sa.Column("checked", sa.Integer, sa.CheckConstraint("checked >= 0", name="checked")), sqlite=True
    ),
    "index": on("a", lambda _: sa.Index("ix_a_name", "name")),
    "index of two": on("b", lambda _: sa.Index("ix_b_two", "size", "id", unique=True)),
    "index of some": on(
        "b",
        lambda _: sa.Index("ix_b_some", "size", postgresql_where=sa.text("size > 0"), sqlite_where=sa.text("size > 0")),
    ),
    "index of owners": on("a", lambda _: sa.Index("ix_a_owner", "owner_id"), "owner"),
    "index of an expression": on("a", lambda _: sa.Index("ix_a_lower", sa.text("lower(name)"))),
    "unique": on("b", lambda _: sa.UniqueConstraint("size", "id")),
    # What SQLite takes only when the table is made:
    "label": Part(_labelled, ("mood",), sqlite=False),
    "wide": Part(_wide, ("short",), sqlite=False),
    "check": on("b", lambda _: sa.CheckConstraint("size >= 0", name="size"), sqlite=False),
    "key": on("a", lambda _: sa.ForeignKeyConstraint(["boss_id"], ["b.id"]), "boss", "b", sqlite=False),
}


def closed(parts: Iterable[str]) -> frozenset[str]:
    """These parts and all that they need."""
    found: set[str] = set()
    waiting = list(parts)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += PARTS[name].needs
    return frozenset(found)


def schema(parts: frozenset[str]) -> sa.MetaData:
    """The schema that these parts are; they are closed."""
    draft = Draft()
    # What changes a column comes before the column, and otherwise the order of PARTS is one that works.
    for name in sorted(parts, key=lambda name: (name not in ("label", "wide"), list(PARTS).index(name))):
        PARTS[name].add(draft)
    found = metadata()
    for name, items in draft.items.items():
        sa.Table(name, found, *items, **draft.options[name])
    return found


def row(table: sa.Table, number: int) -> dict[str, Any]:
    """A row of the table that no other number has, and that needs no other row."""
    return {column.name: _value(column, number) for column in table.columns if _wanted(column)}


def _wanted(column: sa.Column[Any]) -> bool:
    return not column.name.endswith("_id") and column.name != "level"


def _value(column: sa.Column[Any], number: int) -> Any:
    kind = column.type
    if isinstance(kind, sa.Enum):
        return kind.enums[number % len(kind.enums)]
    values: dict[type, Any] = {
        int: number,
        str: f"text: {number} %s",
        bool: number % 2 == 0,
        decimal.Decimal: decimal.Decimal(number) / 4,
        dt.datetime: EPOCH + dt.timedelta(hours=number),
        dict: {"n": number},
    }
    return values[dict if isinstance(kind, sa.JSON) else kind.python_type]
