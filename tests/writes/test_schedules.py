"""Each step of write-behind at the moment when it is needed, and again without it: then the same story must end badly.

The stories are the counterexamples that the model of the protocol gives when a rule is switched off, told with two
layers, real servers, and deaths at the points of the protocol.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from behind_duo import Child, Duo, Row, duo_of

import datalayer.writes.behind as behind_module
import datalayer.writes.routes as routes_module
import datalayer.writes.sink as sink_module
from datalayer.contracts.fence import Refusal
from datalayer.contracts.journal import Entry, pack_seq
from datalayer.contracts.pauses import pause_at
from datalayer.tiers.l2 import behind as scripts
from datalayer.tiers.l2 import scripts as l2_scripts
from datalayer.tiers.l2.overlay import RedisOverlay
from datalayer.writes.file import FileJournal
from datalayer.writes.shapes import Shape
from datalayer.writes.sink import Sink

Story = Callable[[Duo], None]


# -- stories ---------------------------------------------------------------------------------------------------------


def acknowledged_survives(duo: Duo) -> None:
    """A process that dies right after the acknowledgement."""
    duo.a.write(1, "one")
    duo.a.die()
    heir = duo.another()
    heir.flush()
    assert duo.stored(1) == "one"


def a_failing_commit_loses_nothing(duo: Duo) -> None:
    """The database ends the flush's session when it commits."""
    duo.a.write(1, "one")
    with pause_at("write.after_lease_check", lambda: end_sessions(duo)), pytest.raises(sa.exc.DBAPIError):
        duo.a.turn()
    duo.a.flush()
    assert duo.stored(1) == "one"


def the_later_write_wins_whoever_flushes_first(duo: Duo) -> None:
    duo.a.write(1, "one")
    duo.b.write(1, "two")
    duo.b.flush()
    duo.a.flush()
    assert duo.stored(1) == "two"


def numbers_grow_when_redis_has_forgotten_them(duo: Duo) -> None:
    for i in range(5):
        duo.a.write(1, f"before {i}")
    duo.a.flush()
    duo.lose_redis()
    duo.a.write(1, "after")
    duo.a.flush()
    assert duo.stored(1) == "after"


def a_write_during_the_flush_of_an_older_one_stays_in_sight(duo: Duo) -> None:
    duo.a.write(1, "one")
    with pause_at("wb.after_db_commit", lambda: duo.b.write(1, "two")):
        duo.a.turn()
    assert duo.b.text(1) == "two"
    assert duo.a.text(1) == "two"


def a_write_that_was_never_shown_takes_older_ones_out_of_sight(duo: Duo) -> None:
    """B dies between its journal and the overlay; who inherits the journal clears what is older."""
    duo.a.write(1, "one")
    duo.b.dies_at("wb.after_fsync", lambda: duo.b.write(1, "two"))
    duo.another().flush()
    assert duo.stored(1) == "two"
    assert duo.a.text(1) == "two"


def a_late_overlay_does_not_hide_what_was_flushed(duo: Duo) -> None:
    """A stands still between its journal and the overlay, while B writes and flushes."""

    def meanwhile() -> None:
        if not passed:
            passed.append(True)
            duo.b.write(1, "two")
            duo.b.flush()

    passed: list[bool] = []
    with pause_at("wb.after_fsync", meanwhile):
        duo.a.write(1, "one")
    assert duo.stored(1) == "two"
    assert duo.b.text(1) == "two"


def an_acknowledged_write_is_seen_by_the_other_process(duo: Duo) -> None:
    duo.a.write(1, "old")
    duo.a.flush()
    assert duo.b.text(1) == "old"
    duo.a.write(1, "new")
    assert duo.b.text(1) == "new"
    assert duo.b.rows.get_many([1], consistency="shared")[1].text == "new"
    duo.a.rows.delete(1)
    assert duo.b.text(1) is None
    assert duo.b.rows.get_many([1], consistency="shared") == {}


def an_addition_counts_once_when_its_flusher_dies(duo: Duo) -> None:
    duo.a.write(1, "one")
    duo.a.flush()
    duo.a.rows.increment(1, number=5)
    duo.a.dies_at("wb.after_db_commit", duo.a.turn)
    duo.another().flush()
    assert duo.number(1) == 5


def an_addition_counts_once_with_two_flushers(duo: Duo) -> None:
    """B flushes the same stream while A is about to commit."""
    duo.a.write(1, "one")
    duo.a.flush()
    duo.a.rows.increment(1, number=5)

    def meanwhile() -> None:
        if not passed:
            passed.append(True)
            duo.b.turn()

    passed: list[bool] = []
    with pause_at("write.after_lease_check", meanwhile):
        duo.a.turn()
    duo.a.flush()
    assert passed
    assert duo.number(1) == 5


def a_deleted_row_does_not_come_back(duo: Duo) -> None:
    duo.a.write(1, "one")
    duo.b.rows.delete(1)
    duo.b.flush()
    duo.a.flush()
    assert duo.stored(1) is None
    duo.a.write(1, "again")
    duo.a.flush()
    assert duo.stored(1) == "again"


def the_largest_number_of_a_batch_wins(duo: Duo) -> None:
    """Threads may reach the journal in another order than they got their numbers in."""
    duo.a.write(1, "one")

    def meanwhile() -> None:
        if not passed:
            passed.append(True)
            duo.a.write(1, "later")

    passed: list[bool] = []
    with pause_at("wb.after_seq", meanwhile):
        duo.a.write(1, "earlier")
    duo.a.flush()
    assert duo.stored(1) == "later"


def a_write_past_redis_is_not_undone(duo: Duo) -> None:
    """A writes, B cannot reach Redis and writes to the database, then A's queue is flushed."""
    duo.a.write(1, "queued")
    deaf(duo.b.behind)
    duo.b.write(1, "direct")
    assert duo.stored(1) == "direct"
    duo.a.flush()
    assert duo.stored(1) == "direct"


def what_redis_lost_is_written_again(duo: Duo) -> None:
    duo.a.write(1, "one")
    duo.a.rows.increment(1, number=5)
    duo.lose_redis()
    duo.a.flush()
    assert duo.stored(1) == "one"
    assert duo.a.behind.lost
    assert [letter.kind for letter in duo.a.layer.dead_letters().list()] == ["add"]


def an_evicted_overlay_hides_nothing(duo: Duo) -> None:
    duo.a.write(1, "old")
    duo.a.flush()
    duo.a.write(1, "new")
    with duo.client() as client:
        for key in client.scan_iter("*:v:*"):
            client.delete(key)
    a_flushes_when_b_waits(duo)
    assert duo.b.text(1) == "new"


def an_evicted_overlay_hides_nothing_while_nothing_may_be_filled(duo: Duo) -> None:
    """A transaction from before the epoch runs: rows are read from the database, queued ones are not."""
    with duo.engine.connect() as older:
        older.execute(sa.text("SELECT pg_current_xact_id()"))
        duo.lose_redis()
        found = duo.b.behind._authority.current(0)
        assert found is not None
        assert not found.settled
        an_evicted_overlay_hides_nothing(duo)


def a_read_waits_for_queued_additions(duo: Duo) -> None:
    duo.a.write(1, "one")
    duo.a.flush()
    duo.a.rows.increment(1, number=5)
    duo.a.rows.increment(1, number=1)
    a_flushes_when_b_waits(duo)
    assert duo.b.rows.get(1, consistency="shared").number == 6
    duo.a.rows.increment(1, number=1)
    assert duo.a.rows.get(1, consistency="shared").number == 7


def a_crash_between_commit_and_clear_leaves_nothing_in_sight(duo: Duo) -> None:
    duo.a.write(1, "one")
    duo.a.dies_at("wb.after_db_commit", duo.a.turn)
    duo.another().flush()
    with duo.client() as client:
        assert not [field for key in client.scan_iter("*:h") for field in client.hkeys(key) if field.startswith(b"o:")]


def a_flush_in_another_thread_leaves_nothing_behind(duo: Duo) -> None:
    """The flusher is done with a write before its writer has taken note of it."""
    original = duo.a.behind._route.send

    def send(drafts: Any) -> Any:
        answers = original(drafts)
        duo.a.turn()
        return answers

    duo.a.behind._route.send = send
    duo.a.write(1, "one")
    assert len(duo.a.behind._own) == 0
    assert duo.a.layer.stats().dirty_count == 0


def a_refused_write_holds_nothing_up(duo: Duo) -> None:
    duo.a.write(1, "one")
    duo.a.children.set(Child(id=1, row_id=1, number=-1))
    duo.a.write(2, "two")
    duo.a.turn()
    assert (duo.stored(1), duo.stored(2)) == ("one", "two")
    duo.a.write(3, "three")
    duo.a.turn()
    assert duo.stored(3) == "three"


def parents_come_before_children(duo: Duo) -> None:
    duo.a.children.set_many([Child(id=i, row_id=i, number=0) for i in range(3)])
    duo.a.rows.set_many([Row(id=i, text="p", number=0) for i in range(3)])
    duo.a.turn()
    assert not has_letters(duo)
    for i in range(3):
        duo.a.rows.delete(i)
        duo.a.children.delete(i)
    duo.a.turn()
    assert not has_letters(duo)
    assert duo.stored(1) is None


def a_flushes_when_b_waits(duo: Duo) -> None:
    """Nobody else may flush a file of A's."""
    overlay: Any = duo.b.behind._overlay
    queued = overlay.queued

    def asked(address: str) -> bool:
        duo.a.turn()
        return bool(queued(address))

    overlay.queued = asked


def has_letters(duo: Duo) -> bool:
    with duo.engine.connect() as connection:
        return bool(connection.scalar(sa.text("SELECT count(*) FROM datalayer_dead_letters")))


def end_sessions(duo: Duo) -> None:
    with duo.engine.connect() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        )


def deaf(behind: Any) -> None:
    """Redis does not answer this process."""
    overlay = behind._overlay
    overlay.next = overlay.overlay = overlay.enqueue = lambda *_, **__: Refusal("LOST")


# -- what is taken away ----------------------------------------------------------------------------------------------

Mutation = Callable[[pytest.MonkeyPatch], None]


def no_append(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FileJournal, "append", lambda self, entries: None)


def removed_before_commit(patch: pytest.MonkeyPatch) -> None:
    original = Sink._touch

    def touch(self: Any, connection: Any, batch: Any) -> None:
        if batch.upto:
            current[0].remove(batch.upto)
        original(self, connection, batch)

    flush = Sink.flush
    current: list[Any] = [None]

    def flushed(self: Any, journal: Any, limit: int, *, wait: bool = False) -> Any:
        current[0] = journal
        return flush(self, journal, limit, wait=wait)

    patch.setattr(Sink, "flush", flushed)
    patch.setattr(Sink, "_touch", touch)


def blind_upsert(patch: pytest.MonkeyPatch) -> None:
    original = Shape._make_upsert

    def make(self: Any, dialect: str) -> Any:
        statement = original(self, dialect)
        statement._post_values_clause.update_whereclause = None
        return statement

    patch.setattr(Shape, "_make_upsert", make)


def numbers_of_its_own(patch: pytest.MonkeyPatch) -> None:
    def following(self: Any, shard: int, stand: Any, how_many: int) -> range:
        self.mine = getattr(self, "mine", 100 if not patched else 0) + how_many
        patched.append(self)
        return range(self.mine - how_many + 1, self.mine + 1)

    patched: list[Any] = []
    patch.setattr(RedisOverlay, "next", following)


def numbers_without_an_epoch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(routes_module._Shared, "epoch_of", lambda self, stand: 1)


def script(name: str, old: bytes, new: bytes) -> Mutation:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        for module in (scripts, l2_scripts):
            if name in module.ALL:
                assert old in module.ALL[name]
                changed = module.ALL[name].replace(old, new)
                patch.setitem(module.ALL, name, changed)
                patch.setitem(module.SHA, name, l2_scripts.sha(changed))

    return mutate


def no_offset(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sink, "_advance", lambda self, connection, journal, upto: None)


def no_lock_on_the_offset(patch: pytest.MonkeyPatch) -> None:
    def offset(self: Any, connection: Any, journal: Any, wait: bool) -> int:
        table = sink_module.applied
        found = connection.scalar(sa.select(table.c.last_id).where(table.c.journal == journal))
        return int(found or 0)

    patch.setattr(Sink, "_offset", offset)


def no_graves(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sink, "_gone", lambda self, connection, shape, entries: {})


def last_of_the_journal_wins(patch: pytest.MonkeyPatch) -> None:
    def coalesced(entries: Any) -> list[Entry]:
        return list({(e.space, e.name): e for e in entries}.values())

    def apply(self: Any, connection: Any, entries: Any) -> Any:
        batch = sink_module.Batch()
        self._part(connection, entries, batch, batch.written)
        return batch

    patch.setattr(sink_module, "coalesced", coalesced)
    patch.setattr(Sink, "_apply", apply)


def epoch_not_ended(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(behind_module, "ended", lambda authority, shard, may_revoke: authority.stands[shard])
    patch.setattr(
        Sink, "write_next", lambda self, entry, floor: self.write([Entry(0, pack_seq(0, 1), *entry_rest(entry))])
    )


def entry_rest(entry: Entry) -> tuple[Any, ...]:
    return entry.space, entry.name, entry.kind, entry.key, entry.body


def nothing_restored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(behind_module.Behind, "_verified", lambda *_: True)


def no_early_notes(patch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def sending(self: Any) -> Iterator[None]:
        yield

    patch.setattr(behind_module.Own, "sending", sending)


def no_leftovers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FileJournal, "applied", lambda *_: [])
    patch.setattr(routes_module.StreamJournal, "applied", lambda *_: [])


def refused_together(patch: pytest.MonkeyPatch) -> None:
    def apply(self: Any, connection: Any, entries: Any) -> Any:
        self._together(connection, sink_module.coalesced(entries))
        return sink_module.Batch(written=list(entries))

    patch.setattr(Sink, "_apply", apply)


def no_order_of_tables(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(behind_module.Shapes, "rank", lambda self, shape: -len(shape.space))


def never_waiting(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(behind_module.Behind, "settle", lambda *_: None)


FILE, STREAM = "file", "redis"

#: What holds, with which journal, and what has to be taken away for it not to hold.
CASES: list[tuple[Story, str, Mutation | None]] = [
    (acknowledged_survives, FILE, no_append),
    (
        acknowledged_survives,
        STREAM,
        script("ENQUEUE", b"local done = redis.pcall('XADD'", b"local done = tostring('XADD'"),
    ),
    (a_failing_commit_loses_nothing, FILE, removed_before_commit),
    (a_failing_commit_loses_nothing, STREAM, removed_before_commit),
    (the_later_write_wins_whoever_flushes_first, FILE, blind_upsert),
    (the_later_write_wins_whoever_flushes_first, FILE, numbers_of_its_own),
    (the_later_write_wins_whoever_flushes_first, STREAM, None),
    (numbers_grow_when_redis_has_forgotten_them, FILE, numbers_without_an_epoch),
    (numbers_grow_when_redis_has_forgotten_them, STREAM, numbers_without_an_epoch),
    (a_write_during_the_flush_of_an_older_one_stays_in_sight, FILE, script("CLEAR", b"tonumber(o) <= n", b"true")),
    (a_write_during_the_flush_of_an_older_one_stays_in_sight, STREAM, script("CLEAR", b"tonumber(o) <= n", b"true")),
    (
        a_write_that_was_never_shown_takes_older_ones_out_of_sight,
        FILE,
        script("CLEAR", b"tonumber(o) <= n", b"tonumber(o) == n"),
    ),
    (a_late_overlay_does_not_hide_what_was_flushed, FILE, script("OVERLAY", b"if n <= cw then", b"if false then")),
    (an_acknowledged_write_is_seen_by_the_other_process, FILE, script("OVERLAY", b"then lay(", b"then tostring(")),
    (
        an_acknowledged_write_is_seen_by_the_other_process,
        STREAM,
        script("ENQUEUE", b"  lay(KEYS[k]", b"  tostring(KEYS[k]"),
    ),
    (an_addition_counts_once_when_its_flusher_dies, FILE, no_offset),
    (an_addition_counts_once_when_its_flusher_dies, STREAM, no_offset),
    (an_addition_counts_once_with_two_flushers, STREAM, no_lock_on_the_offset),
    (a_deleted_row_does_not_come_back, FILE, no_graves),
    (a_deleted_row_does_not_come_back, STREAM, None),
    (the_largest_number_of_a_batch_wins, FILE, last_of_the_journal_wins),
    (a_write_past_redis_is_not_undone, FILE, epoch_not_ended),
    (a_write_past_redis_is_not_undone, STREAM, epoch_not_ended),
    (what_redis_lost_is_written_again, STREAM, nothing_restored),
    (an_evicted_overlay_hides_nothing, FILE, script("LEASE", b"if h[2] then", b"if false then")),
    (an_evicted_overlay_hides_nothing, STREAM, script("LEASE", b"if h[2] then", b"if false then")),
    (
        an_evicted_overlay_hides_nothing_while_nothing_may_be_filled,
        FILE,
        script("LEASE", b"if h[2] then", b"if px ~= '0' and h[2] then"),
    ),
    (an_evicted_overlay_hides_nothing_while_nothing_may_be_filled, STREAM, None),
    (a_read_waits_for_queued_additions, FILE, never_waiting),
    (a_read_waits_for_queued_additions, STREAM, never_waiting),
    (a_crash_between_commit_and_clear_leaves_nothing_in_sight, FILE, no_leftovers),
    (a_crash_between_commit_and_clear_leaves_nothing_in_sight, STREAM, no_leftovers),
    (a_flush_in_another_thread_leaves_nothing_behind, FILE, no_early_notes),
    (a_flush_in_another_thread_leaves_nothing_behind, STREAM, None),
    (a_refused_write_holds_nothing_up, FILE, refused_together),
    (a_refused_write_holds_nothing_up, STREAM, refused_together),
    (parents_come_before_children, FILE, no_order_of_tables),
    (parents_come_before_children, STREAM, no_order_of_tables),
]


def name_of(case: tuple[Story, str, Mutation | None]) -> str:
    story, journal, mutation = case
    return f"{story.__name__}-{journal}-{getattr(mutation, '__qualname__', '').split('.')[0]}"


@pytest.fixture
def make_duo(pg_url: str, redis_url: str, key_prefix: str, tmp_path: Path) -> Callable[[str], Any]:
    return lambda journal: duo_of(pg_url, redis_url, key_prefix, tmp_path / "j" if journal == FILE else None)


STORIES = list(dict.fromkeys((story, journal) for story, journal, _ in CASES))


@pytest.mark.parametrize(("story", "journal"), STORIES, ids=[f"{s.__name__}-{j}" for s, j in STORIES])
def test_the_story_ends_well(make_duo: Callable[[str], Any], story: Story, journal: str) -> None:
    with make_duo(journal) as duo:
        story(duo)


BROKEN = [case for case in CASES if case[2] is not None]
if os.environ.get("DATALAYER_TEST_LONG") != "1":  # every step once: with the first journal that needs it
    BROKEN = list({(case[0], getattr(case[2], "__qualname__", "")): case for case in reversed(BROKEN)}.values())


@pytest.mark.parametrize("case", BROKEN, ids=list(map(name_of, BROKEN)))
def test_the_story_ends_badly_without_the_step(
    make_duo: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, case: tuple[Story, str, Mutation]
) -> None:
    story, journal, mutation = case
    mutation(monkeypatch)
    with make_duo(journal) as duo, pytest.raises((AssertionError, sa.exc.SQLAlchemyError)):
        story(duo)
