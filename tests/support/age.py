"""A process of an application's old or new release, which does what it is told line by line: see :class:`Release`.

``python age.py old|new <database URL> <Redis URL> <prefix>`` reads JSON commands from stdin, answers each in one line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from sqlalchemy.orm import Mapped

from datalayer import CachePolicy, DataLayer, Model, column
from datalayer.models.policy import L1Policy

Age = Literal["old", "new"]


class Release:
    """A release that runs in a process of its own; calls wait for its answer."""

    def __init__(self, age: Age, *arguments: str) -> None:
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            [sys.executable, __file__, age, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={"PYTHONPATH": str(root)},
        )

    def call(self, name: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the process has ended with {self._process.wait(10)}"
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            assert self._process.stdout is not None
            self._process.stdout.close()


def model(age: str) -> type[Any]:
    class Player(Model):
        __tablename__ = "ages_players"
        __cache__ = CachePolicy(l1=L1Policy(enabled=False))  # so that every read asks Redis
        id: Mapped[int] = column(primary_key=True)
        name: Mapped[str]
        if age == "new":
            level: Mapped[int] = column(default=7)

    return Player


def main(age: str, url: str, redis: str, prefix: str) -> None:
    player = model(age)
    with DataLayer(url, redis=redis, key_prefix=prefix, models=[player], redis_timeout=0.6) as layer:
        players = layer.repository(player)

        def shown(found: Any) -> dict[str, Any]:
            return {name: getattr(found, name) for name in ("name", "level") if hasattr(found, name)}

        def get(id: int) -> Any:
            before = layer.stats().tiers["l2"].hits
            found = players.get(id)
            return [shown(found), "from Redis" if layer.stats().tiers["l2"].hits > before else "from the database"]

        commands = {
            "migrate": lambda: list(layer.migrate().applied),
            "create": lambda id, **values: shown(players.create(player(id=id, **values))),
            "update": lambda id, values: shown(players.update(id, **values)),
            "set": lambda id, values: shown(players.set(player(id=id, **values))),
            "get": get,
        }
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            print(json.dumps(commands[name](*arguments)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
