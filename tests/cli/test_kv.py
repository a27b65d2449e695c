"""``datalayer kv fsck``: exit codes tell sound, damaged and not checked apart."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from datalayer.cli import main
from datalayer.kv import FileStore
from datalayer.kv.file import names

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    with closing(FileStore(tmp_path / "sound", sync=False)) as store:
        store.put(b"k", b"old value")
        store.put(b"k", b"new value")
        store.put(b"\xff\x00", b"other")
    return tmp_path / "sound"


@pytest.fixture
def damaged(sound: Path) -> Path:
    (newest,) = (sound / "data").glob("*/k.2.v0")
    newest.write_bytes(newest.read_bytes()[:-2])
    return sound


def test_a_sound_store_ends_with_zero(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kv", "fsck", str(sound)]) == 0
    assert "sound; 2 keys in 3 files" in capsys.readouterr().out


def test_a_damaged_store_ends_with_one_and_is_left_as_it_is(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(damaged.rglob("*"))
    assert main(["kv", "fsck", str(damaged)]) == 1
    out = capsys.readouterr().out
    assert "1 damaged" in out
    assert "k.2.v0: a file ends within the head of a chunk" in out
    assert sorted(damaged.rglob("*")) == before


def test_a_repaired_store_serves_the_version_before(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kv", "fsck", str(damaged), "--repair", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["ok"] is False
    assert printed["failures"] == {}
    (store,) = printed["stores"]
    assert (store["path"], store["keys"], store["files"]) == (str(damaged), 2, 3)
    assert store["damages"] == [
        {
            "path": f"data/{names.shard(b'k')}/k.2.v0",
            "reason": "a file ends within the head of a chunk",
            "key": b"k".hex(),
            "moved_to": "quarantine/k.2.v0",
        }
    ]
    with closing(FileStore(damaged)) as again:
        assert again.get(b"k") == b"old value"
    (damaged / "quarantine" / "k.2.v0").unlink()  # somebody has looked at it
    assert main(["kv", "fsck", str(damaged)]) == 0


def test_what_cannot_be_checked_ends_with_two_and_the_others_are_checked(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kv", "fsck", str(tmp_path / "nowhere"), str(sound)]) == 2
    printed = capsys.readouterr()
    assert "is not a store" in printed.err
    assert "sound; 2 keys" in printed.out
    with closing(FileStore(sound)):
        assert main(["kv", "fsck", str(sound), "--json"]) == 2
    assert "is open already" in json.loads(capsys.readouterr().out)["failures"][str(sound)]


def test_no_value_is_printed(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["kv", "fsck", str(damaged)])
    main(["kv", "fsck", str(damaged), "--json"])
    assert "value" not in capsys.readouterr().out.replace(str(damaged), "")


def test_the_module_is_a_command(sound: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "datalayer", "kv", "fsck", str(sound)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


def test_a_terminal_gets_a_progress_bar(sound: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "datalayer", "kv", "fsck", str(sound)],
            env={"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=theirs,
            check=False,
        )
        assert done.returncode == 0
        assert b"3 of 3 files" in os.read(ours, 10_000)
    finally:
        os.close(ours)
        os.close(theirs)
