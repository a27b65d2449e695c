"""The example of queries, its ``.sql`` files, and the code of the page, do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

EXPECTED = """\
best of eu: ['player 8', 'player 16', 'player 2']
as rows: Score(name='player 8', score=94)
how many: 4 any: True sum: 255
a value is never SQL: []
first page: [94, 87, 84, 77]
second page: [74, 67, 57, 50]
standings: Standing(region='eu', players=6, best=74)
seen: [14, 15]
promoted by: 10 and read by: 10
renamed: 6 best: 57
"""


def run(*arguments: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_runs_on_sqlite() -> None:
    assert run("examples/queries.py") == EXPECTED


def test_the_example_runs_on_postgresql_and_its_queries_fit(pg_url: str) -> None:
    assert run("examples/queries.py", DATALAYER_URL=pg_url) == EXPECTED
    options = ["--models", "examples.queries:Base", "--interface", "examples.queries:PlayerQueries"]
    shown = run("-m", "datalayer", "queries", "check", "examples/queries", "--url", pg_url, *options)
    assert "seen_since(moment timestamp with time zone, regions text) -> id bigint, name text" in shown
    assert len(shown.splitlines()) == 5


INTERFACE = '''\
"""Made by ``datalayer queries interface`` from .sql files; make it anew instead of editing it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from datalayer import Queries


class StandingsRow(NamedTuple):
    region: str
    players: int | None
    best: int | None


class SeenSinceRow(NamedTuple):
    id: int
    name: str
    region: str
    score: int
    seen: datetime | None


class PromoteRow(NamedTuple):
    id: int
    name: str
    region: str
    score: int
    seen: datetime | None


class Made(Queries, Protocol):
    def standings(self) -> list[StandingsRow]: ...
    def seen_since(self, *, moment: datetime, regions: Sequence[str]) -> list[SeenSinceRow]: ...
    def best_score(self, *, region: str) -> int | None: ...
    def promote(self, *, by: int, id: int) -> PromoteRow | None: ...
    def rename_region(self, *, new: str, old: str) -> int: ...
'''


def test_the_class_that_declares_the_queries_can_be_made(pg_url: str, tmp_path: Path) -> None:
    options = ["--models", "examples.queries:Base", "--url", pg_url, "--migrate"]
    made = run("-m", "datalayer", "queries", "interface", "examples/queries", "--name", "Made", *options)
    assert made == INTERFACE
    (tmp_path / "made.py").write_text(made)
    options += ["--interface", "made:Made"]
    path = os.pathsep.join((str(ROOT), str(tmp_path)))
    assert "ok: players.sql" in run(
        "-m", "datalayer", "queries", "check", "examples/queries", *options, PYTHONPATH=path
    )


@pytest.mark.parametrize("number", range(2))
def test_the_code_of_the_page_runs(number: int, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "queries.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    script = tmp_path / "page.py"
    script.write_text(blocks[number])
    run(str(script))
