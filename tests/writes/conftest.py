"""Layers over the tables of :mod:`writing`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import writing
from writing import KEYS, MODELS, Heard, create_tables

from datalayer import DataLayer


@pytest.fixture
def heard() -> Iterator[Heard]:
    """Empty, and hooks that do nothing, before and after the test."""
    writing.heard.__init__()  # type: ignore[misc]
    yield writing.heard
    writing.heard.__init__()  # type: ignore[misc]


@pytest.fixture
def open_layer(pg_url: str) -> Iterator[Callable[..., DataLayer]]:
    """Layers over one PostgreSQL database with the tables in it."""
    made: list[DataLayer] = []

    def opened(**options: Any) -> DataLayer:
        made.append(DataLayer(**{"url": pg_url, "models": MODELS, "encryption_keys": KEYS, **options}))
        create_tables(made[-1])
        return made[-1]

    yield opened
    for layer in made:
        layer.close()


@pytest.fixture
def pg(open_layer: Callable[..., DataLayer]) -> DataLayer:
    return open_layer()


@pytest.fixture
def layer(any_url: str) -> Iterator[DataLayer]:
    """A layer on every kind of database."""
    with DataLayer(any_url, models=MODELS, encryption_keys=KEYS) as layer:
        create_tables(layer)
        yield layer
