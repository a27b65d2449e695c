"""Engines on empty databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from datalayer import DataLayer


@pytest.fixture
def engine(any_url: str) -> Iterator[sa.Engine]:
    """An engine on an empty database of each kind."""
    with DataLayer(any_url) as layer:
        yield layer.engine


@pytest.fixture
def pg_engine(pg_url: str) -> Iterator[sa.Engine]:
    """An engine on an empty PostgreSQL database."""
    with DataLayer(pg_url) as layer:
        yield layer.engine


@pytest.fixture(params=["sqlite-file", pytest.param("postgres", marks=pytest.mark.postgres)])
def any_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty database of each kind; one in memory is a file to us."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite-file" else "pg_url")
    return url
