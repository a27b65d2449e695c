"""``datalayer wb``: what it prints, what it returns, and that looking flushes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import behind_duo
import pytest
from behind_duo import Child, Row

from datalayer import DataLayer
from datalayer.cli import main

MODELS = ["--models", "behind_duo:Base"]


@pytest.fixture
def left(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database whose last process died with two queued writes, one of which is refused."""
    monkeypatch.setenv("DATALAYER_URL", sqlite_url)
    monkeypatch.setenv("DATALAYER_WRITE_BEHIND_MAX_RETRY", "0")
    duo = behind_duo.Duo(sqlite_url, None, "cli", journal="file", journal_path=f"{sqlite_url[10:]}-journals")
    duo.a.write(1, "secret-text")
    duo.a.children.set(Child(id=1, row_id=1, number=-1))
    duo.close()
    return sqlite_url


def test_status_counts_and_flushes_nothing(left: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wb", "status", *MODELS, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["queued"], found["waiting"], found["dead"]) == (2, 0, 0)
    assert main(["wb", "status", *MODELS]) == 1
    assert "2 queued" in capsys.readouterr().out


def test_flush_then_the_dead_letter_is_listed_retried_and_dropped(
    left: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["wb", "flush", *MODELS, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["left"], report["dead"]) == (0, 1)
    assert main(["wb", "dlq", "list", *MODELS, "--json"]) == 1
    (letter,) = json.loads(capsys.readouterr().out)["letters"]
    assert (letter["table"], letter["key"]) == ("duo_children", "1")
    assert main(["wb", "dlq", "retry", *MODELS, "--all"]) == 1
    assert "1 tried again, 1 dead letters" in capsys.readouterr().out
    assert main(["wb", "dlq", "list", *MODELS]) == 1
    shown = capsys.readouterr().out
    assert "set duo_children 1" in shown
    assert "secret-text" not in shown
    assert main(["wb", "dlq", "drop", *MODELS, str(letter["id"])]) == 0
    assert main(["wb", "dlq", "list", *MODELS]) == 0
    capsys.readouterr()
    assert main(["wb", "status", *MODELS]) == 0
    with DataLayer(left, models=behind_duo.Base) as layer:
        assert layer.repository(Row).get_one(1).text == "secret-text"


def test_what_cannot_run_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("DATALAYER_URL", raising=False)
    assert main(["wb", "status", *MODELS]) == 2
    assert "datalayer wb:" in capsys.readouterr().err
