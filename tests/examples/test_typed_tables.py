"""The example of typed tables, and the code of its page, do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

EXPECTED = """\
three players: ['1', '2', '3']
keys by pattern: ['1', '2']
cleared: 3
after the swap: None
filled upwards: ['example:texts:a']
deleted everywhere: None None
least recently used is gone: ['one', 'three']
"""


def run(script: Path, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env={"PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_runs_in_memory() -> None:
    assert run(ROOT / "examples" / "typed_tables.py") == EXPECTED


def test_the_example_runs_on_redis(redis_url: str) -> None:
    assert run(ROOT / "examples" / "typed_tables.py", DATALAYER_TABLES_URL=redis_url) == EXPECTED


@pytest.mark.parametrize("number", range(6))
def test_the_code_of_the_page_runs(number: int, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tables.md").read_text(), re.DOTALL)
    assert len(blocks) == 6
    script = tmp_path / "page.py"
    script.write_text(blocks[number])
    run(script)
