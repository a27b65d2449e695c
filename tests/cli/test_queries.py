"""``datalayer queries check``: exit codes tell fit, unfit and failed apart."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from datalayer.cli import main

MODELS = """
from typing import NamedTuple, Protocol
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from datalayer import Queries

class Base(DeclarativeBase):
    pass

class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]

class Pair(NamedTuple):
    id: int
    name: str | None

class ThingQueries(Queries, Protocol):
    def all(self, *, n: int = 10) -> list[Pair]: ...
"""
FITS = "-- name: all :many\nSELECT id, name FROM things ORDER BY id LIMIT :n;\n"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"query_models_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODELS)
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def call(tmp_path: Path, models: str) -> Callable[..., int]:
    (tmp_path / "queries").mkdir()

    def check(url: str, sql: str, *more: str) -> int:
        (tmp_path / "queries" / "things.sql").write_text(sql)
        return main(["queries", "check", str(tmp_path / "queries"), "--url", url, "--models", f"{models}:Base", *more])

    return check


def test_queries_that_fit_end_with_0(
    any_url: str, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(any_url, FITS, "--migrate") == 0
    out = capsys.readouterr().out
    assert out.startswith("ok: things.sql:1 all(n")
    assert "-> id" in out


def test_the_first_query_that_does_not_fit_ends_with_1(
    any_url: str, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = FITS + "-- name: broken :many\nSELECT nmae FROM things\n-- name: other :many\nSELECT nothing FROM nowhere"
    assert call(any_url, broken, "--migrate", "--json") == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["exit_code"], [query["name"] for query in shown["checked"]]) == (1, ["all"])
    assert "nmae" in shown["failure"]
    assert "broken (things.sql:" in shown["failure"]
    assert call(any_url, "-- name: a :exec\nDELETE FROM things", "--migrate") == 1
    assert "does not fit: a (things.sql:1) writes" in capsys.readouterr().err


def test_a_schema_that_was_not_migrated_does_not_fit(sqlite_url: str, call: Callable[..., int]) -> None:
    assert call(sqlite_url, FITS) == 1


def test_an_interface_is_held_against_the_queries(
    sqlite_url: str, call: Callable[..., int], models: str, capsys: pytest.CaptureFixture[str]
) -> None:
    interface = ("--interface", f"{models}:ThingQueries", "--migrate")
    assert call(sqlite_url, FITS, *interface) == 0
    assert call(sqlite_url, FITS.replace(":n", ":m"), *interface) == 1
    assert "ThingQueries.all has the parameters n" in capsys.readouterr().err


def test_what_cannot_run_ends_with_2(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("postgresql+psycopg://nobody@127.0.0.1:1/none?connect_timeout=1", FITS) == 2
    assert "cannot be reached" in capsys.readouterr().err
    assert call("sqlite://", FITS, "--interface", "nowhere:Nothing") == 2
    assert "cannot be imported" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["queries", "check"])
    assert ended.value.code == 2


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text("-- name: one :scalar\nSELECT 1")
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "datalayer",
            "queries",
            "check",
            str(tmp_path),
            "--url",
            "sqlite://",
            "--json",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["checked"][0]["name"] == "one"
