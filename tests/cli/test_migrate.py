"""``datalayer migrate``: exit codes tell nothing to do, pending, refused and failed apart."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from datalayer.cli import main

MODELS = """
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(index=True)
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def write(more: str = "") -> str:
        name = f"cli_models_{tmp_path.name.replace('-', '_')}_{len(made)}"
        (tmp_path / f"{name}.py").write_text(MODELS + more)
        made.append(name)
        return f"{name}:Base"

    yield write
    for name in made:
        sys.modules.pop(name, None)


def call(*arguments: str) -> int:
    return main(["migrate", *arguments])


def test_check_plan_apply_and_check_again(
    any_url: str, models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # type: ignore[no-untyped-def]
    url = any_url if any_url != "sqlite://" else f"sqlite:///{tmp_path / 'a.db'}"
    arguments = ["--url", url, "--models", models()]
    assert call(*arguments, "--check") == 1
    assert call(*arguments) == 0
    assert "pending: create table things" in capsys.readouterr().out
    assert call(*arguments, "--apply") == 0
    assert "applied: create index ix_things_name on things" in capsys.readouterr().out
    assert call(*arguments, "--check") == 0
    assert capsys.readouterr().out == "nothing to do\n"
    refused = ["--url", url, "--models", models("    must: Mapped[str]")]
    for action in ("--check", "--plan", "--apply", "--sql", "--drift"):
        assert call(*refused, action) == 3
        assert "adding-required-field: things.must" in capsys.readouterr().out


def test_sql_is_what_apply_would_do(pg_url: str, models, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    arguments = ["--url", pg_url, "--models", models()]
    assert call(*arguments, "--sql") == 0
    engine = sa.create_engine(pg_url, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(capsys.readouterr().out.replace("%", "%%"))
    assert call(*arguments, "--check") == 0


def test_files_go_up_and_down(sqlite_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "001_a.sql").write_text("-- +up\nCREATE TABLE a (id INT);\n-- +down\nDROP TABLE a;")
    arguments = ["--url", sqlite_url, "--files", str(tmp_path)]
    assert call(*arguments, "--check", "--json") == 1
    assert json.loads(capsys.readouterr().out)["files"] == ["001_a (pending)"]
    assert call(*arguments, "--apply") == 0
    assert call(*arguments, "--check") == 0
    assert call(*arguments, "--status") == 0
    assert "migrations: sql 001 a: applied" in capsys.readouterr().out
    assert call(*arguments, "--down", "1") == 0
    assert call(*arguments, "--check") == 1


def test_files_that_would_be_refused_are_not_pending(
    sqlite_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "001_a.sql"
    first.write_text("CREATE TABLE a (id INT);")
    arguments = ["--url", sqlite_url, "--files", str(tmp_path)]
    assert call(*arguments, "--apply") == 0
    first.write_text("CREATE TABLE a (id INT, more INT);")
    assert call(*arguments, "--check") == 3
    assert "files: 001_a (edited)" in capsys.readouterr().out
    assert call(*arguments, "--apply") == 2
    assert "was changed after it was applied" in capsys.readouterr().err


def test_a_dirty_file_is_repaired(sqlite_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "001_a.sql").write_text(
        "-- datalayer: no-transaction\nCREATE TABLE a (id INT);\nCREATE TABLE a (id INT);"
    )
    arguments = ["--url", sqlite_url, "--files", str(tmp_path)]
    assert call(*arguments, "--apply") == 2
    assert call(*arguments, "--check") == 3
    assert "files: 001_a (dirty)" in capsys.readouterr().out
    assert call(*arguments, "--repair", "1") == 2
    assert "--outcome" in capsys.readouterr().err
    assert call(*arguments, "--repair", "1", "--outcome", "applied") == 0
    assert call(*arguments, "--check") == 0


def test_json_has_the_parts_of_what_is_refused_and_recorded(
    sqlite_url: str, models: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--url", sqlite_url, "--models", models(), "--apply", "--json") == 0
    refused = ["--url", sqlite_url, "--models", models("    must: Mapped[str]"), "--json"]
    capsys.readouterr()
    assert call(*refused, "--check") == 3
    (found,) = json.loads(capsys.readouterr().out)["refused"]
    assert (found["rule"], found["table"], found["column"]) == ("adding-required-field", "things", "must")
    assert found["blocking"]
    assert len(found["steps"]) > 3
    assert call(*refused, "--status") == 0
    records = json.loads(capsys.readouterr().out)["migrations"]
    assert [(record["kind"], record["name"], record["state"]) for record in records] == [
        ("models", "create table things", "applied"),
        ("models", "create index ix_things_name on things", "applied"),
    ]
    assert call(*refused, "--sql") == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["exit_code"], found["sql"]) == (3, [""])


def test_a_backfill_draws_a_bar_on_a_terminal_only(
    pg_url: str, models: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("--url", pg_url, "--models", models(), "--apply") == 0
    engine = sa.create_engine(pg_url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO things SELECT i FROM generate_series(1, 1200) i")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    required = models('    must: Mapped[str] = mapped_column(default="x")')
    capsys.readouterr()
    assert call("--url", pg_url, "--models", required, "--not-null", "multistep", "--apply") == 0
    drawn = capsys.readouterr().err
    assert "\rfill things.must [##" in drawn
    assert re.search(r"\[#{30}\] 1,200\D+1,200 rows", drawn)
    assert call("--url", pg_url, "--models", required, "--check") == 0


def test_coming_partitions(pg_url: str, models: Any, capsys: pytest.CaptureFixture[str]) -> None:
    parted = models("""
import datetime as dt
class Event(Base):
    __tablename__ = "events"
    __table_args__ = {"postgresql_partition_by": "RANGE (at)"}
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[dt.datetime] = mapped_column(sa.DateTime(timezone=True), primary_key=True)
""")
    arguments = ["--url", pg_url, "--models", parted]
    assert call(*arguments, "--apply") == 0
    capsys.readouterr()
    assert call(*arguments, "--partitions", "3") == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert call(*arguments, "--partitions", "5") == 0
    assert capsys.readouterr().out.count("applied: create partition events_p") == 2


def test_what_cannot_run_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--url", "sqlite://", "--models", "nowhere_at_all:Base") == 2
    assert capsys.readouterr().err.startswith("datalayer: --models 'nowhere_at_all:Base' cannot be imported")


def test_the_module_is_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "datalayer", "migrate", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "--check" in done.stdout
