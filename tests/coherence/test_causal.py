"""Read-your-writes from one process to another, and reference tables whose writers wait."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from datalayer import CachePolicy, DataLayer, Model, column
from datalayer.contracts.causal import UNHEARD, Position, format_token, merged, parse_token
from datalayer.contracts.pauses import pause_at
from datalayer.testing.counting import Statements

Twins = Callable[..., tuple[DataLayer, DataLayer]]


class Note(Model):
    __tablename__ = "causal_notes"
    id: Mapped[int] = column(primary_key=True)
    text: Mapped[str]


class Rate(Model):
    __tablename__ = "causal_rates"
    __cache__ = CachePolicy(commit_wait=True)
    id: Mapped[int] = column(primary_key=True)
    value: Mapped[int]


def write(layer: DataLayer, text: str) -> str:
    with layer.session() as session:
        session.merge(Note(id=1, text=text))
        session.commit()
        return session.causal_token


def deafen(layer: DataLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that others announce reaches this layer any more, and it does not notice."""
    bus = layer._parts.authority.bus  # type: ignore[union-attr]
    monkeypatch.setattr(bus, "_invalidated", lambda message: None)
    monkeypatch.setattr(bus, "_own_beat", lambda message, nonce: None)
    monkeypatch.setattr(bus, "reckon", lambda: None)
    bus.horizon[0] = math.inf


def test_a_token_makes_another_process_read_what_it_has_not_heard_of(
    twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = twins(Note)
    write(one, "old")
    notes = other.repository(Note)
    while notes.get(1) is None or other.stats().l1_entries == 0:
        pass
    deafen(other, monkeypatch)
    token = write(one, "new")
    assert notes.get_one(1).text == "old"
    with other.after(token):
        assert notes.get_one(1).text == "new"
        assert notes.get_one(1, consistency="cached").text == "new"
        with other.session(consistency="cached") as session:
            assert session.get_one(Note, 1).text == "new"


def test_a_process_that_has_heard_serves_from_its_memory(twins: Twins) -> None:
    one, other = twins(Note)
    token = write(one, "old")
    notes = other.repository(Note)
    while True:  # until the fills have arrived
        notes.get(1)
        with other.after(token):
            before = other.stats().to_dict()["tiers"]["l1"]["hits"]
            assert notes.get_one(1).text == "old"
            if other.stats().to_dict()["tiers"]["l1"]["hits"] > before:
                break


def test_without_writes_there_is_no_token(twins: Twins) -> None:
    one, other = twins(Note)
    with one.session() as session:
        session.get(Note, 1)
        session.commit()
        assert session.causal_token == ""
    for nothing in ("", None):
        with other.after(nothing):
            assert other.caches.levels.resolve() == "cached"


def test_core_writes_and_blocks_are_in_the_token(twins: Twins) -> None:
    one, _ = twins(Note)
    with one.begin() as session:
        session.execute(sa.insert(Note).values(id=1, text="core"))
    first = session.causal_token
    with one.session() as session, session.begin():
        session.execute(sa.update(Note).values(text="all"))
    second = session.causal_token
    assert parse_token(first) != parse_token(second)
    assert merged([parse_token(second), parse_token(first)]) == parse_token(second)


def test_without_redis_a_token_asks_the_database(pg_url: str) -> None:
    with DataLayer(pg_url, models=[Note]) as one, DataLayer(pg_url, models=[Note]) as other:
        Note.__table__.create(one.engine)  # type: ignore[attr-defined]
        write(one, "old")
        assert other.repository(Note).get_one(1).text == "old"
        token = write(one, "new")
        with other.after(token):
            assert other.repository(Note).get_one(1).text == "new"


@pytest.mark.parametrize("text", ["?", "0.1", "0.1.a.x", "0.1.a.1_", "-1.1.a.1", "0.1.a.1;", "9" * 200_000])
def test_a_token_that_cannot_be_read_asks_for_more_and_not_for_less(text: str) -> None:
    assert parse_token(text) == UNHEARD
    with DataLayer("sqlite://", models=[Note]) as layer, layer.after(text):
        assert layer.caches.levels.resolve("cached") == "database"


def test_tokens_survive_the_way_through_text() -> None:
    token = (Position(0, b"17.9f3a01c2", 55), Position(3, b"2.ab", 1))
    assert parse_token(format_token(token)) == token
    assert parse_token(format_token(UNHEARD)) == UNHEARD
    assert format_token(()) == ""
    assert parse_token("") == ()


def test_levels_of_a_block_are_a_floor_only_after_a_token() -> None:
    with DataLayer("sqlite://", models=[Note]) as layer:
        levels = layer.caches.levels
        with layer.consistency("database"), levels.at_least("shared"):
            assert levels.resolve() == "database"
            assert levels.resolve("cached") == "shared"
        assert levels.resolve() == "cached"


def test_writers_of_a_reference_table_wait_until_no_memory_serves_the_old_row(twins: Twins) -> None:
    one, other = twins(Rate, l1_lease=0.4)
    with one.begin() as session:
        session.add(Rate(id=1, value=1))
    rates = other.repository(Rate)
    while rates.get(1) is None or other.stats().l1_entries == 0:
        pass
    with Statements(other.engine) as asked:
        assert rates.get_one(1, consistency="shared").value == 1
    assert not asked.texts, "a strict read of a reference table is an L1 hit"
    marked = time.monotonic()
    with pause_at("write.after_mark", lambda: None), one.begin() as session:
        session.get_one(Rate, 1).value = 2
    assert time.monotonic() - marked >= 0.4
    assert rates.get_one(1, consistency="shared").value == 2


def test_layers_that_do_not_share_a_cache_are_told_so(
    pg_url: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        DataLayer(pg_url, redis=redis_url, key_prefix="one", models=[Note], fence_lease=0.8) as one,
        DataLayer(pg_url, redis=redis_url, key_prefix="other", models=[Note], fence_lease=0.8) as other,
    ):
        Note.__table__.create(one.engine)  # type: ignore[attr-defined]
        write(one, "old")
        while "another key_prefix" not in caplog.text:
            for layer in (one, other):
                assert layer.repository(Note).get_one(1, consistency="shared").text == "old"


def test_a_layer_without_redis_says_what_that_means(pg_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "datalayer")
    with DataLayer(pg_url, models=[Note]) as layer:
        assert "other processes" in caplog.text
        assert "other processes" in layer.health().tiers["l2"].detail
