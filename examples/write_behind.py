"""Queued writes: a leaderboard on SQLite whose writes are acknowledged before the database has them.

Run it: ``python examples/write_behind.py``. It prints what happens; nothing is left behind.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from datalayer import CachePolicy, DataLayer, Hooks, Model, WriteMode, column


class Score(Model):
    __tablename__ = "scores"
    __table_args__ = (sa.CheckConstraint("points >= 0", name="ck_points"),)
    __cache__ = CachePolicy(
        write_mode=WriteMode.BEHIND,
        hooks=Hooks(on_write_error=lambda key, error: print(f"could not be written: {key}")),
    )
    id: Mapped[int] = column(primary_key=True, autoincrement=False)
    player: Mapped[str]
    points: Mapped[int] = column(default=0)


def main(folder: Path) -> None:
    url = f"sqlite:///{folder / 'game.db'}"
    with DataLayer(url, models=[Score], write_behind_flush_interval="1h", write_behind_max_retry=0) as layer:
        layer.migrate()
        scores = layer.repository(Score)
        scores.set(Score(id=1, player="ann"))
        scores.set(Score(id=2, player="bob", points=3))
        for _ in range(100):
            scores.update(2, points=scores.get_one(2).points + 1)
        print("read at once:", scores.get_one(2).points)
        print("in the database:", scores.count(), "rows;", "queued:", layer.stats().dirty_count)
        scores.increment(1, points=7)
        report = layer.flush(timeout=10)
        print("flushed:", report.ok, "- in the database:", scores.count(), "rows;", scores.get_one(1).points, "points")

        scores.set(Score(id=3, player="cheat", points=-1))
        layer.flush(timeout=10)
        (letter,) = layer.dead_letters().list()
        print("dead letter:", letter.table, letter.key, letter.kind)
        scores.set(Score(id=3, player="cheat", points=0))
        layer.dead_letters().drop([letter.id])
    # Closing has flushed the last write.
    with DataLayer(url, models=[Score]) as layer:
        print("after a restart:", layer.repository(Score).get_one(3).points)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
