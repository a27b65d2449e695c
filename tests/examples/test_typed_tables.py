"""The example of typed tables does what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
