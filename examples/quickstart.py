"""What a cached read costs, and that writes are seen at once.

python examples/quickstart.py [database URL]        # SQLite without servers by default; REDIS_URL adds Redis
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import Mapped, relationship
from sqlalchemy.orm import Session as PlainSession

from datalayer import DataLayer, Model, column
from datalayer.testing.counting import Statements


class Team(Model):
    __tablename__ = "quickstart_teams"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str] = column(unique=True)


class Player(Model):
    __tablename__ = "quickstart_players"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str] = column(unique=True)
    team_id: Mapped[int] = column(ForeignKey("quickstart_teams.id"))
    team: Mapped[Team] = relationship()


def main(url: str = "sqlite://") -> None:
    with DataLayer(url, redis=os.environ.get("REDIS_URL"), models=[Team, Player]) as layer:
        layer.migrate()
        teams, players = layer.repository(Team), layer.repository(Player)
        teams.set(Team(id=1, name="red"))
        players.set_many(Player(id=i, name=f"player {i}", email=f"{i}@example.com", team_id=1) for i in range(1, 101))
        layer.touch(Team, Player)
        print(f"{layer}\n\n{'':44}{'SQL':>5}{'µs':>9}")
        tour(layer, teams, players)
        seen = layer.stats().tiers["l1"]
        print(f"\nL1: {seen.hits} hits, {seen.misses} misses, {seen.entries} entries; health: {layer.health().status}")


def tour(layer: DataLayer, teams: Any, players: Any) -> None:
    def plain() -> Any:
        with PlainSession(layer.engine) as session:
            return session.get(Player, 1)

    def in_session() -> str:
        with layer.session() as session:
            return session.get_one(Player, 1).team.name

    def by_email() -> Any:
        with layer.session() as session:
            return session.scalars(select(Player).where(Player.email == "7@example.com")).one()

    def rolled_back() -> str:
        with layer.session() as session:
            session.get_one(Player, 1).name = "never"
            session.flush()
        return str(players.get(1).name)

    show(layer, "plain SQLAlchemy: Session.get", plain)
    show(layer, "players.get(1), first time", lambda: players.get(1))
    show(layer, "players.get(1), from L1", lambda: players.get(1))
    show(layer, "players.get_snapshot(1), from L1", lambda: players.get_snapshot(1) and players.get_snapshot(1))
    teams.get(1)
    show(layer, "session.get(Player, 1).team, both from L1", in_session)
    show(layer, "select by a unique column, first time", by_email)
    show(layer, "select by a unique column, from L1", by_email)
    show(layer, "players.get_many(100 ids), first time", lambda: players.get_many(range(1, 101)))
    show(layer, "players.get_many(100 ids), from L1", lambda: players.get_many(range(1, 101)))
    show(layer, "players.get(999): absent, first time", lambda: players.get(999))
    show(layer, "players.get(999): absent, from L1", lambda: players.get(999))
    show(layer, "players.update(1, name='new')", lambda: players.update(1, name="new"))
    assert players.get(1).name == "new", "a committed write is seen at once"
    assert rolled_back() == "new", "a rolled back write was never there"
    print("\na committed write was read at once, a rolled back one by nobody")


def show(layer: DataLayer, what: str, call: Callable[[], Any]) -> None:
    with Statements(layer.engine) as statements:
        began = time.perf_counter()
        call()
        took = time.perf_counter() - began
        print(f"{what:44}{len(statements):>5}{took * 1e6:>9.0f}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
