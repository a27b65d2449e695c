"""``datalayer crypto``: what it prints, what it returns, and what it never shows."""

from __future__ import annotations

import argparse
import base64
import json
import re
from typing import Any

import pytest
import safe
import sqlalchemy as sa
from safe import Patient

from datalayer import DataLayer
from datalayer.cli.crypto import _Bar, add_parser
from datalayer.crypto.rotate import Progress

SECRET = "gallbladder-inflammation"


def ring(keys: dict[str, bytes]) -> str:
    return ",".join(f"{key_id}:{base64.b64encode(key).decode()}" for key_id, key in keys.items())


@pytest.fixture
def filled(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An SQLite database with three patients under the old key, and the environment with both keys."""
    with DataLayer(sqlite_url, models=safe.Base, encryption_keys=safe.OLD) as layer:
        safe.Base.metadata.create_all(layer.engine)
        layer.repository(Patient).create_many([Patient(id=i, ward="w", email=f"{i}{SECRET}") for i in range(3)])
    monkeypatch.setenv("DATALAYER_URL", sqlite_url)
    monkeypatch.setenv("DATALAYER_ENCRYPTION_KEYS", ring(safe.BOTH))
    return sqlite_url


def run(*words: str, models: str = "safe:Base") -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args: Any = parser.parse_args(["crypto", *words, "--models", models])
    return int(args.run(args))


def test_status_rotate_and_verify_in_words(filled: str, capsys: pytest.CaptureFixture[str]):
    assert run("status", "patients") == 1
    assert "patients.email: k1 3; readable 0, empty 0, stale digests 3" in capsys.readouterr().out
    assert run("rotate") == 0
    out = capsys.readouterr().out
    assert "patients: 3 rotated, 0 overtaken by writers, 0 failed, 0 left" in out
    assert "everything is under 'k2'" in out
    assert run("verify") == 0
    assert "3 values checked, 0 failed" in capsys.readouterr().out
    assert run("status") == 0


def test_the_same_as_json(filled: str, capsys: pytest.CaptureFixture[str]):
    found = {}
    for command in ("rotate", "status", "verify"):
        assert run(command, "patients", "--json", "--batch-size", "2") == 0
        found[command] = json.loads(capsys.readouterr().out)
    assert found["rotate"]["tables"]["patients"]["rotated"] == 3
    assert found["status"]["columns"]["patients.email"]["keys"] == {"k2": 3}
    assert found["verify"] == {"checked": 3, "failed": 0, "ok": True, "problems": []}


def test_what_does_not_decrypt_is_named_and_not_shown(
    filled: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    engine = sa.create_engine(filled)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE patients SET notes = email WHERE id = 1"))
        connection.execute(sa.text(f"UPDATE patients SET city = '{SECRET}' WHERE id = 2"))
    engine.dispose()
    for options in ((), ("--json",)):
        for command in ("verify", "status", "rotate"):
            assert run(command, *options) == 1
            captured = capsys.readouterr()
            assert SECRET not in captured.out + captured.err
    monkeypatch.setenv("DATALAYER_ENCRYPTION_KEYS", ring({"k3": safe.K3}))
    assert run("verify") == 1
    assert "key 'k1', which is not in the key ring ('k3')" in capsys.readouterr().out


def test_a_command_that_cannot_run_says_why(
    filled: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    for words, models, message in (
        (("status", "nope"), "safe:Base", "'nope' is no table with encrypted columns"),
        (("status",), "safe", "expected MODULE:NAME"),
        (("status",), "safe:Nope", "cannot be imported"),
        (("verify", "--after", "patients"), "safe:Base", "expected TABLE:KEY"),
        (("verify", "--after", "nope:1"), "safe:Base", "'nope' is no table with encrypted columns"),
        (("verify", "--after", "seats:1"), "safe:Base", "is no key of seats"),
    ):
        assert run(*words, models=models) == 2
        assert message in capsys.readouterr().err
    monkeypatch.delenv("DATALAYER_ENCRYPTION_KEYS")
    assert run("status") == 2
    assert "no key is configured" in capsys.readouterr().err


def test_progress_is_drawn_on_a_terminal_only(
    filled: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    run("rotate")
    assert "[" not in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    run("verify")
    assert "patients [##############################] 3/3" in capsys.readouterr().err


def test_a_scan_that_was_interrupted_is_continued_by_another(
    filled: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Ctrl-C after the first batch; what was printed then is what the next command is given."""
    assert run("rotate") == 0
    with monkeypatch.context() as patch:
        patch.setattr(_Bar, "draw", _interrupt)
        for command in ("verify", "status"):
            capsys.readouterr()
            assert run(command, "patients", "--batch-size", "2") == 130
            position = re.search(r"--after (\S+)", capsys.readouterr().err)
            assert position is not None
            assert position.group(1) == "patients:1"
    assert run("verify", "--after", position.group(1)) == 0
    assert "1 values checked, 0 failed" in capsys.readouterr().out
    assert run("status", "--after", position.group(1), "--json") == 0
    columns = json.loads(capsys.readouterr().out)["columns"]
    assert columns["patients.email"]["keys"] == {"k2": 1}
    assert "open_notes.text" not in columns, "it comes before patients: it was seen by the first run"
    assert "tokens.secret" in columns


def test_a_rotation_that_was_interrupted_says_what_to_do(
    filled: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(_Bar, "draw", _interrupt)
        assert run("rotate", "patients", "--batch-size", "2") == 130
    assert "run it again to continue" in capsys.readouterr().err
    assert run("rotate", "patients") == 0
    assert "patients: 1 rotated" in capsys.readouterr().out


def _interrupt(bar: _Bar, progress: Progress) -> None:
    raise KeyboardInterrupt
