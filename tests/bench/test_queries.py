"""Queries in one interleaved run: pages deep in a table beside OFFSET, and what ``Q`` costs over a plain select."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from datalayer import DataLayer, Q
from datalayer.testing.counting import Statements

ROWS, DEEP, SIZE = 200_000, 100_000, 50


class Base(DeclarativeBase):
    pass


class Score(Base):
    __tablename__ = "bench_scores"
    id: Mapped[int] = mapped_column(primary_key=True)
    points: Mapped[int]
    rank: Mapped[int | None]
    name: Mapped[str]
    __table_args__ = (sa.Index("bench_scores_points", "points", "id"), sa.Index("bench_scores_rank", "rank", "id"))


@pytest.fixture(scope="module")
def layer(place: Any) -> Iterator[DataLayer]:
    with DataLayer(place.url, models=Base) as layer:
        Base.metadata.create_all(layer.engine)
        with layer.engine.begin() as connection:
            connection.execute(
                sa.text(
                    "INSERT INTO bench_scores SELECT i, (i * 7919) % 5000, nullif(i % 1000, 0), 'name ' || i"
                    f" FROM generate_series(1, {ROWS}) i"
                )
            )
        with layer.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE bench_scores"))
        yield layer


def deep_cursor(layer: DataLayer, query: Q[Score]) -> str:
    cursor = layer.repository(Score).page(query, size=DEEP).next
    assert cursor is not None
    return cursor


ORDERS = {
    "points, id": (Q(Score).order_by("points"), Q(Score).order_by("points", "id")),
    "-points, -id": (Q(Score).order_by("-points"), Q(Score).order_by("-points", "-id")),
    "-points, id": (Q(Score).order_by("-points", "id"), Q(Score).order_by("-points", "id")),
    "rank (nullable), id": (Q(Score).order_by("rank"), Q(Score).order_by("rank", "id")),
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_page_deep_in_the_table_costs_what_the_first_one_does(
    layer: DataLayer, times: Any, report: Callable[[str, str, str], None], order: str
) -> None:
    scores = layer.repository(Score)
    query, whole = ORDERS[order]
    cursor = deep_cursor(layer, query)
    offset = whole.limit(SIZE).offset(DEEP)
    assert [s.id for s in scores.page(query, after=cursor, size=SIZE).items] == [s.id for s in scores.search(offset)]
    times.run(
        {
            "first": (lambda: [scores.page(query, size=SIZE) for _ in range(5)], 5),
            "deep": (lambda: [scores.page(query, after=cursor, size=SIZE) for _ in range(5)], 5),
            "offset": (lambda: scores.search(offset), 1),
        },
        rounds=8,
    )
    report("P12", f"OFFSET {DEEP:,} / page() there, by {order}", times.ratio("offset", "deep"))
    report("P12", f"page() there / first page, by {order}", times.ratio("deep", "first"))


def test_a_named_query_costs_little_more_than_its_text(
    layer: DataLayer, times: Any, report: Callable[[str, str, str], None], tmp_path: Path
) -> None:
    sql = "SELECT id, points FROM bench_scores WHERE points > :n AND rank = :rank ORDER BY id LIMIT 20"
    (tmp_path / "a.sql").write_text(f"-- name: strong :many\n{sql}")
    queries = layer.queries(tmp_path)
    clause = sa.text(sql)

    def by_hand() -> Any:
        with Session(layer.engine) as session, session.begin():
            return list(session.execute(clause, {"n": 10, "rank": 7}).all())

    assert queries.strong(n=10, rank=7) == by_hand()
    times.run(
        {
            "text": (lambda: [by_hand() for _ in range(20)], 20),
            "named": (lambda: [queries.strong(n=10, rank=7) for _ in range(20)], 20),
        }
    )
    report("P13", "named query of two columns / Session.execute(text)", times.ratio("named", "text"))


def test_a_query_costs_little_more_than_a_plain_select(
    layer: DataLayer, times: Any, report: Callable[[str, str, str], None]
) -> None:
    scores, held = layer.repository(Score), Q(Score).where(Score.points > 10, rank=7).order_by("id").limit(20)
    statement = held.to_select()

    def anew() -> Any:
        return scores.search(Q(Score).where(Score.points > 10, rank=7).order_by("id").limit(20))

    def plain() -> Any:
        with Session(layer.engine, expire_on_commit=False) as session, session.begin():
            made = sa.select(Score).where(Score.points > 10, Score.rank == 7).order_by(Score.id).limit(20)
            return list(session.scalars(made).all())

    def text() -> Any:
        return scores.search(Q(Score).where_sql("points > :n AND rank = :rank", n=10, rank=7).order_by("id").limit(20))

    fields = held.fields("id", "points")
    assert (
        [s.id for s in anew()]
        == [s.id for s in plain()]
        == [s.id for s in text()]
        == [r.id for r in scores.search(fields)]
    )
    with Statements(layer.engine) as statements:
        anew(), plain(), scores.search(held), scores.search(statement)
        assert len(statements) == 4
    times.run(
        {
            "plain": (lambda: [plain() for _ in range(20)], 20),
            "select": (lambda: [scores.search(statement) for _ in range(20)], 20),
            "anew": (lambda: [anew() for _ in range(20)], 20),
            "held": (lambda: [scores.search(held) for _ in range(20)], 20),
            "text": (lambda: [text() for _ in range(20)], 20),
            "fields": (lambda: [scores.search(fields) for _ in range(20)], 20),
        }
    )
    report("P13", "search(Q built anew) / Session.scalars(select built anew)", times.ratio("anew", "plain"))
    report("P13", "search(Q held) / search(select held)", times.ratio("held", "select"))
    report("P13", "search(Q with where_sql built anew) / select built anew", times.ratio("text", "plain"))
    report("P13", "search(Q.fields of two columns, held) / search(Q held)", times.ratio("fields", "held"))
