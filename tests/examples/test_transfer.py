"""The example of transfers, and the code of the page about writes, do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]

EXPECTED = """\
loaded: 2500
written over: 2 100
money after 15 payments: 250000
refused: account 1 would be overdrawn
read-only: True run again: False
staged: 3 before: bob
committed: 0 bea None
"""


def run(script: Path, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env={"PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_loses_no_money_on_sqlite() -> None:
    assert run(ROOT / "examples" / "transfer.py") == EXPECTED


def test_the_example_loses_no_money_on_postgresql(pg_url: str) -> None:
    assert run(ROOT / "examples" / "transfer.py", DATALAYER_URL=pg_url) == EXPECTED


def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "writes.md").read_text()
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE)
    script = tmp_path / "page.py"
    script.write_text("\n".join(textwrap.dedent(code) for _, code in blocks) + "\nlayer.close()\n")
    run(script)
