"""``where_sql`` takes SQL from the program and values from anywhere; no value ever becomes SQL."""

from __future__ import annotations

import contextlib
import datetime as dt
import sqlite3
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from games import Player
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite

from datalayer import DataLayer, Q, QueryError
from datalayer.query.text import Parameter, parse
from datalayer.testing.counting import Statements


def ids(layer: DataLayer, query: Q[Player]) -> list[int]:
    return [player.id for player in layer.repository(Player).search(query.order_by("id"))]


def test_text_conditions_take_their_values_as_parameters(filled: DataLayer, statements: Statements) -> None:
    assert ids(filled, Q(Player).where_sql("level > :n", n=147)) == [148, 149, 150]
    assert ids(filled, Q(Player).where_sql("level > :n AND level < :n + 2", n=9)) == [10]
    assert ids(filled, Q(Player).where_sql("level > :n", n=5).where_sql("level < :n", n=8)) == [6, 7]
    assert ids(filled, Q(Player).where_sql("id = 3 OR id = 4").where(level=4)) == [4]
    assert ids(filled, Q(Player).where_sql("name LIKE '%49' -- the last ones\n")) == [49, 149]
    assert ids(filled, Q(Player).where_sql("level = 4 -- and no more")) == [4]
    assert ids(filled, Q(Player).where_sql("name LIKE :p", p="p00%").where(region="us")) == [2, 4, 6, 8]
    assert "147" not in "".join(statements.texts)


def test_a_list_follows_in(filled: DataLayer) -> None:
    for text in ("id IN :ids", "id IN (:ids)", "id in ( :ids ) AND level IN :ids"):
        assert ids(filled, Q(Player).where_sql(text, ids=[3, 5])) == [3, 5]
    assert ids(filled, Q(Player).where_sql("name IN :names", names=("p001", "x' OR '1'='1"))) == [1]
    assert ids(filled, Q(Player).where_sql("id IN :ids", ids=[])) == []
    assert len(ids(filled, Q(Player).where_sql("id NOT IN :ids", ids={1}).limit(None))) == 149
    with pytest.raises(QueryError, match="expected a list"):
        Q(Player).where_sql("id IN :ids", ids="1, 2")
    with pytest.raises(QueryError, match="two names"):
        Q(Player).where_sql("id IN :ids OR level = :ids", ids=[1])


def test_colons_that_are_no_parameters_mean_what_they_mean_in_sql(filled: DataLayer) -> None:
    filled.repository(Player).update(1, name="a:b :n 'q' 10:30")
    for text in ("name = 'a:b :n ''q'' 10:30'", "name = 'a:b :n ''q'' 10:30' /* :n */ AND :n = 1 -- :n is a comment"):
        values = {"n": 1} if ":n =" in text else {}
        assert ids(filled, Q(Player).where_sql(text, **values)) == [1]
    assert ids(filled, Q(Player).where_sql('"name" = :n', n="p002")) == [2]
    assert ids(filled, Q(Player).where_sql(r"name = 'a\:b' OR name = '10\:30'")) == []
    assert ids(filled, Q(Player).where_sql(r"name = 'a\:b' OR id = :number_1", number_1=2)) == [2]


@pytest.mark.postgres
def test_casts_arrays_and_dollar_strings_of_postgresql(pg_url: str) -> None:
    from games import Base

    with DataLayer(pg_url, models=Base) as layer:
        Base.metadata.create_all(layer.engine)
        layer.repository(Player).create(Player(id=7, name="7", level=2))
        for text, values in (
            ("level::text = '2'", {}),
            ("level = :n::int", {"n": "2"}),
            ("level = :number::bigint AND :number::int::text = '2'", {"number": 2}),
            ("level = (ARRAY[1, 2, 3])[:n]", {"n": 2}),
            ("level = ANY ((ARRAY[1, 2, 3])[1:2])", {}),
            ("id = ANY (:ids)", {"ids": [7, 8]}),
            ("name = $$7$$ AND name = $q$7$q$ AND name <> $$:n$$", {}),
            ("name = E'7' AND name <> E'\\':n'", {}),
            ("jsonb_build_object('a', 1) ? :key", {"key": "a"}),
            ("(:missing::timestamptz IS NULL OR seen > :missing)", {"missing": None}),
            ("coalesce(seen, :at) = :at", {"at": dt.datetime(2024, 1, 1, tzinfo=dt.UTC)}),
            ("level % 2 = 0", {}),
        ):
            assert ids(layer, Q(Player).where_sql(text, **values)) == [7], text


ATTEMPTS = [
    "1 OR 1=1",
    "1; DROP TABLE q_players",
    "' OR '1'='1",
    "'; DELETE FROM q_players; --",
    "\\' OR 1=1 --",
    '" OR ""="',
    "1) OR (1=1",
    "/* */ 1 OR 1=1",
    ":n",
    ":other",
    "%(n)s",
    "%s",
    "{n}",
    "$1",
    "?",
    "$$ OR TRUE --$$",
    "\u02bc OR 1=1",
    "\\:n",
    "NULL) UNION SELECT * FROM q_players --",
]


def test_a_hostile_value_is_only_a_value(filled: DataLayer, statements: Statements) -> None:
    players = filled.repository(Player)
    for value in ATTEMPTS:
        assert ids(filled, Q(Player).where_sql("name = :n", n=value)) == []
        assert ids(filled, Q(Player).where_sql("name IN :n OR region IN :n", n=[value, value])) == []
        assert ids(filled, Q(Player).where(name=value)) == []
        assert players.count(Q(Player).where_sql("name = 'x' OR name = :n", n=value)) == 0
        assert all(value not in text for text in statements.texts if len(value) > 3)
        players.update(1, name=value)
        assert ids(filled, Q(Player).where_sql("name = :n AND id < 3", n=value)) == [1]
        assert players.count() == 150


@hypothesis.given(value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_finds_itself_and_nothing_else(value: str) -> None:
    clause = parse("name = :n", "it").bound({"n": value}, "it")
    compiled = sa.select(sa.literal(1)).where(clause).compile()
    assert str(compiled).endswith("WHERE name = :n")
    assert compiled.params["n"] == value


class Sneaky:
    """Says that it is SQL."""

    def __clause_element__(self) -> Any:
        return sa.text("1 = 1")


@pytest.mark.parametrize("value", [sa.text("1 = 1"), Player.id, sa.literal_column("1"), sa.bindparam("x", 1), Sneaky()])
def test_an_sql_expression_is_no_value(value: Any) -> None:
    with pytest.raises(QueryError, match="SQL expression"):
        Q(Player).where_sql("id = :n", n=value)
    with pytest.raises(QueryError, match="SQL expression"):
        Q(Player).where(id=value)


@pytest.mark.parametrize(
    ("text", "values", "message"),
    [
        ("level > :n", {}, "without a value: n; "),
        ("level > 1", {"n": 1}, "without a parameter: n; it has no parameters"),
        ("level > :n AND id = :id", {"n": 1, "m": 2}, "value: id; values without a parameter: m; it has :n, :id"),
        ("level > ':n'", {"n": 1}, "without a parameter: n"),
        ("level > $1", {}, "positional parameter '\\$1'"),
        ("level > ?1", {}, "positional parameter"),
        ("", {}, "is empty"),
        ("-- nothing", {}, "is empty"),
        ("1=1) OR (1=1", {}, "closes nothing"),
        ("(level > 1", {}, "not closed"),
        ("level IN (1]", {}, "closes nothing"),
        ("level > 1; DROP TABLE q_players", {}, "semicolon"),
        ("name = 'x", {}, "a string has no end"),
        ('"name = 1', {}, "a quoted name has no end"),
        ("level > 1 /* ", {}, "a comment has no end"),
        ("level > 1 /* a /* b */", {}, "comment in a comment"),
        ("name = $$x", {}, "a string has no end"),
        ("level > 1\0", {}, "NUL"),
        ("name = '%(n)s'", {}, "begins a parameter of a driver"),
        (3, {}, "expected SQL as text"),
    ],
)
def test_a_text_that_is_no_condition_is_refused(text: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        Q(Player).where_sql(text, **values)


def test_a_text_cannot_leave_its_condition(filled: DataLayer) -> None:
    # What is not refused stays inside of its own parentheses.
    assert ids(filled, Q(Player).where(id=1).where_sql("id = 2 OR id = 1 -- ) OR (1=1")) == [1]
    assert ids(filled, Q(Player).where(id=1).where_sql("')' = ')' OR id = 2 /* ) */")) == [1]


def test_pieces_join_to_the_text() -> None:
    source = "a = :a AND b IN (:b) AND c::int > :c::int AND ':d' <> \"x:y\" -- :e"
    found = parse(source, "it")
    assert found.parameters == {"a": Parameter("a", False), "b": Parameter("b", True), "c": Parameter("c", False)}
    assert found.render(lambda p: f"(:{p.name})" if p.many else f":{p.name}") == source
    assert str(found.clause.compile()) == source.replace("(:b)", ":b").replace(":c::", ":c ::")


PLAIN = st.text(st.sampled_from("ab:' \"\\%$1)"), max_size=12)


@hypothesis.given(body=PLAIN)
def test_a_string_literal_reaches_the_database_as_it_is(body: str) -> None:
    quoted = "'" + body.replace("'", "''") + "'"
    clause = parse(f"SELECT {quoted} AS found, :n AS n", "it").bound({"n": 1}, "it")
    compiled = clause.compile(dialect=sqlite.dialect(paramstyle="qmark"))
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute(str(compiled), (1,)).fetchone() == (body, 1)
