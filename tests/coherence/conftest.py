"""Two layers over the same servers: to the protocol they are two processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from datalayer import DataLayer

Twins = Callable[..., tuple[DataLayer, DataLayer]]


@pytest.fixture
def twins(pg_url: str, redis_url: str, key_prefix: str) -> Iterator[Twins]:
    """Makes two layers with the same settings; the tables of their models are created."""
    with ExitStack() as opened:

        def make(*models: type[Any], **options: Any) -> tuple[DataLayer, DataLayer]:
            common: dict[str, Any] = {"redis": redis_url, "key_prefix": key_prefix, "models": list(models), **options}
            one, other = (opened.enter_context(DataLayer(pg_url, **common)) for _ in range(2))
            for model in models:
                model.__table__.create(one.engine, checkfirst=True)
            return one, other

        yield make
