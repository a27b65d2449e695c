"""Writes that did not come through any layer, heard by way of the triggers that the migration installs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Mapped

from datalayer import CachePolicy, DataLayer, Model, column
from datalayer.coherence.notices import CHANNEL, Notices, _keys
from datalayer.migrate import triggers
from datalayer.testing.counting import Statements
from datalayer.testing.servers.cluster import wait_until


class Parcel(Model):
    __tablename__ = "noticed_parcels"
    __cache__ = CachePolicy(external_writes=True)
    id: Mapped[int] = column(primary_key=True)
    place: Mapped[str]


@pytest.fixture(params=["without Redis", "with Redis"])
def layer(request: pytest.FixtureRequest, pg_url: str, key_prefix: str) -> Iterator[DataLayer]:
    redis = request.getfixturevalue("redis_url") if request.param == "with Redis" else None
    with DataLayer(pg_url, redis=redis, key_prefix=key_prefix, models=[Parcel]) as layer:
        layer.migrate()
        with layer.begin() as session:
            session.add_all([Parcel(id=i, place="here") for i in range(1, 201)])
        yield layer


def outside(layer: DataLayer, *statements: str) -> None:
    """Another program."""
    url = make_url(layer.engine.url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement)


def cached(layer: DataLayer, id: int = 1) -> bool:
    layer.repository(Parcel).get(id)
    with Statements(layer.engine) as asked:
        layer.repository(Parcel).get(id)
    return not asked.texts


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE noticed_parcels SET place = 'there' WHERE id = 1",
        "UPDATE noticed_parcels SET place = 'there'",
        "DELETE FROM noticed_parcels WHERE id = 1",
        "TRUNCATE noticed_parcels",
    ],
)
def test_an_outside_write_is_heard(layer: DataLayer, statement: str) -> None:
    wait_until("the row is cached", lambda: cached(layer))
    parcels = layer.repository(Parcel)
    outside(layer, statement)

    def seen() -> bool:
        found = parcels.get(1)
        return found is None or found.place == "there"

    wait_until("the write is seen", seen)
    wait_until("the row is cached again", lambda: cached(layer))


def test_a_row_that_was_known_to_be_absent_is_found(layer: DataLayer) -> None:
    parcels = layer.repository(Parcel)
    wait_until("the absence is cached", lambda: cached(layer, 999))
    outside(layer, "INSERT INTO noticed_parcels VALUES (999, 'new')")
    wait_until("the row is seen", lambda: parcels.get(999) is not None)


def test_while_nothing_is_heard_the_database_answers(layer: DataLayer) -> None:
    wait_until("the row is cached", lambda: cached(layer))
    notices = layer._parts.notices
    assert notices is not None
    notices.deaf()
    outside(layer, "ALTER TABLE noticed_parcels DISABLE TRIGGER ALL", "UPDATE noticed_parcels SET place = 'there'")
    assert layer.repository(Parcel).get_one(1).place == "there"
    assert not cached(layer)


def test_a_connection_that_is_lost_is_replaced_and_nothing_is_served_from_before(layer: DataLayer) -> None:
    wait_until("the row is cached", lambda: cached(layer))
    outside(
        layer,
        "ALTER TABLE noticed_parcels DISABLE TRIGGER ALL",
        "UPDATE noticed_parcels SET place = 'there'",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE query = 'LISTEN {CHANNEL}' AND datname = current_database()",
    )
    wait_until("the write is seen", lambda: layer.repository(Parcel).get_one(1).place == "there")
    wait_until("the row is cached again", lambda: cached(layer))


def test_both_sides_name_the_same_channel() -> None:
    assert triggers.CHANNEL == CHANNEL


class Recorder:
    def __init__(self) -> None:
        self.forgotten: list[object] = []

    def suspend(self, write_set: object) -> object:
        return write_set

    def resume(self, suspended: object) -> None:
        """Nothing was suspended."""

    def forget(self, write_set: object) -> None:
        self.forgotten.append(write_set)


@pytest.mark.parametrize("payload", ["", "{", "[]", "{}", '{"schema": 1}', json.dumps({"schema": "x", "table": "y"})])
def test_a_notification_that_cannot_be_read_or_is_of_another_table_is_ignored(payload: str) -> None:
    recorder = Recorder()
    Notices(sa.create_engine("sqlite://"), recorder).hear(payload)
    assert recorder.forgotten == []


@pytest.mark.parametrize(
    ("found", "kinds", "expected"),
    [
        ([[1], [2]], (int,), [(1,), (2,)]),
        ([["a", 1]], (str, int), [("a", 1)]),
        (
            [["6ba7b810-9dad-11d1-80b4-00c04fd430c8"]],
            (uuid.UUID,),
            [(uuid.UUID(int=0x6BA7B8109DAD11D180B400C04FD430C8),)],
        ),
        ([["1"]], (int,), None),
        ([[1, 2]], (int,), None),
        ([["x"]], (uuid.UUID,), None),
        ([["x"]], (bytes,), None),
        (None, (int,), None),
        ("1", (int,), None),
    ],
)
def test_keys_are_exact_or_not_known(found: object, kinds: tuple[type, ...], expected: object) -> None:
    assert _keys(found, kinds) == expected
