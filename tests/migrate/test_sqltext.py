"""Scripts are cut into statements at the right semicolons."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalayer.migrate.sqltext import split


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", []),
        (" ;; -- nothing\n /* at ; all */ ;", []),
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1;\nSELECT 2;", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';', \"a;b\", 'it''s;'; SELECT 2", ["SELECT ';', \"a;b\", 'it''s;'", "SELECT 2"]),
        (r"SELECT E'a\';b'; SELECT 2", [r"SELECT E'a\';b'", "SELECT 2"]),
        (r"SELECT 'a\'; SELECT 2", [r"SELECT 'a\'", "SELECT 2"]),
        ("DO $x$ BEGIN a; $$; END $x$; SELECT 2", ["DO $x$ BEGIN a; $$; END $x$", "SELECT 2"]),
        ("SELECT 1 /* a /* b; */ ; */; SELECT 2", ["SELECT 1 /* a /* b; */ ; */", "SELECT 2"]),
        ("SELECT 1 -- a; b\n; SELECT 2", ["SELECT 1 -- a; b", "SELECT 2"]),
        (
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE a SET b = CASE WHEN 1 THEN 2 END; SELECT 1; END; SELECT 2",
            [
                "CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE a SET b = CASE WHEN 1 THEN 2 END; SELECT 1; END",
                "SELECT 2",
            ],
        ),
        (
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END; SELECT 3",
            ["CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END", "SELECT 3"],
        ),
        ("BEGIN; SELECT 1; END; SELECT 2", ["BEGIN", "SELECT 1", "END", "SELECT 2"]),
        ("SELECT $1; SELECT a$b$c; SELECT 2", ["SELECT $1", "SELECT a$b$c", "SELECT 2"]),
    ],
)
def test_statements(script: str, expected: list[str]) -> None:
    assert [statement.text for statement in split(script)] == expected


def test_each_knows_its_line_and_the_comments_above_it() -> None:
    first, second = split("-- one\nSELECT 'a;\n b'; \n\n -- two\n/* x */ SELECT 2 -- three\n;")
    assert (first.line, first.comments, first.bare) == (2, ("-- one",), "SELECT ''")
    assert (second.line, second.bare) == (6, "SELECT 2")
    assert second.comments[0] == "-- two"


@given(st.text(alphabet="a;'\"$-/*\n E", max_size=40))
def test_nothing_is_lost_and_nothing_fails(script: str) -> None:
    kept = "".join(statement.text for statement in split(script))
    assert sum(map(kept.count, "a")) <= script.count("a")
    assert all(statement.text and statement.line >= 1 for statement in split(script))
