"""The example of key/value stores does what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

EXPECTED = """\
get: b'ann' None
scan: [(b'user:1', b'ann'), (b'user:2', b'bob')]
lives: inf True
delete says whether it was there: True False
as it was: b'draft' b'final'
restored: b'final'
a conflict; ann still has b'60'
then and now: b'30' b'1000'
heard: [('put', (b'bob',))]
streamed: 12000000 bytes, beginning with b'frame'
fsck finds it: True
the value before it is served: b'70'
and the report says so: a file ends within the head of a chunk
somebody else has it open
engines: ['file', 'memory', 'sql'] with versions: ['file', 'memory'] with streams: ['file']
stores: ['documents', 'scratch', 'sessions']
"""


def test_the_example_runs_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / "kv_store.py")],
        env={"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == EXPECTED
    assert "is damaged" in done.stderr  # the damage that it makes is logged, too
    assert list(tmp_path.iterdir()) == []
