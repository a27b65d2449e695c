"""The examples and the README's code do what they say."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datalayer.testing.counting import Statements

ROOT = Path(__file__).parents[2]

pytest.importorskip("flask")


def test_the_quickstart_shows_hits_that_cost_no_statement() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "examples/quickstart.py"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    costs = dict(re.findall(r"^(.{44})\s+(\d+)\s+\d+$", done.stdout, re.MULTILINE))
    for what, count in costs.items():
        if "from L1" in what:
            assert count == "0", what
    assert len([what for what in costs if "from L1" in what]) >= 6


def test_the_encryption_example_shows_ciphertext_and_a_rotation() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "examples/encrypted_fields.py"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for line in (
        "the database holds    dl1.2024.",
        "found by city:        [1, 2]",
        "moved to another row: example_patients.notes: a value under key '2024' does not decrypt",
        "rotated:              2 rows, complete: True",
        "without the old key:  'allergic to nuts'",
    ):
        assert line in done.stdout


@pytest.mark.parametrize("page", ["encryption.md"])
def test_the_first_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)[0]
    script = tmp_path / "page.py"
    script.write_text(code + "\nlayer.close()\n")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_quickstart_runs_and_is_short(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 25
    script = tmp_path / "readme.py"
    script.write_text(code + "\nlayer.close()\n")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def app(any_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "flask_app"))
    app = importlib.import_module("app").create_app(any_url)
    yield app
    app.extensions["datalayer"].close()


def test_the_application_serves_its_whole_life(app: Any) -> None:
    client = app.test_client()
    assert client.post("/teams", json={"name": "red"}).status_code == 201
    made = client.post("/players", json={"name": "ann", "email": "a@x", "team_id": 1})
    assert (made.status_code, made.json["level"]) == (201, 1)
    url = f"/players/{made.json['id']}"
    assert client.get(url).json["team"] == "red"
    with Statements(app.extensions["datalayer"].engine) as statements:
        assert client.get(url).json["name"] == "ann"
        assert statements.taken() == 0
    assert client.patch(url, json={"name": "anna"}).json["name"] == "anna"
    assert client.get(url).json["name"] == "anna"
    assert [p["name"] for p in client.get("/teams/1/players").json] == ["anna"]
    assert client.get("/players?size=1").json["items"][0]["name"] == "anna"
    assert client.get("/stats").json["sets"] >= 2
    assert client.get("/healthz").json["status"] == "ok"
    assert client.delete(url).status_code == 204
    assert client.get(url).status_code == 404


def test_the_application_answers_errors_as_such(app: Any) -> None:
    client = app.test_client()
    assert client.get("/players/99").status_code == 404
    assert client.delete("/players/99").status_code == 404
    assert client.post("/players", json={}).status_code == 422
    assert client.post("/teams", json={"name": "red"}).status_code == 201
    assert client.post("/teams", json={"name": "red"}).status_code == 409
    assert client.get("/players?after=forged").status_code == 422
