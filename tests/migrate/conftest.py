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
