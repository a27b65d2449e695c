"""A layer with players of every kind of order: ties, NULLs, texts, moments, enums and exact numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from games import Base, Club, Player

from datalayer import DataLayer
from datalayer.testing.counting import Statements


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def any_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty database of each kind; an SQLite in memory would be a file here, too."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "pg_url")
    return url


@pytest.fixture
def layer(any_url: str) -> Iterator[DataLayer]:
    with DataLayer(any_url, models=Base) as layer:
        Base.metadata.create_all(layer.engine)
        yield layer


@pytest.fixture
def filled(layer: DataLayer) -> DataLayer:
    """Two clubs, and players 1 to 150 whose level is their number."""
    layer.repository(Club).create_many([Club(id=1, name="red"), Club(id=2, name="blue")])
    layer.repository(Player).create_many(
        Player(
            id=i,
            name=f"p{i:03d}",
            level=i,
            region="eu" if i % 2 else "us",
            score=None if i % 5 else i,
            club_id=1 + i % 2,
        )
        for i in range(1, 151)
    )
    return layer


@pytest.fixture
def statements(layer: DataLayer) -> Iterator[Statements]:
    with Statements(layer.engine) as statements:
        yield statements
