"""Layers over models with encrypted columns, on every kind of database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import safe
import sqlalchemy as sa
from sqlalchemy.orm import Session as PlainSession

from datalayer import DataLayer

Open = Callable[..., DataLayer]


@pytest.fixture
def database(request: pytest.FixtureRequest, any_url: str, sqlite_url: str) -> str:
    """URL of a database with the tables, that several layers can open one after the other."""
    url = sqlite_url if any_url == "sqlite://" else any_url
    engine = sa.create_engine(url)
    safe.Base.metadata.create_all(engine)
    engine.dispose()
    return url


@pytest.fixture
def open_layer(database: str) -> Iterator[Open]:
    """Opens layers over the database; closes them at the end."""
    with ExitStack() as stack:

        def opened(keys: Any = None, **options: Any) -> DataLayer:
            given = {"encryption_keys": safe.BOTH if keys is None else keys, **options}
            return stack.enter_context(DataLayer(database, models=safe.Base, **given))

        yield opened


@pytest.fixture
def layer(open_layer: Open) -> DataLayer:
    return open_layer()


def loaded(layer: DataLayer, cls: Any, id: Any, *, plainly: bool = False) -> Any:
    """What a session's ``get`` returns, of a plain SQLAlchemy session or the layer's; the session is closed."""
    with PlainSession(layer.engine) if plainly else layer.session() as session:
        return session.get(cls, id)


@pytest.fixture(name="loaded")
def loaded_by_sessions() -> Callable[..., Any]:
    return loaded


def raw(layer: DataLayer, sql: str, **parameters: Any) -> list[Any]:
    """Rows as the database has them."""
    with layer.engine.connect() as connection:
        return list(connection.execute(sa.text(sql), parameters).all())


@pytest.fixture(name="raw")
def raw_rows() -> Callable[..., list[Any]]:
    return raw
