"""Mapped classes for tests of queries."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import random
import uuid

import sqlalchemy as sa
from sqlalchemy import ForeignKey, MetaData
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, registry, relationship

from datalayer import Model, SoftDelete, column


class Base(DeclarativeBase):
    registry = registry(metadata=MetaData(), type_annotation_map=dict(Model.registry.type_annotation_map))


class Rank(enum.Enum):
    LOW = "l"
    HIGH = "h"


badges = sa.Table(
    "q_badges",
    Base.metadata,
    sa.Column("player_id", ForeignKey("q_players.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("label", sa.Text, primary_key=True),
)


class Club(Base):
    __tablename__ = "q_clubs"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]
    players: Mapped[list[Player]] = relationship(back_populates="club", passive_deletes=True)


class Player(Base):
    __tablename__ = "q_players"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str | None] = column(unique=True, nullable=True)
    level: Mapped[int] = column(default=1)
    region: Mapped[str] = column(default="eu")
    score: Mapped[int | None] = column(nullable=True)
    seen: Mapped[dt.datetime | None] = column(nullable=True)
    club_id: Mapped[int | None] = column(ForeignKey("q_clubs.id", ondelete="SET NULL"), nullable=True)
    club: Mapped[Club | None] = relationship(back_populates="players")

    @hybrid_property
    def strong(self) -> bool:
        return self.level > 100


class Sample(Base):
    """One column of each kind that a page may be ordered by."""

    __tablename__ = "q_samples"
    part: Mapped[str] = column(primary_key=True)
    number: Mapped[int] = column(primary_key=True)
    text: Mapped[str | None] = column(nullable=True)
    whole: Mapped[int] = column(default=0)
    ratio: Mapped[float | None] = column(nullable=True)
    small: Mapped[float] = mapped_column(sa.REAL)
    price: Mapped[decimal.Decimal | None] = column(nullable=True)
    at: Mapped[dt.datetime | None] = column(nullable=True)
    day: Mapped[dt.date]
    token: Mapped[uuid.UUID]
    flag: Mapped[bool]
    rank: Mapped[Rank] = mapped_column(sa.Enum(Rank, name="q_rank"))
    raw: Mapped[bytes]


START = dt.datetime(2024, 5, 17, 12, tzinfo=dt.UTC)


def sample(number: int, rng: random.Random) -> Sample:
    """Few values of each column, so that there are ties; some of them differ in what their Python form can lose."""
    return Sample(
        part=rng.choice("ab"),
        number=number,
        text=rng.choice([None, "", "a", "A", "é", "ä", "z:'%"]),
        whole=rng.choice([0, 1, 2**40]),
        ratio=rng.choice([None, 0.1, 1 / 3, -0.0, 1e300]),
        small=rng.choice([0.1, 0.3, 1 / 3, 2.5]),
        price=rng.choice([None, decimal.Decimal("0.1"), decimal.Decimal("0.33333333333333"), decimal.Decimal(7)]),
        at=rng.choice([None, START, START + dt.timedelta(microseconds=1), START + dt.timedelta(days=1)]),
        day=rng.choice([START.date(), START.date() + dt.timedelta(days=1)]),
        token=uuid.UUID(int=rng.choice([1, 2, 3])),
        flag=rng.choice([True, False]),
        rank=rng.choice(list(Rank)),
        raw=rng.choice([b"", b"\0", b"\xff"]),
    )


class Gone(SoftDelete, Base):
    __tablename__ = "q_gone"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


class Vehicle(Base):
    __tablename__ = "q_vehicles"
    id: Mapped[int] = column(primary_key=True)
    kind: Mapped[str]
    wheels: Mapped[int] = column(default=4)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "vehicle"}  # noqa: RUF012


class Truck(Vehicle):
    load: Mapped[int | None] = column(nullable=True)
    __mapper_args__ = {"polymorphic_identity": "truck"}  # noqa: RUF012


class Boat(Vehicle):
    __tablename__ = "q_boats"
    id: Mapped[int] = column(ForeignKey("q_vehicles.id"), primary_key=True)
    sails: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "boat"}  # noqa: RUF012
