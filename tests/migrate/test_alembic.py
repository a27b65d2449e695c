"""Alembic's command line: at the top of the repository, and in an application that has its own environment."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic_support import ROOT, alembic
from migrate_support import rows, run

from datalayer.coherence.ledger import TABLES


def engine_of(url: str) -> sa.Engine:
    return sa.create_engine(url, poolclass=sa.pool.NullPool)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_the_repository_goes_up_and_down(request: pytest.FixtureRequest, kind: str) -> None:
    url = request.getfixturevalue("sqlite_url" if kind == "sqlite" else "pg_url")
    assert "No new upgrade operations" in alembic(url, "upgrade head", "check")
    assert {"teams", "players"} <= set(sa.inspect(engine_of(url)).get_table_names())
    assert "0001 -> 0002 (head)" in alembic(url, "downgrade base", "history")
    assert "players" not in sa.inspect(engine_of(url)).get_table_names()


def test_offline_sql_names_the_tables() -> None:
    sql = alembic("postgresql+psycopg://nowhere/x", "upgrade head --sql")
    assert "CREATE TABLE players" in sql
    assert "datalayer_fence" in sql


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the repository's Alembic files and models, to be written to."""
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    shutil.copytree(ROOT / "examples" / "flask_app", tmp_path / "examples" / "flask_app")
    return tmp_path


@pytest.mark.postgres
def test_a_changed_model_of_the_repository_gets_its_revision(copy: Path, pg_url: str) -> None:
    alembic(pg_url, "upgrade head", folder=copy)
    engine = engine_of(pg_url)
    run(engine, "INSERT INTO teams (name, created_at) VALUES ('red', now())")
    models = copy / "examples" / "flask_app" / "models.py"
    name, size = "    name: Mapped[str] = column(unique=True)\n", "    size: Mapped[int]"
    before = models.read_text()
    models.write_text(before.replace(name, f"{name}{size} = column(default=5, index=True)\n"))
    assert "New upgrade operations detected" in alembic(pg_url, "check", folder=copy, fails=True)
    said = alembic(pg_url, "revision --autogenerate -m 'team sizes'", "upgrade head", "check", "history", folder=copy)
    assert "No new upgrade operations" in said
    assert "team sizes" in said
    (made,) = (path for path in (copy / "migrations" / "versions").glob("*.py") if "team_sizes" in path.name)
    assert "datalayer" not in made.read_text()
    assert rows(engine, "SELECT name, size FROM teams") == [("red", 5)]
    alembic(pg_url, "downgrade 0002", folder=copy)
    assert "size" not in {found["name"] for found in sa.inspect(engine).get_columns("teams")}
    models.write_text(before.replace(name, f"{name}{size}\n"))
    made.unlink()
    refused = alembic(pg_url, "revision --autogenerate -m no", folder=copy, fails=True)
    assert "adding-required-field: teams.size" in refused


APP = """
import datetime as dt

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from datalayer import CachePolicy


class Base(DeclarativeBase):
    metadata = sa.MetaData(naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    })


class User(Base):
    __tablename__ = "users"
    __cache__ = CachePolicy(external_writes=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(CITEXT, unique=True)
    mood: Mapped[str] = mapped_column(sa.Enum(LABELS, name="mood"), server_default="good")
    # more


class Event(Base):
    __tablename__ = "events"
    __cache__ = CachePolicy(partition_by="at")
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[dt.datetime] = mapped_column(sa.DateTime(timezone=True), primary_key=True)
"""


@pytest.mark.postgres
def test_an_application_with_an_environment_of_its_own(tmp_path: Path, pg_url: str) -> None:
    def write(labels: str, more: str = "") -> None:
        (tmp_path / "app.py").write_text(APP.replace("LABELS", labels).replace("    # more\n", more))

    def deploy(message: str) -> str:
        lines = (f"revision --autogenerate -m {message}", "upgrade head", "check")
        said = alembic(pg_url, *lines, folder=tmp_path)
        assert "No new upgrade operations" in said
        assert "xid8" not in said
        (made,) = (path for path in (tmp_path / "scripts" / "versions").glob("*.py") if message in path.name)
        return made.read_text()

    alembic(pg_url, "init scripts", folder=tmp_path)
    use_our_options(tmp_path)
    write("'good', 'bad'")
    first = deploy("first")
    for part in ("CREATE EXTENSION", "CREATE TYPE mood", "PARTITION OF events", "CREATE TRIGGER datalayer_update"):
        assert part in first
    assert "import datalayer" not in first
    engine = engine_of(pg_url)
    run(engine, "INSERT INTO users (email) VALUES ('ANN@example.com')", *TABLES.values())
    assert rows(engine, "SELECT mood FROM users WHERE email = 'ann@example.com'") == [("good",)]

    # A label that is used in the revision that adds it: PostgreSQL wants a commit in between.
    labels = "'good', 'so-so', 'bad'"
    write(labels, f"    was: Mapped[str] = mapped_column(sa.Enum({labels}, name='mood'), server_default='so-so')\n")
    assert "autocommit_block" in deploy("second")
    assert rows(engine, "SELECT mood, was FROM users") == [("good", "so-so")]
    said = alembic(pg_url, "downgrade -1", "upgrade head", "downgrade base", "history", folder=tmp_path)
    assert set(sa.inspect(engine).get_table_names()) == {"alembic_version", *TABLES}
    assert len([line for line in said.splitlines() if "->" in line and "Running" not in line]) == 2


def use_our_options(folder: Path) -> None:
    """What an application changes in the environment that ``alembic init`` has made."""
    env = folder / "scripts" / "env.py"
    text = env.read_text()
    assert text.count("connection=connection, target_metadata=target_metadata") == 1
    text = text.replace(
        "connection=connection, target_metadata=target_metadata",
        "connection=connection, **options(connection, app.Base)",
    )
    text = text.replace(
        "from alembic import context\n",
        "import os\n\nimport app\nfrom alembic import context\nfrom datalayer.migrate.env import options\n",
    )
    text = text.replace(
        "config = context.config\n",
        'config = context.config\nconfig.set_main_option("sqlalchemy.url", os.environ["DATALAYER_URL"])\n',
    )
    env.write_text(text)
