"""Alembic at the top of the repository, as a user runs it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from alembic_support import alembic


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_the_example_schema_goes_up_and_down(request: pytest.FixtureRequest, kind: str) -> None:
    url = request.getfixturevalue("sqlite_url" if kind == "sqlite" else "pg_url")
    alembic(url, "upgrade", "head")
    engine = sa.create_engine(url)
    assert {"teams", "players"} <= set(sa.inspect(engine).get_table_names())
    assert "No new upgrade operations" in alembic(url, "check")
    alembic(url, "downgrade", "base")
    assert "players" not in sa.inspect(engine).get_table_names()
    engine.dispose()
    assert "0001" in alembic(url, "history")


def test_offline_sql_names_the_tables(sqlite_url: str) -> None:
    assert "CREATE TABLE players" in alembic("postgresql+psycopg://nowhere/x", "upgrade", "head", "--sql")
