"""The example of queued writes, and the first code of its page, do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

EXPECTED = """\
read at once: 103
in the database: 0 rows; queued: 102
flushed: True - in the database: 2 rows; 7 points
could not be written: 3
dead letter: scores 3 set
after a restart: 0
"""


def run(script: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_runs() -> None:
    assert run(ROOT / "examples" / "write_behind.py") == EXPECTED


def test_the_first_code_of_the_page_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "write_behind.md").read_text(), re.DOTALL)
    script = tmp_path / "page.py"
    script.write_text(blocks[0])
    run(script)
