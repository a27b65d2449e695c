"""Many migrators at once, each a process of its own, forked from one that has imported everything already.

``python herd.py <database URL>`` reads JSON orders from stdin and answers each in one line: see :class:`Herd`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa

ROOT = Path(__file__).parents[2]
_CHANGES = ("CREATE", "ALTER", "UPDATE", "COMMIT")


class Herd:
    """Starts migrators on one database; use it as a context manager."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, url],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def migrate(self, count: int = 1, *, die_after: int = 0, files: Path | None = None) -> list[int | None]:
        """Let ``count`` processes migrate to the rich schema, or run ``files``; how much each has done, in order.

        With ``die_after`` each kills itself right after its n-th statement that changes the schema: None.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"count": count, "die_after": die_after, "files": str(files) if files else None}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the herd is gone"
        found: list[int | None] = json.loads(answer)
        return found

    def __enter__(self) -> Herd:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


def main(url: str) -> None:
    from migrate_support import rich

    from datalayer import DataLayer
    from datalayer.migrate.options import MigrateOptions
    from datalayer.migrate.runner import create_missing

    def work(files: str | None) -> int:
        if files is not None:
            with DataLayer(url) as layer:
                return len(layer.migrate_from(files).applied)
        options = MigrateOptions(not_null="multistep", batch_size=7)
        return len(create_missing(sa.create_engine(url), [rich()], options).applied)

    for line in sys.stdin:
        order = json.loads(line)
        migrators = [_forked(lambda: work(order["files"]), order["die_after"]) for _ in range(order["count"])]  # noqa: B023
        print(json.dumps([_ended(*migrator) for migrator in migrators]), flush=True)


def _forked(work: Any, die_after: int) -> tuple[int, int]:
    reads, writes = os.pipe()
    child = os.fork()
    if child:
        os.close(writes)
        return child, reads
    status = 1
    try:
        if die_after:
            sa.event.listen(sa.Engine, "after_cursor_execute", _Death(die_after))
        os.write(writes, str(work()).encode())
        status = 0
    except BaseException as error:
        print(f"a migrator failed: {error!r}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _ended(child: int, reads: int) -> int | None:
    _, status = os.waitpid(child, 0)
    with os.fdopen(reads) as pipe:
        said = pipe.read()
    if os.WIFSIGNALED(status):
        return None
    assert status == 0, "see above"
    return int(said)


class _Death:
    """Kills the process after some statements."""

    def __init__(self, after: int) -> None:
        self._left = after

    def __call__(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.split()[0] in _CHANGES:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
