"""Files of named queries are read strictly: what cannot be right is refused with its file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest
from games import Base, Player

from datalayer import DataLayer, Queries, QueryError
from datalayer.query.effects import written_by
from datalayer.query.files import read_file
from datalayer.query.text import parse


@pytest.fixture
def layer() -> Any:
    with DataLayer("sqlite://", models=Base) as layer:
        yield layer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no queries"),
        ("-- a comment only", "has no queries"),
        ("SELECT 1", r"a.sql:1: SQL before the first"),
        ("-- name: a", r"a.sql:1: '-- name: a' is no header"),
        ("-- name: a many\nSELECT 1", "is no header"),
        ("-- name: a :most\nSELECT 1", "a is :most; expected :one, :many, :exec, :scalar"),
        ("-- name: a-b :one\nSELECT 1", "'a-b' cannot be the name"),
        ("-- name: class :one\nSELECT 1", "cannot be the name"),
        ("-- name: _a :one\nSELECT 1", "cannot be the name"),
        ("-- name: in_session :one\nSELECT 1", "cannot be the name"),
        ("-- name: a :one\n-- nothing here", r"a \(a.sql:1\) has no statement"),
        ("-- name: a :one\n;", "has no statement"),
        ("\n\n-- name: a :one\nSELECT 1; SELECT 2", r"a \(a.sql:3\) has more than one statement"),
        ("-- name: a :one\nSELECT 1;;", "more than one statement"),
        ("-- name: a :one\nSELECT 'x", "a string has no end"),
        ("-- name: a :one\nSELECT (1", "not closed"),
        ("-- name: a :one\nSELECT $1", "positional parameter"),
        ("-- name: a :one\n-- return: int\nSELECT 1", "did you mean '-- returns:'"),
        ("-- name: a :one\n-- returns: int\n-- returns: int\nSELECT 1", "says '-- returns:' twice"),
        ("-- name: a :one\n-- returns: Nothing\nSELECT 1", "'Nothing' is no model of this layer"),
        ("-- name: a :one\n-- returns: id number\nSELECT 1", "the type 'number' is not known"),
        ("-- name: a :one\n-- returns: class int, b int\nSELECT 1", "'class' cannot be the name of a field"),
        ("-- name: a :exec\n-- returns: int\nSELECT 1", "leave '-- returns:' out"),
        (
            "-- name: a :one\nSELECT 1\n-- name: a :one\nSELECT 2",
            r"two queries are named 'a': a \(a.sql:1\) and a \(a.sql:3\)",
        ),
        ("-- name: a :exec\nDELETE FROM t", "add '-- writes: t'"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused(layer: DataLayer, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.sql").write_text(text)
    with pytest.raises(QueryError, match=message):
        layer.queries(tmp_path)


def test_a_directory_that_is_none_and_a_file_that_is_no_text_are_refused(layer: DataLayer, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="is no directory"):
        layer.queries(tmp_path / "absent")
    (tmp_path / "a.sql").write_bytes(b"\xff\xfe")
    with pytest.raises(QueryError, match="UTF-8"):
        layer.queries(tmp_path)


def test_headers_comments_and_statements_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text(
        "\ufeff-- about all\n\n--name:first :many\n-- Says what it does.\n--\n-- returns: int\n-- note: and more\n\n"
        "SELECT 1 -- name: not_this :one\n  /* -- returns: str */;\n-- at the end\n\n"
        "-- NAME: Second   :scalar  \nSELECT 2"
    )
    first, second = read_file(tmp_path / "a.sql")
    assert (first.name, first.kind, first.returns, first.line, first.first) == ("first", "many", "int", 3, 9)
    assert first.doc == "Says what it does.\n\nnote: and more"
    assert first.sql.source.strip().endswith("/* -- returns: str */")
    assert (second.name, second.kind, second.line) == ("Second", "scalar", 13)


def found(text: str, declared: str | None = "*") -> set[tuple[str | None, str]]:
    return {(write.table, write.change) for write in written_by(parse(text, "q"), declared, "q")}


ALL = {"insert", "update", "delete"}


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        ("SELECT 1", {}),
        ("(SELECT 1) UNION (SELECT 2)", {}),
        ("SELECT * FROM t WHERE a = 'DELETE FROM x' FOR UPDATE", {}),
        ('SELECT "update", replace(a, b, c), (insert) FROM t', {}),
        ("WITH a AS (SELECT 1) SELECT * FROM a -- DELETE FROM x", {}),
        ("VALUES (1)", {}),
        ("INSERT INTO T (a) VALUES (1)", {"t": {"insert"}}),
        ("INSERT INTO t SELECT * FROM u ON CONFLICT (a) DO UPDATE SET b = 1", {"t": ALL}),
        ("INSERT OR REPLACE INTO t VALUES (1)", {"t": ALL}),
        ("REPLACE INTO t VALUES (1)", {"t": ALL}),
        ("UPDATE ONLY s.t SET a = 1", {"s.t": {"update"}}),
        ('UPDATE "My ""T" SET a = 1', {'My "T': {"update"}}),
        ("UPDATE OR IGNORE t SET a = 1", {"t": {"update"}}),
        ("DELETE FROM t USING u", {"t": {"delete"}}),
        ("MERGE INTO t USING u ON true WHEN MATCHED THEN DELETE", {"t": ALL}),
        ("TRUNCATE TABLE t, s.u, ONLY v CASCADE", {"t": {"delete"}, "s.u": {"delete"}, "v": {"delete"}}),
        ("WITH a AS (DELETE FROM t RETURNING *), b AS (UPDATE u SET c = 1) INSERT INTO v SELECT * FROM a", {
            "t": {"delete"}, "u": {"update"}, "v": {"insert"},
        }),
        ("SELECT * INTO t FROM u", {"t": {"insert"}}),
        ("/* c */ DELETE /* FROM x */ FROM t", {"t": {"delete"}}),
    ],
)  # fmt: skip
def test_the_tables_that_a_text_writes_are_seen(text: str, tables: dict[str, set[str]]) -> None:
    shown = {(table, change) for table, changes in tables.items() for change in changes}
    everything = {(None, change) for change in ALL}
    assert found(text) == shown | everything
    if shown:
        with pytest.raises(QueryError, match="does not say so"):
            found(text, None)
        with pytest.raises(QueryError, match="leaves out"):
            found(text, "none")
        quoted = (".".join(f'"{part.replace(chr(34), chr(34) * 2)}"' for part in name.split(".")) for name in tables)
        assert found(text, ", ".join(quoted)) == shown
    else:
        assert found(text, None) == found(text, "none") == set()
        assert found(text, "a, s.b") == {(table, change) for table in ("a", "s.b") for change in ALL}


def test_a_declaration_may_name_a_table_with_or_without_its_schema_in_any_case() -> None:
    assert found("UPDATE public.Players SET a = 1", "players") == {("public.players", "update")}
    assert found("UPDATE players SET a = 1", 'PUBLIC."PLAYERS"') == {("players", "update")}
    with pytest.raises(QueryError, match="leaves out"):
        found("UPDATE a.players SET a = 1", "b.players")
    with pytest.raises(QueryError, match="no list of tables"):
        found("UPDATE players SET a = 1", "players; events")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("BEGIN", "transactions"),
        ("commit", "transactions"),
        ("SET search_path = x", "outlive"),
        ("DROP TABLE t", "migrations"),
        ("COPY t FROM STDIN", "bulk_load"),
        ("DO $$ BEGIN DELETE FROM t; END $$", "function"),
        ("CALL p()", "begins with CALL"),
        ("EXPLAIN ANALYZE DELETE FROM t", "begins with EXPLAIN"),
    ],
)
def test_statements_that_are_no_queries_are_refused(text: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        found(text, None)


# -- interfaces ------------------------------------------------------------------------------------------------------


class Two(NamedTuple):
    id: int
    name: str


def test_a_declaration_that_does_not_fit_its_query_is_refused(layer: DataLayer, tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text(
        "-- name: some :many\nSELECT id, name FROM q_players WHERE id > :id AND level > :level\n"
        "-- name: gone :exec\n-- writes: q_players\nDELETE FROM q_players\n"
    )

    class Absent(Queries, Protocol):
        def smoe(self) -> list[Two]: ...

    class Fewer(Queries, Protocol):
        def some(self, *, id: int) -> list[Two]: ...

    class Star(Queries, Protocol):
        def some(self, **values: int) -> list[Two]: ...

    class NoList(Queries, Protocol):
        def some(self, id: int, level: int) -> Two: ...

    class Odd(Queries, Protocol):
        def some(self, id: int, level: int) -> list[Queries]: ...

    class NoCount(Queries, Protocol):
        def gone(self) -> str: ...

    class Undefined(Queries, Protocol):
        def some(self, id: int, level: int) -> list[Nowhere]: ...  # type: ignore[name-defined]  # noqa: F821

    refused: list[tuple[Any, str]] = [
        (Absent, "Absent.smoe has no query; there are gone, some"),
        (Fewer, "has the parameters id; some .* has id, level"),
        (Star, r"takes \* or \*\*"),
        (NoList, "is :many and returns a list"),
        (Odd, "expected a mapped class"),
        (NoCount, "is :exec and returns an int"),
        (Undefined, "not defined"),
        (Two(1, ""), "expected a class"),
    ]
    for interface, message in refused:
        with pytest.raises(QueryError, match=message):
            layer.queries(tmp_path, interface)

    class Part(Queries, Protocol):
        def some(self, id: int, level: int = 0) -> list[Two]: ...

    assert layer.queries(tmp_path, Part) is not None


# -- check -----------------------------------------------------------------------------------------------------------


def write(folder: Path, **queries: str) -> Path:
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.sql"):
        old.unlink()
    for i, (header, sql) in enumerate(queries.items()):
        name, _, kind = header.rpartition("_")
        (folder / f"{i}.sql").write_text(f"-- name: {name} :{kind}\n{sql}")
    return folder


def test_queries_that_fit_are_reported_with_their_types(any_url: str, tmp_path: Path) -> None:
    folder = write(
        tmp_path / "q",
        a_many="-- returns: Player\nSELECT * FROM q_players\nWHERE level > :n AND (seen > :since OR name LIKE '%x')",
        b_exec="-- writes: q_players\nUPDATE q_players SET name = :name WHERE id IN (:ids)",
        c_scalar="SELECT count(*) FROM q_players",
        d_one="-- writes: q_clubs\nINSERT INTO q_clubs (id, name) VALUES (:id, 'x') RETURNING id",
        e_many="-- returns: id int, seen datetime?\nWITH a AS (SELECT 1) SELECT id, seen FROM q_players LIMIT :n;",
    )
    with DataLayer(any_url, models=Base) as layer:
        Base.metadata.create_all(layer.engine)
        report = layer.check_queries(folder)
        assert (report.failure, [query.name for query in report.checked]) == (None, ["a", "b", "c", "d", "e"])
        first = report.checked[0]
        assert list(first.parameters) == ["n", "since"]
        assert list(first.columns)[:2] == ["id", "name"]
        if layer.engine.dialect.name == "postgresql":
            assert dict(first.parameters) == {"n": "bigint", "since": "timestamp with time zone"}
            assert dict(report.checked[4].columns) == {"id": "bigint", "seen": "timestamp with time zone"}
            assert dict(report.checked[3].columns) == {"id": "bigint"}
        assert layer.repository(Player).count() == 0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"a_many": "SELECT id,\n  nmae FROM q_players"}, "nmae"),
        ({"a_many": "SELECT id FROM q_nothing"}, "q_nothing"),
        ({"a_many": "SELECT id FROM WHERE"}, "syntax error"),
        ({"a_many": "-- returns: Player\nSELECT name FROM q_players"}, "no column id"),
        (
            {"a_many": "-- returns: Player\nSELECT id, level + 1 AS more FROM q_players"},
            "the column more, which Player",
        ),
        ({"a_many": "-- returns: id int, no str\nSELECT id FROM q_players"}, "no column no"),
        ({"a_many": "SELECT id, id FROM q_players"}, "two columns named id"),
        ({"a_scalar": "SELECT id, name FROM q_players"}, "2 columns"),
        ({"a_exec": "-- writes: q_plyers\nSELECT max(id) FROM q_players"}, "no table q_plyers"),
        ({"a_exec": "-- writes: q_players\nUPDATE q_players SET nmae = 1"}, "nmae"),
    ],
)
def test_the_first_query_that_does_not_fit_is_named(
    any_url: str, tmp_path: Path, query: dict[str, str], message: str
) -> None:
    folder = write(tmp_path / "q", **query, b_many="SELECT nothing FROM nowhere")
    with DataLayer(any_url, models=Base) as layer:
        Base.metadata.create_all(layer.engine)
        report = layer.check_queries(folder)
        assert not report.ok
        assert report.checked == []
        assert report.failure is not None
        assert message in report.failure
        assert "a (0.sql:" in report.failure


@pytest.mark.postgres
def test_postgresql_says_the_line_and_which_types_do_not_fit(pg_url: str, tmp_path: Path) -> None:
    with DataLayer(pg_url, models=Base) as layer:
        Base.metadata.create_all(layer.engine)
        for sql, message in (
            ("-- about it\n\nSELECT id,\n  nmae\nFROM q_players", '(0.sql:5): column "nmae" does not exist; Perhaps'),
            ("SELECT id FROM q_players WHERE :n IS NULL", "could not determine data type of parameter $1"),
            (
                "-- returns: n int\nSELECT sum(level) AS n FROM q_players",
                "column n is numeric, declared as int; cast it",
            ),
            ("-- returns: int\nSELECT name FROM q_players", "column name is text, declared as int"),
            ("-- returns: seen date\nSELECT seen FROM q_players", "timestamp with time zone, declared as date"),
        ):
            report = layer.check_queries(write(tmp_path / "q", a_many=sql))
            assert report.failure is not None
            assert message in report.failure, sql
        fits = write(
            tmp_path / "q", a_many="-- returns: n int, m float\nSELECT sum(level)::bigint n, 1.5 AS m FROM q_players"
        )
        assert layer.check_queries(fits).ok


@pytest.mark.postgres
def test_an_interface_has_the_types_that_postgresql_says(pg_url: str, tmp_path: Path) -> None:
    folder = write(
        tmp_path / "q",
        a_many="-- returns: Player\nSELECT * FROM q_players WHERE id = ANY (:ids) AND level IN :levels",
        b_many="SELECT p.id, c.name AS club FROM q_players p LEFT JOIN q_clubs c ON c.id = p.club_id",
        c_one="-- returns: x Any, y float\nSELECT '[1]'::jsonb AS x, 1.5::float AS y",
        d_scalar="SELECT id FROM q_players WHERE name = :name",
        e_many="-- returns: str\nSELECT name FROM q_players",
        f_exec="-- writes: q_players\nDELETE FROM q_players",
    )
    with DataLayer(pg_url, models=Base) as layer:
        Base.metadata.create_all(layer.engine)
        made = layer.query_interface(folder, "Made")
        assert [line.strip() for line in made.splitlines() if line.startswith("    ")] == [
            "id: int | None",
            "club: str | None",
            "x: Any",
            "y: float | None",
            "def a(self, *, ids: Sequence[int], levels: Sequence[int]) -> list[Player]: ...",
            "def b(self) -> list[BRow]: ...",
            "def c(self) -> CRow | None: ...",
            "def d(self, *, name: str) -> int | None: ...",
            "def e(self) -> list[str]: ...",
            "def f(self) -> int: ...",
        ]
        names: dict[str, Any] = {"__name__": __name__}
        exec(compile(made, "made", "exec", dont_inherit=True), names)
        assert layer.check_queries(folder, names["Made"]).ok
        layer.repository(Player).create(Player(id=1, name="ann"))
        queries = layer.queries(folder, names["Made"])
        assert [player.name for player in queries.a(ids=[1, 2], levels=[1])] == ["ann"]
        assert (queries.b()[0].club, queries.e(), queries.f()) == (None, ["ann"], 1)
        with pytest.raises(QueryError, match="nothing"):
            layer.query_interface(write(tmp_path / "q", a_many="SELECT nothing FROM q_players"))


def test_an_interface_is_checked_with_the_schema(sqlite_url: str, tmp_path: Path) -> None:
    class Rows(Queries, Protocol):
        def a(self) -> list[Two]: ...

    with DataLayer(sqlite_url, models=Base) as layer:
        Base.metadata.create_all(layer.engine)
        report = layer.check_queries(write(tmp_path / "q", a_many="SELECT id FROM q_players"), Rows)
        assert report.failure == "a (0.sql:1) has no column name; it has id"
