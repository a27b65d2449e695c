"""Named queries run as they are written, return what was declared, and tell the caches what they write."""

from __future__ import annotations

import datetime as dt
import inspect
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest
import sqlalchemy as sa
from games import Base, Club, Player, Rank, Sample, sample
from sqlalchemy.orm import Session as PlainSession

from datalayer import DataLayer, NotFoundError, Q, Queries, QueryError, UnavailableError
from datalayer.testing.counting import Statements

SQL = """
-- The queries of these tests.

-- name: strongest :many
-- returns: Player
-- The players of a region, strongest first.
SELECT * FROM q_players WHERE region = :region ORDER BY level DESC LIMIT :n;

-- name: by_id :one
-- returns: Player
SELECT * FROM q_players WHERE id = :id

-- name: by_ids :many
SELECT id, name FROM q_players WHERE id IN (:ids) ORDER BY id;

-- name: totals :many
-- returns: region str, players int, best int?
SELECT region, count(*) AS players, max(level) AS best FROM q_players GROUP BY region ORDER BY region;

-- name: names :many
-- returns: str
SELECT name FROM q_players WHERE level < :below ORDER BY name;

-- name: last_seen :scalar
-- returns: datetime?
SELECT max(seen) AS seen FROM q_players WHERE name LIKE 'p%' /* :not_this */ AND ':nor' <> name;

-- name: total :scalar
SELECT count(*) FROM q_players;

-- name: rename :exec
-- writes: q_players
UPDATE q_players SET name = :name WHERE id = :id;

-- name: promote :one
-- writes: q_players
-- returns: Player
UPDATE q_players SET level = level + :by WHERE id = :id RETURNING *;

-- name: add :scalar
-- writes: q_players
INSERT INTO q_players (id, name, level, region) VALUES (:id, :name, 1, 'eu') RETURNING id;

-- name: remove_club :exec
-- writes: q_clubs
DELETE FROM q_clubs WHERE id = :id;
"""


class Total(NamedTuple):
    region: str
    best: int | None


@dataclass
class Named:
    name: str
    id: int


class PlayerQueries(Queries, Protocol):
    def strongest(self, region: str, *, n: int = 3) -> list[Player]: ...
    def by_id(self, id: int) -> Player: ...
    def by_ids(self, *, ids: Sequence[int]) -> list[Named]: ...
    def totals(self) -> list[Total]: ...
    def names(self, *, below: int = 3) -> list[str]: ...
    def last_seen(self) -> dt.datetime | None: ...
    def rename(self, *, id: int, name: str) -> int: ...
    def promote(self, id: int, by: int = 1) -> Player | None: ...


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "queries"
    folder.mkdir()
    (folder / "players.sql").write_text(SQL)
    return folder


def test_queries_are_methods_with_the_parameters_of_their_sql(filled: DataLayer, directory: Path) -> None:
    queries = filled.queries(directory)
    assert [p.level for p in queries.strongest(region="eu", n=2)] == [149, 147]
    assert queries.by_id(id=3).name == "p003"
    assert queries.by_id(id=999) is None
    assert queries.by_ids(ids=[2, 1]) == [(1, "p001"), (2, "p002")]
    assert type(queries.by_ids(ids=[1])[0]).__name__ == "ByIdsRow"
    assert queries.by_ids(ids=[1])[0].name == "p001"
    assert queries.by_ids(ids=[]) == []
    assert queries.totals()[0]._asdict() == {"region": "eu", "players": 75, "best": 149}
    assert queries.names(below=3) == ["p001", "p002"]
    assert queries.total() == 150
    assert str(inspect.signature(queries.strongest)) == "(*, region, n)"
    assert queries.strongest.__doc__ == "The players of a region, strongest first."
    assert "strongest" in repr(queries)


def test_moments_and_json_come_as_the_types_that_are_declared(filled: DataLayer, directory: Path) -> None:
    queries = filled.queries(directory)
    assert queries.last_seen() is None
    at = dt.datetime(2024, 5, 17, 14, 30, 1, 5, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    filled.repository(Player).update(2, seen=at)
    assert queries.last_seen() == at
    assert queries.last_seen().tzinfo is dt.UTC


class SampleRow(NamedTuple):
    rank: Rank
    at: dt.datetime | None
    flag: bool
    token: Any


def test_parameters_and_results_have_the_form_that_columns_have(layer: DataLayer, tmp_path: Path) -> None:
    row = sample(1, random.Random(1))
    row.rank, row.flag, row.at = Rank.HIGH, True, dt.datetime(2024, 1, 2, tzinfo=dt.UTC)
    layer.repository(Sample).create(row)

    class Samples(Queries, Protocol):
        def find(self, *, at: dt.datetime, day: dt.date, token: Any, raw: bytes) -> SampleRow | None: ...

    (tmp_path / "a.sql").write_text(
        "-- name: find :one\nSELECT rank, at, flag, token FROM q_samples"
        " WHERE at = :at AND day = :day AND token = :token AND raw = :raw"
    )
    found = layer.queries(tmp_path, Samples).find(
        at=row.at.astimezone(dt.timezone(dt.timedelta(hours=-5))), day=row.day, token=row.token, raw=row.raw
    )
    assert found is not None
    assert (found.rank, found.at, found.flag) == (Rank.HIGH, row.at, True)


def test_a_class_declares_how_queries_are_called(filled: DataLayer, directory: Path) -> None:
    queries = filled.queries(directory, PlayerQueries)
    assert [p.level for p in queries.strongest("eu")] == [149, 147, 145]
    assert queries.by_id(3).name == "p003"
    with pytest.raises(NotFoundError, match="by_id"):
        queries.by_id(999)
    assert queries.by_ids(ids=[1]) == [Named("p001", 1)]
    assert queries.totals() == [Total("eu", 149), Total("us", 150)]
    assert queries.names() == ["p001", "p002"]
    assert queries.promote(999) is None
    assert queries.promote(3, 5).level == 8  # type: ignore[union-attr]


def test_a_statement_that_writes_is_seen_by_every_reader_at_once(filled: DataLayer, directory: Path) -> None:
    queries, players, clubs = filled.queries(directory), filled.repository(Player), filled.repository(Club)
    assert players.get(3).name == "p003"  # type: ignore[union-attr]
    assert len(players.search_cached(Q(Player).where(name="anna"))) == 0
    assert queries.rename(id=3, name="anna") == 1
    assert players.get(3).name == "anna"  # type: ignore[union-attr]
    assert len(players.search_cached(Q(Player).where(name="anna"))) == 1
    assert queries.rename(id=999, name="nobody") == 0
    assert players.get(900) is None
    assert queries.add(id=900, name="new") == 900
    assert players.get(900).name == "new"  # type: ignore[union-attr]
    assert queries.promote(id=900, by=4).level == 5
    assert players.get(900).level == 5  # type: ignore[union-attr]
    assert clubs.get(1) is not None
    assert players.get(2).club_id == 1  # type: ignore[union-attr]
    assert queries.remove_club(id=1) == 1
    assert clubs.get(1) is None
    fresh = players.get(2, consistency="database")
    assert players.get(2).club_id == fresh.club_id  # type: ignore[union-attr]  # what the foreign key did, too


def test_a_write_forgets_the_tables_it_declares_and_no_others(
    filled: DataLayer, directory: Path, statements: Statements
) -> None:
    queries, players, clubs = filled.queries(directory), filled.repository(Player), filled.repository(Club)
    clubs.get(2), players.get(3)
    queries.rename(id=3, name="anna")
    statements.taken()
    clubs.get(2)
    assert statements.taken() == 0
    players.get(3)
    assert statements.taken() == 1
    queries.by_ids(ids=[1])
    queries.total()
    statements.taken()
    players.get(3)
    assert statements.taken() == 0


def test_queries_in_a_session_see_and_share_its_transaction(filled: DataLayer, directory: Path) -> None:
    queries = filled.queries(directory, PlayerQueries)
    with filled.session() as session:
        mine = queries.in_session(session)
        player = session.get(Player, 3)
        assert player is not None
        player.level = 1000
        assert mine.strongest("eu", n=1) == [player]
        assert mine.rename(id=3, name="anna") == 1
        assert player.name == "anna"
        with Statements(filled.engine) as statements:
            promoted = mine.promote(3)
            assert promoted is player
            assert player.level == 1001
            assert len(statements) == 1
        session.rollback()
    assert filled.repository(Player).get(3).name == "p003"  # type: ignore[union-attr]
    with filled.begin() as session:
        queries.in_session(session).rename(id=3, name="anna")
    assert filled.repository(Player).get(3).name == "anna"  # type: ignore[union-attr]


def test_a_failed_call_leaves_nothing_behind(filled: DataLayer, directory: Path) -> None:
    queries = filled.queries(directory)
    with pytest.raises(sa.exc.IntegrityError):
        queries.add(id=1, name="taken")
    assert queries.total() == 150
    assert filled.repository(Player).get(1).name == "p001"  # type: ignore[union-attr]


def test_parameters_that_are_missing_or_unknown_are_named(filled: DataLayer, directory: Path) -> None:
    queries = filled.queries(directory)
    with pytest.raises(QueryError, match=r"strongest \(players.sql:4\).*without a value: n;"):
        queries.strongest(region="eu")
    with pytest.raises(QueryError, match="without a parameter: m; it has :region, :n"):
        queries.strongest(region="eu", n=1, m=2)
    with pytest.raises(QueryError, match="it has"):
        queries.strongest("eu", 1)
    with pytest.raises(AttributeError, match="did you mean 'strongest'"):
        _ = queries.strongst
    typed = filled.queries(directory, PlayerQueries)
    with pytest.raises(QueryError, match="without a value: region"):
        typed.strongest()  # type: ignore[call-arg]


def test_hostile_values_stay_values(filled: DataLayer, directory: Path) -> None:
    queries = filled.queries(directory)
    for value in ("x'; DROP TABLE q_players; --", "' OR '1'='1", "%(n)s", ":id", "\\'", "$1", "?"):
        assert queries.strongest(region=value, n=3) == []
        queries.rename(id=1, name=value)
        assert queries.by_id(id=1).name == value
    with pytest.raises(QueryError, match="SQL expression"):
        queries.strongest(region=sa.text("region"), n=3)
    assert queries.total() == 150


def test_more_rows_than_one_and_more_columns_than_one_are_errors(filled: DataLayer, tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text(
        """
-- name: two :one
SELECT id FROM q_players
-- name: wide :scalar
SELECT id, name FROM q_players LIMIT 1
-- name: twice :many
SELECT id, id FROM q_players
-- name: no_key :many
-- returns: Player
SELECT name FROM q_players
-- name: lacks :many
-- returns: id int, nmae str
SELECT id, name FROM q_players
-- name: unknown :many
SELECT id FROM q_nothing
-- name: silent :many
-- writes: q_players
UPDATE q_players SET level = 2
"""
    )
    queries = filled.queries(tmp_path)
    for name, message in (
        ("two", "more rows than one; use :many"),
        ("wide", r"2 columns \(id, name\)"),
        ("twice", "two columns named id"),
        ("no_key", "lacks the primary key"),
        ("lacks", "no column nmae; it has id, name"),
        ("unknown", "does not fit the database"),
        ("silent", "returns no rows; use :exec"),
    ):
        with pytest.raises(QueryError, match=rf"{name} \(a.sql:\d+\).*{message}"):
            getattr(queries, name)()
    assert filled.repository(Player).get(9).level == 9  # type: ignore[union-attr]


def test_parameters_may_have_any_name(filled: DataLayer, tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text("-- name: same :scalar\nSELECT id FROM q_players WHERE id = :self AND name = :text")
    assert filled.queries(tmp_path).same(self=1, text="p001") == 1
    query = Q(Player).where_sql(
        "id = :self AND name = :text AND id IN :parameters", self=1, text="p001", parameters=[1]
    )
    assert filled.repository(Player).count(query) == 1


def test_a_closed_layer_runs_no_query(sqlite_url: str, directory: Path) -> None:
    with DataLayer(sqlite_url, models=Base) as layer:
        queries = layer.queries(directory)
    with pytest.raises(UnavailableError):
        queries.total()


@pytest.mark.postgres
def test_a_declared_write_reaches_the_caches_of_other_processes(
    pg_url: str, redis_url: str, key_prefix: str, directory: Path
) -> None:
    with (
        DataLayer(pg_url, redis=redis_url, key_prefix=key_prefix, models=Base) as reader,
        DataLayer(pg_url, redis=redis_url, key_prefix=key_prefix, models=Base) as writer,
    ):
        writer.migrate()
        players = reader.repository(Player, consistency="shared")
        players.create(Player(id=3, name="ann"))
        named_ann = Q(Player).where(name="ann")
        for _ in range(2):
            assert players.get(3).name == "ann"  # type: ignore[union-attr]
            assert len(players.search_cached(named_ann)) == 1
        assert writer.queries(directory).rename(id=3, name="anna") == 1
        assert players.get(3).name == "anna"  # type: ignore[union-attr]
        assert players.search_cached(named_ann) == []


@pytest.mark.postgres
def test_functions_that_write_are_declared_and_casts_and_nulls_work(pg_url: str, tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text(
        """
-- name: bump :scalar
-- writes: q_players
SELECT bump(:id)
-- name: seen_after :many
SELECT id FROM q_players WHERE (:since::timestamptz IS NULL OR seen > :since) AND level = ANY (:levels::int[])
-- name: moved :many
-- writes: q_players, q_clubs
WITH gone AS (DELETE FROM q_clubs WHERE id = :id RETURNING id)
UPDATE q_players SET club_id = NULL FROM gone WHERE club_id = gone.id RETURNING q_players.id
"""
    )
    with DataLayer(pg_url, models=Base) as layer:
        Base.metadata.create_all(layer.engine)
        with PlainSession(layer.engine) as session:
            session.execute(
                sa.text(
                    "CREATE FUNCTION bump(bigint) RETURNS bigint LANGUAGE sql AS"
                    " 'UPDATE q_players SET level = level + 1 WHERE id = $1 RETURNING level'"
                )
            )
            session.commit()
        players, queries = layer.repository(Player), layer.queries(tmp_path)
        layer.repository(Club).create(Club(id=1, name="red"))
        players.create(Player(id=1, name="n", level=3, club_id=1))
        assert players.get(1).level == 3  # type: ignore[union-attr]
        assert queries.bump(id=1) == 4
        assert players.get(1).level == 4  # type: ignore[union-attr]
        assert [row.id for row in queries.seen_after(since=None, levels=[4, 5])] == [1]
        assert queries.seen_after(since=dt.datetime.now(dt.UTC), levels=[4]) == []
        assert layer.repository(Club).get(1) is not None
        assert [row.id for row in queries.moved(id=1)] == [1]
        assert layer.repository(Club).get(1) is None
        assert players.get(1).club_id is None  # type: ignore[union-attr]
