"""Mapped classes of every kind that the layer must get right, on one declarative base."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import uuid
from typing import Any

from sqlalchemy import JSON, Column, ForeignKey, Integer, String, Table, UniqueConstraint, event
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import Mapped, composite, deferred, mapped_column, reconstructor, relationship

from datalayer import CachePolicy, Hooks, L1Policy, Model, SoftDelete, Timestamps, Versioned, column


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


tagged = Table(
    "zoo_tagged",
    Model.metadata,
    Column("player_id", ForeignKey("zoo_players.id", ondelete="CASCADE"), primary_key=True),
    Column("tag_id", ForeignKey("zoo_tags.id", ondelete="CASCADE"), primary_key=True),
)


class Club(Model):
    __tablename__ = "zoo_teams"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str] = column(unique=True)
    players: Mapped[list[Member]] = relationship(back_populates="team", passive_deletes=True)


class Member(Model):
    __tablename__ = "zoo_players"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str | None] = column(unique=True, nullable=True)
    level: Mapped[int] = column(default=1)
    secret: Mapped[str | None] = column(omit_cache=True, nullable=True)
    profile: Mapped[dict[str, Any] | None] = column(nullable=True)
    team_id: Mapped[int | None] = column(ForeignKey("zoo_teams.id", ondelete="SET NULL"), nullable=True)
    team: Mapped[Club | None] = relationship(back_populates="players")
    tags: Mapped[list[Tag]] = relationship(secondary=tagged)


class Tag(Model):
    __tablename__ = "zoo_tags"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


class Badge(Model):
    """Dies with its player, by the database's own cascade."""

    __tablename__ = "zoo_badges"
    id: Mapped[int] = column(primary_key=True)
    player_id: Mapped[int] = column(ForeignKey("zoo_players.id", ondelete="CASCADE"))
    label: Mapped[str]


class Everything(Model):
    """A column of every type of the type map."""

    __tablename__ = "zoo_everything"
    id: Mapped[uuid.UUID] = column(primary_key=True)
    text: Mapped[str]
    number: Mapped[int]
    ratio: Mapped[float]
    flag: Mapped[bool]
    raw: Mapped[bytes]
    at: Mapped[dt.datetime]
    day: Mapped[dt.date]
    clock: Mapped[dt.time]
    span: Mapped[dt.timedelta]
    price: Mapped[decimal.Decimal]
    token: Mapped[uuid.UUID]
    colour: Mapped[Colour]
    items: Mapped[list[Any]]
    tree: Mapped[dict[str, Any]]
    missing: Mapped[str | None] = column(nullable=True)


class Place(Model):
    """A composite key."""

    __tablename__ = "zoo_places"
    country: Mapped[str] = column(primary_key=True)
    number: Mapped[int] = column(primary_key=True)
    name: Mapped[str]
    kind: Mapped[str] = column(default="city")
    __table_args__ = (UniqueConstraint("name", "kind"),)


class Animal(Model):
    """The base of a joined-table hierarchy."""

    __tablename__ = "zoo_animals"
    id: Mapped[int] = column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012


class Dog(Animal):
    __tablename__ = "zoo_dogs"
    id: Mapped[int] = column(ForeignKey("zoo_animals.id"), primary_key=True)
    tricks: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012


class Vehicle(Model):
    """The base of a single-table hierarchy."""

    __tablename__ = "zoo_vehicles"
    id: Mapped[int] = column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "vehicle"}  # noqa: RUF012


class Truck(Vehicle):
    load: Mapped[int | None] = column(nullable=True)
    __mapper_args__ = {"polymorphic_identity": "truck"}  # noqa: RUF012


class Point:
    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __composite_values__(self) -> tuple[int, int]:
        return self.x, self.y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (other.x, other.y) == (self.x, self.y)

    __hash__ = None  # type: ignore[assignment]


class Fancy(Model):
    """Everything that needs the ORM's own loader: mutable tracking, a composite, a reconstructor, a deferred column."""

    __tablename__ = "zoo_fancy"
    id: Mapped[int] = column(primary_key=True)
    data: Mapped[dict[str, Any]] = mapped_column(MutableDict.as_mutable(JSON()))
    x: Mapped[int]
    y: Mapped[int]
    point: Mapped[Point] = composite(Point, "x", "y")
    essay: Mapped[str | None] = deferred(mapped_column(String, nullable=True))
    rebuilt = False

    @reconstructor
    def _rebuild(self) -> None:
        self.rebuilt = True


class Account(Versioned, Timestamps, Model):
    __tablename__ = "zoo_accounts"
    id: Mapped[int] = column(primary_key=True)
    balance: Mapped[int]


class Note(SoftDelete, Model):
    __tablename__ = "zoo_notes"
    id: Mapped[int] = column(primary_key=True)
    text: Mapped[str]


class Half(Model):
    """A column that L2 may hold and L1 may not."""

    __tablename__ = "zoo_half"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]
    big: Mapped[str] = column(omit_l1=True)


class Plain(Model):
    """Flags on a plain mapped column."""

    __tablename__ = "zoo_plain"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]
    hidden: Mapped[str] = mapped_column(info={"datalayer": {"omit_cache": True}})


class Uncached(Model):
    __tablename__ = "zoo_uncached"
    __cache__ = CachePolicy(enabled=False)
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


tenant: list[str | None] = [None]


class Tenanted(Model):
    """Separate caches for each tenant."""

    __tablename__ = "zoo_tenanted"
    __cache__ = CachePolicy(cache_scope=lambda: tenant[0])
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


heard: list[tuple[str, Any]] = []


def _refuse(obj: Any) -> None:
    if obj.name == "refused":
        raise ValueError("refused by the hook")


class Hooked(Model):
    __tablename__ = "zoo_hooked"
    __cache__ = CachePolicy(
        l1=L1Policy(ttl="1m"),
        hooks=Hooks(
            before_set=_refuse,
            after_set=lambda obj: heard.append(("after_set", obj.id)),
            before_get=lambda cls, ident: heard.append(("before_get", ident)),
        ),
    )
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


class Loud(Model):
    """Somebody listens to its loads."""

    __tablename__ = "zoo_loud"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


loads: list[int] = []
event.listen(Loud, "load", lambda target, context: loads.append(target.id))


class Employee(Model):
    """Refers to itself, and forbids one relationship to load lazily."""

    __tablename__ = "zoo_employees"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]
    boss_id: Mapped[int | None] = column(ForeignKey("zoo_employees.id"), nullable=True)
    boss: Mapped[Employee | None] = relationship(remote_side=[id], lazy="raise")


class Natural(Model):
    """A natural key that others refer to with ON UPDATE CASCADE."""

    __tablename__ = "zoo_naturals"
    code: Mapped[str] = column(primary_key=True)
    label: Mapped[str]


class Follower(Model):
    __tablename__ = "zoo_followers"
    id: Mapped[int] = column(primary_key=True)
    code: Mapped[str] = column(ForeignKey("zoo_naturals.code", onupdate="CASCADE"))


class Sized(Model):
    __tablename__ = "zoo_sized"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    body: Mapped[str]
