"""Alembic as a user runs it: its command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


_PROGRAM = """
import shlex, sys
from alembic.config import main
for line in sys.argv[1:]:
    main(shlex.split(line), prog="alembic")
"""


def alembic(url: str, *lines: str, folder: Path = ROOT, fails: bool = False) -> str:
    """Run command lines such as ``"upgrade head"`` in a folder that has an ``alembic.ini``; what they printed.

    All in one process, which ends with the first that fails.
    """
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *lines],
        cwd=folder,
        env={**os.environ, "DATALAYER_URL": url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr
