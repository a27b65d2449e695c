"""A layer over the zoo, on every kind of database, with one row of most things in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zoo
from sqlalchemy.orm import Session as PlainSession

from datalayer import DataLayer
from datalayer.testing.counting import Statements


@pytest.fixture
def layer(any_url: str) -> Iterator[DataLayer]:
    with DataLayer(any_url, models=zoo.Model) as layer:
        zoo.Model.metadata.create_all(layer.engine)
        with PlainSession(layer.engine) as session:
            session.add_all([zoo.Club(id=1, name="red"), zoo.Club(id=2, name="blue"), zoo.Tag(id=1, name="new")])
            session.flush()
            session.add_all(
                [
                    zoo.Member(id=1, name="ann", email="ann@x", team_id=1, secret="s1", profile={"k": [1]}),
                    zoo.Member(id=2, name="bob", email="bob@x", team_id=2),
                    zoo.Place(country="pt", number=1, name="porto"),
                    zoo.Animal(id=1, name="generic"),
                    zoo.Dog(id=2, name="rex", tricks=3),
                    zoo.Vehicle(id=1),
                    zoo.Truck(id=2, load=7),
                    zoo.Fancy(id=1, data={"a": 1}, x=3, y=4, essay="long"),
                    zoo.Account(id=1, balance=100),
                    zoo.Note(id=1, text="keep"),
                    zoo.Half(id=1, name="h", big="B" * 50),
                    zoo.Plain(id=1, name="p", hidden="H"),
                    zoo.Uncached(id=1, name="u"),
                    zoo.Tenanted(id=1, name="t"),
                    zoo.Hooked(id=1, name="h"),
                    zoo.Loud(id=1, name="l"),
                    zoo.Employee(id=1, name="boss"),
                    zoo.Natural(code="a", label="A"),
                ]
            )
            session.flush()
            session.add_all(
                [
                    zoo.Badge(id=1, player_id=1, label="gold"),
                    zoo.Employee(id=2, name="worker", boss_id=1),
                    zoo.Follower(id=1, code="a"),
                ]
            )
            session.commit()
        yield layer


@pytest.fixture
def statements(layer: DataLayer) -> Iterator[Statements]:
    with Statements(layer.engine) as statements:
        yield statements
