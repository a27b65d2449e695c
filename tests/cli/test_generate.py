"""What is generated works as it is: it passes its own tests, the linter and the type checker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from datalayer.cli import main
from datalayer.cli.generate import KINDS, generate, names_of
from datalayer.errors import AlreadyExistsError, ConfigError

ROOT = Path(__file__).parents[2]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env={"PYTHONPATH": f"{ROOT}:{folder}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    "kinds",
    [["model"], ["model", "repository"], ["provider"], ["store"], ["benchmark"]],
    ids=lambda kinds: kinds[-1],
)
def test_what_is_generated_passes_its_own_tests(tmp_path: Path, kinds: list[str]) -> None:
    for kind in kinds:
        assert main(["generate", kind, "GameScore", "--into", str(tmp_path)]) == 0
    done = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize(
    ("kind", "right", "wrong", "rule"),
    [
        ("provider", "return was", "return True", "test_a_delete_says_whether_there_was_something"),
        ("store", "found[1] > self._now()", "True", "test_a_value_ends_at_its_deadline"),
    ],
)
def test_what_is_generated_is_held_to_every_rule(tmp_path: Path, kind: str, right: str, wrong: str, rule: str) -> None:
    generate(kind, "Mine", into=tmp_path)
    module = tmp_path / f"mine_{kind}.py"
    assert right in module.read_text()
    module.write_text(module.read_text().replace(right, wrong))
    done = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path))
    assert done.returncode == 1
    assert rule in done.stdout


def test_a_generated_benchmark_prints_its_figures(tmp_path: Path) -> None:
    generate("benchmark", "Scores", into=tmp_path)
    done = run(tmp_path, "bench_scores.py")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["dict", "dict", "memory", "memory"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_generated_is_formatted_and_clean(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("ruff", reason="the linter is not installed")
    for each in ("model", kind):  # a repository imports its model
        generate(each, "GameScore", into=tmp_path, force=True)
    options = ["--isolated", "--target-version", "py311", "--line-length", "120"]
    for arguments in (["check", "--select", "E,F,W,I,UP,B,RUF,PT", *options], ["format", "--check", *options]):
        done = run(tmp_path, "-m", "ruff", *arguments, str(tmp_path))
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "camel", "snake"),
    [
        ("Player", "Player", "player"),
        ("GameScore", "GameScore", "game_score"),
        ("game_score", "GameScore", "game_score"),
        ("HTTPCache2", "HttpCache2", "http_cache2"),
    ],
)
def test_a_name_may_be_a_class_or_a_module(name: str, camel: str, snake: str) -> None:
    found = names_of(name)
    assert (found["camel"], found["snake"]) == (camel, snake)


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a/b", "../a", "a.b", "ä"])
def test_what_is_no_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name"):
        generate("model", name, into=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_exists_is_replaced_unless_it_is_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "test_player.py"
    mine.write_text("mine")
    assert main(["generate", "model", "Player", "--into", str(tmp_path)]) == 2
    assert "--force" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert not (tmp_path / "player.py").exists()
    with pytest.raises(AlreadyExistsError):
        generate("model", "Player", into=tmp_path)
    assert main(["generate", "model", "Player", "--into", str(tmp_path), "--force"]) == 0
    assert "Player" in mine.read_text()


def test_a_dry_run_prints_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "provider", "Mine", "--into", str(tmp_path / "new"), "--dry-run", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [Path(file["path"]).name for file in printed["files"]] == ["mine_provider.py", "test_mine_provider.py"]
    assert "class MineProvider" in printed["files"][0]["text"]
    assert not (tmp_path / "new").exists()


def test_the_module_is_a_command(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "datalayer", "generate", "benchmark", "x")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bench_x.py").exists()
    assert run(tmp_path, "-m", "datalayer", "generate", "nonsense", "x").returncode == 2
