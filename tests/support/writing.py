"""Models that are written in every way: the tables of the tests of writes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from datalayer import CachePolicy, DataLayer, Hooks, SoftDelete, Timestamps, Versioned, column
from datalayer.models.base import _registry


class Own(DeclarativeBase):
    """A base of its own: nobody else's layer knows these models."""

    registry = _registry()


class Account(Timestamps, Own):
    __tablename__ = "w_accounts"
    id: Mapped[int] = column(primary_key=True)
    owner: Mapped[str]
    balance: Mapped[int] = column(default=0)
    note: Mapped[str | None] = column(nullable=True)


class Cart(Own):
    __tablename__ = "w_carts"
    id: Mapped[int] = column(primary_key=True)
    account_id: Mapped[int] = column(ForeignKey("w_accounts.id", ondelete="CASCADE"))


class Line(Own):
    """A composite key."""

    __tablename__ = "w_lines"
    cart: Mapped[int] = column(primary_key=True)
    number: Mapped[int] = column(primary_key=True)
    what: Mapped[str]


class Guarded(Versioned, Own):
    __tablename__ = "w_guarded"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


class Memo(SoftDelete, Own):
    __tablename__ = "w_memos"
    id: Mapped[int] = column(primary_key=True)
    text: Mapped[str]


class Secret(Own):
    __tablename__ = "w_secrets"
    id: Mapped[int] = column(primary_key=True)
    email: Mapped[str] = column(encrypted=True, blind_index=True, unique=True)
    token: Mapped[str | None] = column(encrypted=True, bind="row", nullable=True)


class Heard:
    """What the hooks of :class:`Watched` were told, and what they shall do."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.before: Callable[[Any], object] = lambda obj: None
        self.after: Callable[[Any], object] = lambda obj: None

    def before_set(self, obj: Any) -> None:
        self.calls.append(("before_set", obj.id, obj.name))
        self.before(obj)

    def after_set(self, obj: Any) -> None:
        self.calls.append(("after_set", obj.id, obj.name))
        self.after(obj)

    def before_get(self, cls: type[Any], ident: Any) -> None:
        self.calls.append(("before_get", ident))

    def on_write_error(self, key: Any, error: BaseException) -> None:
        self.calls.append(("on_write_error", key, type(error).__name__))

    def taken(self, kind: str = "") -> list[tuple[Any, ...]]:
        """The calls since the last time, those of one hook if it is named."""
        found, self.calls = self.calls, []
        return [call for call in found if not kind or call[0] == kind]


heard = Heard()


class Watched(Own):
    __tablename__ = "w_watched"
    __cache__ = CachePolicy(
        hooks=Hooks(
            before_set=heard.before_set,
            after_set=heard.after_set,
            before_get=heard.before_get,
            on_write_error=heard.on_write_error,
        )
    )
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


class Parent(Own):
    """Deletes its children in Python."""

    __tablename__ = "w_parents"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]
    children: Mapped[list[Child]] = sa.orm.relationship(cascade="all, delete-orphan")


class Child(Own):
    __tablename__ = "w_children"
    id: Mapped[int] = column(primary_key=True)
    parent_id: Mapped[int] = column(ForeignKey("w_parents.id"))


class Base(DeclarativeBase):
    """Somebody else's models, with nothing of ours."""


class Plain(Base):
    __tablename__ = "w_plain"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="nameless")
    at: Mapped[dt.datetime | None] = mapped_column(sa.DateTime(timezone=True))


def _label(context: Any) -> str:
    return f"of {context.get_current_parameters()['id']}"


class Labelled(Base):
    """A default that looks at the row that is inserted."""

    __tablename__ = "w_labelled"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default=_label)


MODELS = [Account, Cart, Line, Guarded, Memo, Secret, Watched, Parent, Child, Plain, Labelled]
KEYS = {"k1": bytes(range(32))}


def create_tables(layer: DataLayer) -> None:
    for cls in MODELS:
        cls.__table__.create(layer.engine, checkfirst=True)  # type: ignore[attr-defined]
