"""What docs/migrations.md shows runs, and what it lists is what there is."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from datalayer.cli.migrate import add_parser
from datalayer.errors import DataLayerError
from datalayer.migrate import rules

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "migrations.md").read_text()


def test_the_examples_run(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['create table docs_teams']\n"


def test_every_rule_is_explained_and_no_other() -> None:
    source = Path(str(rules.__file__)).read_text()
    known = set(re.findall(r'(?:Refusal\.of\(\s*|differs\(\s*)"([a-z-]+)"', source))
    known |= {f"add-{kind}" for kind in ("an-identity", "stored-generated", "a-primary-key")}
    table = TEXT.split("## What is refused")[1].split("##")[0]
    listed = {
        rule
        for row in table.splitlines()
        if row.startswith("| `")
        for rule in re.findall("`([a-z-]+)`", row.split("|")[1])
    }
    assert listed == known


def test_every_option_of_the_command_is_listed_and_no_other() -> None:
    parser = add_parser(argparse.ArgumentParser().add_subparsers())
    known = {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}
    section = TEXT.split("## The command line")[1].split("\n## ")[0]
    assert set(re.findall(r"(--[a-z][a-z-]+)", section)) == known


def test_every_error_that_is_named_exists() -> None:
    names = {error.__name__ for error in _all(DataLayerError)}
    assert set(re.findall(r"`(Migration\w+Error)`", TEXT)) <= names


def _all(cls: type[Exception]) -> list[type[Exception]]:
    return [cls, *(found for child in cls.__subclasses__() for found in _all(child))]
