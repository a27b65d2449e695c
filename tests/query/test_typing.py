"""What a type checker knows of queries: asked of mypy, which takes its time, in the long form of the tests."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
from typing import Protocol
import sqlalchemy as sa
from sqlalchemy.orm import Mapped
from datalayer import DataLayer, Model, Q, Queries, Repository, Session, column

class Player(Model):
    __tablename__ = "typed_players"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]

@dataclass
class Row:
    id: int

class PlayerQueries(Queries, Protocol):
    def recent(self, *, n: int = 3) -> list[Row]: ...

def use(layer: DataLayer, session: Session) -> None:
    players = layer.repository(Player)
    reveal_type(players.search())
    reveal_type(players.search(Q(Player).where(id=1).limit(3)))
    reveal_type(players.search(sa.select(Player)))
    reveal_type(players.search(Q(Player).fields(Row)))
    reveal_type(players.search(Q(Player).fields(Player.id, Player.name)))
    reveal_type(players.page(Q(Player).order_by("id"), size=3).items)
    reveal_type(players.page(Q(Player).fields(Row)).items)
    reveal_type(Repository[Player](session).search(Q(Player)))
    queries = layer.queries("queries", PlayerQueries)
    reveal_type(queries.recent(n=3))
    reveal_type(queries.in_session(session).recent())
    reveal_type(layer.queries("queries").anything(n=3))
"""
EXPECTED = [
    "list[m.Player]", "list[m.Player]", "list[m.Player]", "list[m.Row]", "list[tuple[int, str]]", "list[m.Player]",
    "list[m.Row]", "list[m.Player]", "list[m.Row]", "list[m.Row]", "Any",
]  # fmt: skip


@pytest.mark.skipif("DATALAYER_TEST_LONG" not in os.environ, reason="needs a minute: DATALAYER_TEST_LONG=1")
@pytest.mark.timeout(300)
def test_results_have_the_types_that_queries_say(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    (tmp_path / "m.py").write_text(SOURCE)
    out, err, code = api.run(["--strict", "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "m.py")])
    assert code == 0, out + err
    found = re.findall(r'Revealed type is "(.*)"', out)
    assert [text.replace("builtins.", "").replace("datalayer.", "") for text in found] == EXPECTED
