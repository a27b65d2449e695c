"""``datalayer crypto``: what it prints, what it returns, and what it never shows."""

from __future__ import annotations

import argparse
import base64
import json
from typing import Any

import pytest
import safe
import sqlalchemy as sa
from safe import Patient

from datalayer import DataLayer
from datalayer.cli.crypto import add_parser

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
    ):
        assert run(*words, models=models) == 2
        assert message in capsys.readouterr().err
    monkeypatch.delenv("DATALAYER_ENCRYPTION_KEYS")
    assert run("status") == 2
    assert "no encryption key is configured" in capsys.readouterr().err


def test_progress_is_drawn_on_a_terminal_only(
    filled: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    run("rotate")
    assert "[" not in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    run("verify")
    assert "patients [##############################] 3/3" in capsys.readouterr().err
