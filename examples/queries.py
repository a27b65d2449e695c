"""Queries: values that are built call by call, pages, and SQL of your own with names and types.

Runs without any server: ``python examples/queries.py``. With ``DATALAYER_URL`` on an empty PostgreSQL database.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Protocol

from sqlalchemy import Index, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped

from datalayer import DataLayer, Model, Q, Queries, column

START = datetime(2024, 5, 17, tzinfo=UTC)


class Base(DeclarativeBase):
    metadata = MetaData()
    type_annotation_map = Model.registry.type_annotation_map


class Player(Base):
    __tablename__ = "players"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]
    region: Mapped[str]
    score: Mapped[int]
    seen: Mapped[datetime | None] = column(nullable=True)
    __table_args__ = (Index("ix_players_score", "score", "id"),)  # what pages by score are read from


class Score(NamedTuple):
    name: str
    score: int


@dataclass
class Standing:
    region: str
    players: int
    best: int


class PlayerQueries(Queries, Protocol):
    """How the queries of ``examples/queries/*.sql`` are called. Held against the files when they are loaded."""

    def standings(self) -> list[Standing]: ...
    def seen_since(self, moment: datetime, *, regions: Sequence[str]) -> list[Player]: ...
    def best_score(self, region: str) -> int | None: ...
    def promote(self, id: int, *, by: int = 10) -> Player: ...
    def rename_region(self, *, old: str, new: str) -> int: ...


def built_queries(layer: DataLayer) -> None:
    players = layer.repository(Player)
    eu = Q(Player).where(Player.score >= 50, region="eu").order_by("-score").limit(3)
    print("best of eu:", [player.name for player in players.search(eu)])
    print("as rows:", players.search(eu.fields(Score))[0])
    print("how many:", players.count(eu.limit(None)), "any:", players.exists(eu), "sum:", players.sum("score", eu))
    hostile = "eu' OR '1'='1"
    print("a value is never SQL:", players.search(Q(Player).where_sql("region = :region", region=hostile)))


def pages(layer: DataLayer) -> None:
    players, query = layer.repository(Player), Q(Player).order_by("-score")
    page = players.page(query, size=4)
    print("first page:", [player.score for player in page.items])
    players.delete_many([player.id for player in page.items])  # the next page begins where this one ended, all the same
    print("second page:", [player.score for player in players.page(query, after=page.next, size=4).items])


def named_queries(layer: DataLayer) -> None:
    queries = layer.queries(Path(__file__).parent / "queries", PlayerQueries)
    print("standings:", queries.standings()[0])
    print("seen:", [player.id for player in queries.seen_since(START + timedelta(days=13), regions=["eu", "us"])])
    players = layer.repository(Player)
    before = players.get_one(1).score
    promoted = queries.promote(1)
    print("promoted by:", promoted.score - before, "and read by:", players.get_one(1).score - before)
    with layer.begin() as session:  # several, committed together
        mine = queries.in_session(session)
        print("renamed:", mine.rename_region(old="us", new="na"), "best:", mine.best_score("na"))


def main() -> None:
    with DataLayer(os.environ.get("DATALAYER_URL", "sqlite://"), models=Base) as layer:
        layer.migrate()
        layer.repository(Player).create_many(
            Player(
                id=i, name=f"player {i}", region=("eu", "us")[i % 2], score=i * 37 % 101, seen=START + timedelta(days=i)
            )
            for i in range(1, 17)
        )
        built_queries(layer)
        pages(layer)
        named_queries(layer)


if __name__ == "__main__":
    main()
