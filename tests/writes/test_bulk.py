"""``bulk_load``: any iterable, any number of rows, and caches that are right afterwards."""

from __future__ import annotations

import datetime as dt
import io
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import zoo
from writing import KEYS, Account, Guarded, Heard, Labelled, Line, Plain, Secret, Watched

from datalayer import (
    AlreadyExistsError,
    ConfigError,
    DataLayer,
    EncodeError,
    InvalidModelError,
    MissingPrimaryKeyError,
    NotFoundError,
    Repository,
)
from datalayer.observe.bar import Bar
from datalayer.tiers import copying

OLD = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)


def everything(layer: DataLayer, model: Any = Plain) -> dict[Any, Any]:
    with layer.session(consistency="database") as session:
        return {row.id: row for row in session.scalars(sa.select(model))}


ROWS: dict[str, Callable[[int], Any]] = {
    "mappings": lambda i: {"id": i, "name": f"n{i}", "at": OLD},
    "tuples": lambda i: (i, f"n{i}", OLD),
    "lists": lambda i: [i, f"n{i}", OLD],
    "instances": lambda i: Plain(id=i, name=f"n{i}", at=OLD),
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_of_every_kind_are_loaded(layer: DataLayer, kind: str) -> None:
    plain = layer.repository(Plain)
    assert plain.bulk_load((ROWS[kind](i) for i in range(25)), 10) == 25
    found = everything(layer)
    assert {id: row.name for id, row in found.items()} == {i: f"n{i}" for i in range(25)}
    assert plain.get_one(24).name == "n24"


def test_kinds_and_columns_may_change_from_row_to_row(layer: DataLayer) -> None:
    rows = [
        {"id": 1, "name": "a"},
        {"name": "b", "id": 2},
        {"id": 3},
        Plain(id=4, at=OLD),
        (5, "e", None),
        {"id": 6, "name": "f", "at": OLD},
    ]
    assert layer.repository(Plain).bulk_load(rows) == 6
    found = everything(layer)
    assert [found[i].name for i in range(1, 7)] == ["a", "b", "nameless", "nameless", "e", "f"]
    assert [found[i].at is not None for i in range(1, 7)] == [False, False, False, True, False, True]


def test_tuples_may_hold_some_columns(layer: DataLayer) -> None:
    layer.repository(Plain).bulk_load([("x", 1), ("y", 2)], columns=["name", "id"])
    assert {row.id: row.name for row in everything(layer).values()} == {1: "x", 2: "y"}


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        ([(1, "a")], {}, InvalidModelError, "tuple of 2 values; expected 3: id, name, at"),
        ([{"id": 1, "nmae": "a"}], {}, InvalidModelError, "'nmae'"),
        ([7], {}, InvalidModelError, "'int'"),
        ([Guarded(id=1, name="x")], {}, InvalidModelError, "'Guarded'"),
        ([{"name": "a"}], {"on_conflict": "update"}, MissingPrimaryKeyError, "primary key"),
        ([], {"on_conflict": "replace"}, ConfigError, "on_conflict"),
        ([], {"batch_size": 0}, ConfigError, "batch_size"),
        ([], {"columns": ["nmae"]}, ConfigError, "nmae"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    layer: DataLayer, rows: list[Any], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        layer.repository(Plain).bulk_load(rows, **options)
    assert everything(layer) == {}


def test_a_row_that_exists_is_an_error_and_nothing_is_loaded(layer: DataLayer) -> None:
    plain = layer.repository(Plain)
    plain.create(Plain(id=7, name="old"))
    with pytest.raises(AlreadyExistsError):
        plain.bulk_load({"id": i, "name": "new"} for i in range(10))
    assert {row.id: row.name for row in everything(layer).values()} == {7: "old"}
    assert plain.get(3) is None
    assert plain.get_one(7).name == "old"


def test_rows_that_exist_are_written_over_in_the_columns_given(layer: DataLayer) -> None:
    accounts = layer.repository(Account)
    made = accounts.create(Account(id=1, owner="ann", balance=5, note="keep"))
    rows = [
        {"id": 1, "balance": 6, "owner": "x"},
        {"id": 2, "balance": 7, "owner": "y"},
        {"id": 1, "balance": 8, "owner": "ann"},
    ]
    assert accounts.bulk_load(rows, on_conflict="update") == 3
    one, two = accounts.get_one(1), accounts.get_one(2)
    assert (one.owner, one.balance, one.note, two.balance) == ("ann", 8, "keep", 7)
    assert one.created_at == made.created_at
    assert one.updated_at > made.updated_at
    assert two.created_at is not None


def test_defaults_are_for_new_rows_only(layer: DataLayer) -> None:
    accounts = layer.repository(Account)
    accounts.create(Account(id=1, owner="ann", balance=5, note="keep"))
    accounts.bulk_load([{"id": 1, "owner": "anna"}, {"id": 2, "owner": "bob"}], on_conflict="update")
    assert [(a.owner, a.balance, a.note) for a in accounts.get_many([1, 2]).values()] == [
        ("anna", 5, "keep"),
        ("bob", 0, None),
    ]


def test_rows_that_cannot_be_inserted_as_they_are_must_exist(layer: DataLayer) -> None:
    accounts = layer.repository(Account)
    before = accounts.create(Account(id=1, owner="ann", balance=5))
    accounts.bulk_load([{"id": 1, "balance": 6}], on_conflict="update")  # the owner is not null, and not given
    after = accounts.get_one(1)
    assert (after.owner, after.balance, after.created_at) == ("ann", 6, before.created_at)
    assert after.updated_at > before.updated_at
    with pytest.raises(NotFoundError):
        accounts.bulk_load([{"id": 1, "balance": 7}, {"id": 2, "balance": 7}], on_conflict="update")
    assert accounts.get_one(1).balance == 6


def test_a_key_that_comes_again_in_a_later_batch_wins(layer: DataLayer) -> None:
    rows = [{"id": i % 7, "name": f"n{i}"} for i in range(50)]
    assert layer.repository(Plain).bulk_load(rows, 10, on_conflict="update") == 50
    assert {id: row.name for id, row in everything(layer).items()} == {i % 7: f"n{i}" for i in range(50)}


def test_rows_that_exist_may_be_left_as_they_are(layer: DataLayer) -> None:
    plain = layer.repository(Plain)
    plain.create(Plain(id=3, name="old"))
    assert plain.bulk_load(({"id": i, "name": "new"} for i in [1, 2, 3, 2]), on_conflict="ignore") == 2
    assert {row.id: row.name for row in everything(layer).values()} == {1: "new", 2: "new", 3: "old"}


def test_a_moment_that_was_set_once_is_not_set_again(layer: DataLayer) -> None:
    accounts = layer.repository(Account)
    accounts.bulk_load([Account(id=1, owner="ann", created_at=OLD, updated_at=OLD)])
    first = accounts.get_one(1)
    assert first.created_at == OLD
    assert first.updated_at > OLD
    accounts.bulk_load([(1, "bob", 1, None, None, None)], on_conflict="update")
    second = accounts.get_one(1)
    assert (second.owner, second.created_at) == ("bob", OLD)
    assert second.updated_at > first.updated_at


def test_a_version_counts_up(layer: DataLayer) -> None:
    guarded = layer.repository(Guarded)
    guarded.bulk_load([{"id": 1, "name": "a"}])
    version = guarded.get_one(1).version
    guarded.bulk_load([{"id": 1, "name": "b"}, {"id": 2, "name": "c"}], on_conflict="update")
    assert (guarded.get_one(1).version, guarded.get_one(2).version) == (version + 1, version)


def test_composite_keys_and_everything_else_that_a_column_may_hold(layer: DataLayer) -> None:
    lines = layer.repository(Line)
    lines.bulk_load([{"cart": 1, "number": i, "what": "x"} for i in range(5)])
    assert lines.get_one((1, 3)).what == "x"
    lines.bulk_load([{"cart": 1, "number": 3, "what": "y"}], on_conflict="update")
    assert lines.get_one((1, 3)).what == "y"


def test_values_of_every_type_arrive_as_they_are(any_url: str) -> None:
    import decimal
    import uuid

    values = {
        "id": uuid.uuid4(),
        "text": "täxt \\N \t\n'",
        "number": -(2**62),
        "ratio": 0.1,
        "flag": True,
        "raw": b"\x00\xff\\",
        "at": OLD,
        "day": dt.date(2024, 2, 29),
        "clock": dt.time(1, 2, 3, 4),
        "span": dt.timedelta(days=3, microseconds=5),
        "price": decimal.Decimal("12.34"),
        "token": uuid.uuid4(),
        "colour": zoo.Colour.BLUE,
        "items": [1, "a", None],
        "tree": {"k": {"n": [True]}},
        "missing": None,
    }
    with DataLayer(any_url, models=[zoo.Everything]) as layer:
        zoo.Everything.__table__.create(layer.engine)  # type: ignore[attr-defined]
        rows = layer.repository(zoo.Everything)
        for on_conflict in ("error", "update"):
            assert rows.bulk_load([values], on_conflict=on_conflict) == 1  # type: ignore[arg-type]
            found = rows.get_one(values["id"], consistency="database")
            assert {name: getattr(found, name) for name in values} == values


# -- caches ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 2500])
@pytest.mark.parametrize("on_conflict", ["error", "update", "ignore"])
def test_nobody_reads_what_was_before_the_load(layer: DataLayer, count: int, on_conflict: Any) -> None:
    plain = layer.repository(Plain)
    plain.create(Plain(id=-1, name="kept"))
    assert plain.get(2) is None
    assert plain.get_one(-1).name == "kept"
    assert plain.bulk_load([{"id": i, "name": "new"} for i in range(count)], on_conflict=on_conflict) == count
    assert plain.get_one(2).name == "new"
    assert plain.get_one(-1).name == "kept"
    if on_conflict == "update":
        plain.bulk_load([{"id": i, "name": "newer"} for i in range(count)], on_conflict="update")
        assert plain.get_one(2).name == "newer"
        assert plain.get_many([0, 2])[0].name == "newer"


def test_a_load_that_is_rolled_back_was_never_there(layer: DataLayer) -> None:
    plain = layer.repository(Plain)
    plain.create(Plain(id=1, name="old"))
    plain.get(1)
    with layer.session() as session:
        mine = Repository[Plain](session)
        mine.bulk_load([{"id": 1, "name": "new"}, {"id": 2, "name": "new"}], on_conflict="update")
        assert mine.get_one(1).name == "new"  # read your own writes
        if layer.engine.dialect.name == "postgresql":
            assert plain.get_one(1).name == "old"
        session.rollback()
    assert plain.get_one(1).name == "old"
    assert plain.get(2) is None


def test_a_small_load_leaves_the_other_rows_in_the_cache(pg: DataLayer) -> None:
    plain = pg.repository(Plain)
    plain.bulk_load([{"id": i, "name": "old"} for i in range(5)])
    plain.get_many(range(5))
    misses = pg.stats().tiers["l1"].misses
    plain.bulk_load([{"id": 2, "name": "new"}], on_conflict="update")
    plain.bulk_load([{"id": 9, "name": "new"}])
    assert [plain.get_one(i).name for i in range(5)] == ["old", "old", "new", "old", "old"]
    assert pg.stats().tiers["l1"].misses <= misses + 1


def test_instances_of_the_session_show_what_was_loaded(layer: DataLayer) -> None:
    layer.repository(Plain).create(Plain(id=1, name="old"))
    with layer.begin() as session:
        held = session.get_one(Plain, 1)
        Repository[Plain](session).bulk_load([{"id": 1, "name": "new"}], on_conflict="update")
        assert held.name == "new"


def test_rows_may_come_from_the_very_session_that_loads_them(layer: DataLayer) -> None:
    layer.repository(Account).bulk_load([{"id": i, "owner": f"o{i}"} for i in range(30)])
    with layer.begin() as session:

        def rows() -> Iterator[dict[str, Any]]:
            for id in range(30):
                yield {"id": id, "name": session.get_one(Account, id).owner}
                session.add(Line(cart=id, number=1, what="seen"))
                session.flush()

        assert Repository[Plain](session).bulk_load(rows(), 7) == 30
    assert len(everything(layer)) == 30
    assert layer.repository(Line).count() == 30


# -- what is sent ------------------------------------------------------------------------------------------------------


def copies(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each COPY that is begun is binary."""
    seen: list[bool] = []
    begin = copying.CopyIn._begin

    def noted(self: Any) -> Any:
        seen.append(self.binary)
        return begin(self)

    monkeypatch.setattr(copying.CopyIn, "_begin", noted)
    return seen


def test_copy_is_binary_where_the_types_allow_and_text_else(pg: DataLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = copies(monkeypatch)
    pg.repository(Plain).bulk_load([{"id": 1, "name": "a"}])
    with pg.engine.begin() as connection:
        connection.execute(sa.text("CREATE TYPE w_mood AS ENUM ('ok', 'bad')"))
        connection.execute(sa.text("ALTER TABLE w_plain ALTER name TYPE w_mood USING 'ok'"))
    pg.repository(Plain).bulk_load([{"id": 2, "name": "bad"}])
    assert seen == [True, False]
    assert {row.name for row in everything(pg).values()} == {"ok", "bad"}


def test_the_types_are_those_of_the_database(pg: DataLayer) -> None:
    with pg.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE w_accounts ALTER balance TYPE smallint"))
    accounts = pg.repository(Account)
    accounts.bulk_load([{"id": 1, "owner": "a", "balance": -7}])
    assert accounts.get_one(1).balance == -7
    with pytest.raises(EncodeError, match=r"w_accounts\.balance takes int, found a value of type 'str'"):
        accounts.bulk_load([{"id": 2, "owner": "a", "balance": "12 apples"}])


def test_a_table_with_row_level_security_is_loaded_by_insert(pg: DataLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = copies(monkeypatch)
    with pg.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE w_plain ENABLE ROW LEVEL SECURITY"))
    assert pg.repository(Plain).bulk_load([{"id": 1, "name": "a"}]) == 1
    assert seen == []
    assert everything(pg)[1].name == "a"


def test_a_default_that_looks_at_the_row_is_worked_out_by_sqlalchemy(pg: DataLayer) -> None:
    pg.repository(Labelled).bulk_load([{"id": 4}, {"id": 5}])
    assert [row.name for row in everything(pg, Labelled).values()] == ["of 4", "of 5"]


def test_a_hierarchy_is_loaded_by_insert(any_url: str) -> None:
    with DataLayer(any_url, models=[zoo.Animal, zoo.Dog]) as layer:
        for cls in (zoo.Animal, zoo.Dog):
            cls.__table__.create(layer.engine)  # type: ignore[attr-defined]
        dogs = layer.repository(zoo.Dog)
        assert dogs.bulk_load([{"id": i, "name": "rex", "tricks": i} for i in range(3)]) == 3
        assert (dogs.get_one(2).tricks, dogs.get_one(2).kind) == (2, "dog")
        with pytest.raises(InvalidModelError, match="'Dog'"):
            layer.repository(zoo.Animal).bulk_load([zoo.Dog(id=9, name="rex", tricks=1)])
        layer.repository(zoo.Animal).set_many([zoo.Dog(id=9, name="rex", tricks=1), zoo.Animal(id=10, name="cat")])
        assert dogs.get_one(9).tricks == 1
        with pytest.raises(InvalidModelError, match="set_many"):
            dogs.bulk_load([{"id": 1, "name": "rex", "tricks": 1}], on_conflict="update")


def test_an_autocommit_session_loads_too(pg: DataLayer) -> None:
    plain = pg.repository(Plain)
    assert plain.get(1) is None
    with pg.session() as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        Repository[Plain](session).bulk_load([{"id": 1, "name": "a"}])
        assert plain.get_one(1).name == "a"


@pytest.mark.parametrize("on_conflict", ["error", "update"])
def test_encrypted_columns_are_encrypted_and_found(layer: DataLayer, on_conflict: Any) -> None:
    secrets = layer.repository(Secret)
    rows = [{"id": i, "email": f"e{i}@x", "token": f"t{i}"} for i in range(3)]
    assert secrets.bulk_load(rows, on_conflict=on_conflict) == 3
    found = secrets.get_one(2, consistency="database")
    assert (found.email, found.token) == ("e2@x", "t2")
    assert secrets.get_by(email="e1@x").id == 1  # type: ignore[union-attr]
    with layer.engine.connect() as connection:
        stored = connection.execute(sa.text("SELECT email, token, email_bidx FROM w_secrets")).all()
    assert not any("@" in value or value in ("t0", "t1", "t2") for row in stored for value in row)
    with pytest.raises(AlreadyExistsError):
        secrets.bulk_load([{"id": 9, "email": "e1@x"}])


def test_while_keys_are_exchanged_uniqueness_is_still_checked(open_layer: Callable[..., DataLayer]) -> None:
    old = open_layer()
    old.repository(Secret).bulk_load([{"id": 1, "email": "e1@x"}])
    new = open_layer(encryption_keys={"k2": bytes(32), **KEYS})
    with pytest.raises(AlreadyExistsError):
        new.repository(Secret).bulk_load([{"id": 2, "email": "e1@x"}])
    assert new.repository(Secret).bulk_load([{"id": 2, "email": "e2@x"}]) == 1


# -- hooks, progress, memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [{"id": 1, "name": "A"}, (1, "A"), "instance"], ids=["mapping", "tuple", "instance"])
def test_before_set_is_asked_for_every_row_and_may_refuse(layer: DataLayer, heard: Heard, row: Any) -> None:
    watched = layer.repository(Watched)
    if row == "instance":
        row = Watched(id=1, name="A")
    heard.before = lambda obj: setattr(obj, "name", obj.name.lower())
    watched.bulk_load([row])
    assert heard.taken() == [("before_set", 1, "A")]
    assert watched.get_one(1).name == "a"

    def refuse(obj: Any) -> None:
        raise ValueError("no")

    heard.before = refuse
    with pytest.raises(ValueError, match="no"):
        watched.bulk_load([{"id": 2, "name": "B"}, {"id": 3, "name": "C"}])
    assert watched.count() == 1
    assert watched.bulk_load([{"id": 2, "name": "B"}], hooks=False) == 1


def test_progress_is_told_after_each_batch(layer: DataLayer) -> None:
    told: list[int] = []
    layer.repository(Plain).bulk_load(({"id": i} for i in range(25)), 10, progress=told.append)
    assert told == [10, 20, 25]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_drawn_on_a_terminal_only() -> None:
    now = [0.0]
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        bar = Bar("loading", 200, stream=stream, clock=lambda: now[0])
        for done in (50, 100, 150, 200):
            now[0] += 0.06
            bar(done)
        bar.close()
    assert file.getvalue() == ""
    drawn = terminal.getvalue()
    assert drawn.count("\r") < 5  # not at every call
    assert "[######################        ] 150/200" in drawn
    assert drawn.rstrip().endswith("\033[K")
    assert "[##############################] 200/200" in drawn


def test_memory_does_not_grow_with_the_number_of_rows(pg: DataLayer) -> None:
    plain = pg.repository(Plain)

    def peak(count: int, start: int, **options: Any) -> int:
        tracemalloc.start()
        try:
            plain.bulk_load(((i, "a name that takes some room", None) for i in range(start, start + count)), **options)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1_000, 0)
    small, large = peak(10_000, 10_000), peak(60_000, 100_000)
    assert large < small * 1.5 + 500_000


def test_a_table_that_is_written_behind_takes_no_load(open_layer: Callable[..., DataLayer], tmp_path: Path) -> None:
    layer = open_layer(models=[Plain], write_mode="behind", journal="file", journal_path=str(tmp_path))
    with pytest.raises(InvalidModelError, match="written behind"):
        layer.repository(Plain).bulk_load([{"id": 1}])
    with layer.session() as session, pytest.raises(InvalidModelError, match="written behind"):
        Repository[Plain](session).bulk_load([{"id": 1}])


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(os.environ.get("DATALAYER_TEST_LONG") != "1", reason="takes minutes; set DATALAYER_TEST_LONG=1")
@pytest.mark.timeout(3600)
def test_ten_million_rows_need_no_more_memory_than_ten_thousand(pg: DataLayer) -> None:
    plain, most = pg.repository(Plain), [0]
    plain.bulk_load((i, "a name that takes some room", None) for i in range(-10_000, 0))
    before = resident()

    def progress(done: int) -> None:
        if done % 100_000 == 0:
            most[0] = max(most[0], resident() - before)

    for on_conflict in ("error", "update"):
        rows = ((i, "a name that takes some room", None) for i in range(10_000_000))
        assert plain.bulk_load(rows, progress=progress, on_conflict=on_conflict) == 10_000_000  # type: ignore[arg-type]
    assert most[0] < 40_000_000
    assert plain.count() == 10_010_000
