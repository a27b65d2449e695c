"""What a writer leaves in the caches: exactly the committed row, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from datalayer import CachePolicy, DataLayer, Model, WriteMode, column
from datalayer.contracts.causal import parse_token
from datalayer.contracts.pauses import pause_at
from datalayer.testing.counting import Statements
from datalayer.testing.servers.cluster import wait_until
from datalayer.tiers import images

Twins = Callable[..., tuple[DataLayer, DataLayer]]


class Entry(Model):
    __tablename__ = "through_entries"
    id: Mapped[int] = column(primary_key=True)
    text: Mapped[str]
    note: Mapped[str | None] = column(default="from the server")
    secret: Mapped[str | None] = column(omit_cache=True)


class LazyEntry(Model):
    __tablename__ = "through_lazy"
    __cache__ = CachePolicy(write_mode=WriteMode.THROUGH_L1_LAZY)
    id: Mapped[int] = column(primary_key=True)
    text: Mapped[str]


@pytest.fixture
def layer(any_url: str) -> Iterator[DataLayer]:
    with DataLayer(any_url, models=[Entry, LazyEntry]) as layer:
        Model.metadata.create_all(layer.engine, tables=[Entry.__table__, LazyEntry.__table__])  # type: ignore[list-item]
        layer.repository(Entry).get(0)  # the table is there: it can be cached
        layer.repository(LazyEntry).get(0)
        yield layer


@pytest.fixture
def two(twins: Twins) -> tuple[DataLayer, DataLayer]:
    one, other = twins(Entry, LazyEntry)
    for layer in (one, other):
        for model in (Entry, LazyEntry):
            layer.repository(model).get(0)
    return one, other


def l1_hits(layer: DataLayer) -> int:
    return int(layer.stats().to_dict()["tiers"]["l1"]["hits"])


def settled(layer: DataLayer) -> None:
    """Until L1 may be served and the first transactions have ended."""
    while layer._parts.authority.horizon[0] < layer._parts.clock.monotonic():  # type: ignore[union-attr]
        layer.repository(Entry).get(0)


def test_what_was_written_is_read_from_memory(layer: DataLayer) -> None:
    entries = layer.repository(Entry)
    entries.create(Entry(id=1, text="one", secret="s"))
    with Statements(layer.engine) as asked:
        found = entries.get_one(1)
        assert (found.text, found.note) == ("one", "from the server")
        assert "secret" not in found.__dict__
        entries.update(1, text="uno")
        asked.taken()
        assert entries.get_one(1).text == "uno"
    assert not asked.texts
    with layer.begin() as session:
        session.delete(session.get_one(Entry, 1))
    assert entries.get(1) is None


def test_a_lazy_model_is_read_again(layer: DataLayer) -> None:
    layer.repository(LazyEntry).create(LazyEntry(id=1, text="one"))
    assert layer.stats().l1_entries <= 2  # the absences that were asked for
    with Statements(layer.engine) as asked:
        assert layer.repository(LazyEntry).get_one(1).text == "one"
    assert len(asked) == 1


def test_a_rolled_back_write_leaves_nothing(layer: DataLayer) -> None:
    entries = layer.repository(Entry)
    entries.create(Entry(id=1, text="one"))
    with layer.session() as session:
        session.get_one(Entry, 1).text = "never"
        session.flush()
        session.rollback()
    assert entries.get_one(1).text == "one"


def test_a_savepoint_that_was_rolled_back_leaves_what_is_committed(layer: DataLayer) -> None:
    entries = layer.repository(Entry)
    entries.create(Entry(id=1, text="one"))
    with layer.begin() as session:
        with session.begin_nested() as inner:
            session.get_one(Entry, 1).text = "never"
            session.flush()
            inner.rollback()
        session.get_one(Entry, 1).note = "changed"
    with Statements(layer.engine) as asked:
        found = entries.get_one(1)
    assert (found.text, found.note, len(asked)) == ("one", "changed", 0)


def test_two_writers_leave_the_last_row(layer: DataLayer) -> None:
    """The second commits while the first has not lifted its marks yet."""
    if layer.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    entries = layer.repository(Entry)
    entries.create(Entry(id=1, text="one"))

    def overtake() -> None:
        with layer.engine.connect() as connection:  # not through the session: nothing but the marks is in the way
            connection.execute(sa.update(Entry).where(Entry.id == 1).values(text="three"))
            connection.commit()

    done = []
    with pause_at("write.after_commit", lambda: done or (done.append(1), overtake())), layer.begin() as session:
        session.get_one(Entry, 1).text = "two"
    assert entries.get_one(1).text == "three"


def test_another_process_reads_what_was_written_from_the_shared_cache(two: tuple[DataLayer, DataLayer]) -> None:
    one, other = two
    settled(one)
    settled(other)
    one.repository(Entry).create(Entry(id=1, text="one"))
    entries, reads = other.repository(Entry), 0
    before = other.stats().to_dict()["tiers"]["l3"]["hits"]
    while not reads:  # the marks are lifted, and the row is left, without waiting
        assert entries.get_one(1, consistency="shared").text == "one"
        reads = int(other.stats().to_dict()["tiers"]["l2"]["hits"])
    assert other.stats().to_dict()["tiers"]["l3"]["hits"] - before <= 1
    start = l1_hits(one)
    assert one.repository(Entry).get_one(1).text == "one"
    assert l1_hits(one) == start + 1


def test_what_others_announce_while_a_write_commits_is_not_overwritten(two: tuple[DataLayer, DataLayer]) -> None:
    one, other = two
    settled(one)
    entries = one.repository(Entry)
    entries.create(Entry(id=1, text="one"))
    authority: Any = one._parts.authority
    done = []

    def overtake() -> None:
        if not done:
            done.append(1)
            with other.begin() as session:
                session.execute(sa.update(Entry).where(Entry.id == 1).values(text="three"))
            token = parse_token(session.causal_token)
            wait_until("it is heard", lambda: authority.caught_up(token))

    with pause_at("write.after_commit", overtake), one.begin() as session:
        session.get_one(Entry, 1).text = "two"
    assert entries.get_one(1).text == "three"
    assert other.repository(Entry).get_one(1, consistency="shared").text == "three"


@pytest.mark.parametrize("safe", [True, False], ids=["with the lock", "without the lock"])
def test_a_row_is_locked_before_it_is_left(
    two: tuple[DataLayer, DataLayer], monkeypatch: pytest.MonkeyPatch, safe: bool
) -> None:
    """An UPDATE that matched nothing holds no lock: somebody else could change the row after it was read."""
    if not safe:
        monkeypatch.setattr(images, "_WITH_XID", images._WITH_XID.replace("FOR NO KEY UPDATE SKIP LOCKED", ""))
    one, other = two
    settled(one)
    entries = one.repository(Entry)
    entries.create(Entry(id=1, text="one"))
    tried: list[int] = []

    def overtake() -> None:
        if not tried:
            tried.append(1)
            with suppress(sa.exc.OperationalError), other.begin() as session:
                session.execute(sa.text("SET LOCAL lock_timeout = '100ms'"))
                session.execute(sa.update(Entry).where(Entry.id == 1).values(text="two"))

    with pause_at("write.after_flush", overtake), one.begin() as mine:
        mine.execute(sa.update(Entry).where(Entry.id == 1, Entry.text == "no such").values(text="never"))
    stale = {entries.get_one(1, consistency=level).text for level in ("cached", "shared")} - {
        entries.get_one(1, consistency="database").text
    }
    assert bool(stale) is not safe


def test_deferred_triggers_keep_a_table_from_being_written_through(two: tuple[DataLayer, DataLayer]) -> None:
    one, other = two
    with one.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE through_entries "
            "SET text = upper(text) WHERE id = NEW.id AND text <> upper(text); RETURN NULL; END $$"
        )
        connection.exec_driver_sql(
            "CREATE CONSTRAINT TRIGGER shout AFTER INSERT OR UPDATE ON through_entries DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION shout()"
        )
    settled(one)
    one.repository(Entry).create(Entry(id=1, text="one"))
    assert one.repository(Entry).get_one(1).text == "ONE"
    assert other.repository(Entry).get_one(1).text == "ONE"


def test_a_role_that_may_only_insert_can_still_commit(two: tuple[DataLayer, DataLayer]) -> None:
    one, _ = two
    settled(one)
    with one.begin() as session:
        session.execute(sa.text("DO $$ BEGIN CREATE ROLE inserter; EXCEPTION WHEN duplicate_object THEN NULL; END $$"))
        session.execute(sa.text("GRANT INSERT ON through_entries TO inserter"))
    try:
        with one.begin() as session:
            session.execute(sa.text("SET LOCAL ROLE inserter"))
            session.add(Entry(id=1, text="one", note="n"))
        assert one.repository(Entry).get_one(1).text == "one"
    finally:
        with one.begin() as session:
            session.execute(sa.text("REVOKE INSERT ON through_entries FROM inserter"))


def test_a_commit_costs_one_statement_and_two_messages(two: tuple[DataLayer, DataLayer]) -> None:
    one, _ = two
    settled(one)
    entries = one.repository(Entry)
    entries.create(Entry(id=1, text="one"))
    entries.update(1, text="two")
    one._parts.authority.close()  # type: ignore[union-attr]  # no heartbeat in between
    wire = one._parts.l2._wire  # type: ignore[union-attr]
    before = wire.round_trips
    with one.begin() as session:
        session.get_one(Entry, 1).text = "three"
    assert wire.round_trips - before <= 1
