"""Where readable text may lie: in the process. Not in Redis, unless the policy says so."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
import safe
import sqlalchemy as sa
from safe import Open, Patient, Shut
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from datalayer import CachePolicy, DataLayer, DecodeError, L1Policy, Q, column
from datalayer.codecs.registry import codec_named
from datalayer.codecs.row import adapt, compile_row
from datalayer.coherence.sweeper import Sweeper
from datalayer.crypto.keyring import Keyring
from datalayer.crypto.vault import Vault
from datalayer.models.schema import schema_of
from datalayer.models.sealed import row_sealing
from datalayer.tiers.l2.backplane import RedisBackplane

OpenLayer = Callable[..., DataLayer]
SECRET = "a very secret diagnosis"

pytestmark = pytest.mark.redis


def everything(url: str) -> bytes:
    """All that a Redis holds."""
    with redis.Redis.from_url(url) as client:
        return b"\n".join(key + b"=" + (client.dump(key) or b"") for key in client.keys("*")) + b"".join(
            client.get(key) or b"" for key in client.keys("*") if client.type(key) == b"string"
        )


@pytest.fixture
def cached(open_layer: OpenLayer, redis_url: str, key_prefix: str) -> OpenLayer:
    def opened(keys: Any = None, **options: Any) -> DataLayer:
        # Hits are counted: no time limit may strike.
        patient = {
            "redis_timeout": 5.0,
            "fence_lease": 30.0,
            "l1_lease": 15.0,
        }
        return open_layer(keys, redis=redis_url, key_prefix=key_prefix, **patient, **options)

    return opened


@pytest.mark.parametrize("codec", ["msgpack", "json"])
def test_redis_holds_ciphertext_and_hits_give_text(cached: OpenLayer, redis_url: str, codec: str):
    layer = cached(codec=codec)
    notes = layer.repository(Shut)
    notes.create(Shut(id=1, text=SECRET, bound=SECRET, rare=SECRET))
    for _ in range(3):
        found = notes.get_one(1)
        assert (found.text, found.bound) == (SECRET, SECRET)
    assert notes.get_many([1])[1].text == SECRET
    until(lambda: hits(layer) >= 2, lambda: notes.get_one(1))
    held = everything(redis_url)
    assert SECRET.encode() not in held
    assert b"dl1.k2." in held


def test_another_process_reads_what_this_one_has_put_there(cached: OpenLayer):
    cached().repository(Shut).create(Shut(id=1, text=SECRET, bound=SECRET))
    assert cached().repository(Shut).get_one(1).text == SECRET
    reader = cached()
    found = reader.repository(Shut).get_one(1)
    assert (found.text, found.bound) == (SECRET, SECRET)
    until(lambda: hits(reader) > 0, lambda: reader.repository(Shut).get_one(1))


def until(true: Callable[[], bool], read: Callable[[], object]) -> None:
    """Read until the shared cache has what a writer or reader sent it without waiting for an answer."""
    end = time.monotonic() + 30
    while not true() and time.monotonic() < end:
        read()
    assert true()


def hits(layer: DataLayer) -> int:
    return sum(ladder.counts["l2_hits"] for ladder in layer.caches.ladders())


def test_the_policy_can_let_text_lie_readable_in_redis(cached: OpenLayer, redis_url: str):
    layer = cached()
    layer.repository(Open).create(Open(id=1, text=SECRET))
    assert [layer.repository(Open).get_one(1).text for _ in range(2)] == [SECRET] * 2
    until(lambda: hits(layer) > 0, lambda: layer.repository(Open).get_one(1))
    assert SECRET.encode() in everything(redis_url)


def test_entries_under_a_key_that_is_not_in_the_ring_are_misses(cached: OpenLayer):
    cached(safe.NEW).repository(Shut).create(Shut(id=1, text=SECRET))
    filling = cached({"k1": safe.K1, "k2": safe.K2})
    assert [filling.repository(Shut).get_one(1).text for _ in range(2)] == [SECRET] * 2
    until(lambda: hits(filling) > 0, lambda: filling.repository(Shut).get_one(1))
    layer = cached(safe.NEW)
    assert layer.repository(Shut).get_one(1).text == SECRET
    assert hits(layer) == 0


def test_rotation_empties_the_shared_cache_of_what_is_under_the_old_key(cached: OpenLayer, redis_url: str):
    layer = cached(safe.OLD)
    layer.repository(Shut).create(Shut(id=1, text=SECRET))
    until(lambda: hits(layer) > 0, lambda: layer.repository(Shut).get_one(1))
    rotating = cached(safe.BOTH)
    notes = rotating.repository(Shut)
    assert notes.get_one(1).text == SECRET
    assert hits(rotating) == 1
    rotating.crypto.rotate()
    assert notes.get_one(1).text == SECRET
    assert hits(rotating) == 1, "what is under the old key is gone"
    until(lambda: hits(rotating) > 1, lambda: notes.get_one(1))


def test_a_row_that_does_not_decrypt_is_in_no_cache(cached: OpenLayer, redis_url: str):
    cached(safe.OLD).repository(Shut).create(Shut(id=1, text=SECRET))
    layer = cached(safe.NEW)
    for _ in range(2):
        with pytest.raises(DecodeError, match=r"shut_notes\.\w+: .*'k1'"):
            layer.repository(Shut).get(1)
    assert b"dl1." not in everything(redis_url)


# -- marks that nobody lifted --------------------------------------------------------------------------------------


@pytest.fixture
def unlifted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Runs a write whose process dies after COMMIT, as the shared tier sees it: its mark stays until a reader comes."""
    monkeypatch.setattr(Sweeper, "resolve", lambda self, *_: None)

    def run(write: Callable[[], object]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(RedisBackplane, "done", lambda self, *_: None)
            write()

    return run


@pytest.mark.postgres
@pytest.mark.parametrize("any_url", ["postgres"], indirect=True)
def test_a_reader_that_lifts_a_dead_writers_mark_stores_ciphertext(cached: OpenLayer, redis_url: str, unlifted: Any):
    writer, reader = cached(), cached()
    writer.repository(Shut).create_many([Shut(id=i, text=SECRET, bound=SECRET, rare=SECRET) for i in (1, 2)])
    unlifted(lambda: writer.repository(Shut).update(1, bound=SECRET + "!"))
    unlifted(lambda: writer.repository(Shut).delete(2))
    for _ in range(2):
        found = reader.repository(Shut).get(1)
        assert found is not None
        assert (found.text, found.bound) == (SECRET, SECRET + "!")
        assert reader.repository(Shut).get(2) is None
    until(lambda: hits(reader) >= 1, lambda: reader.repository(Shut).get(1))  # the row that the proof came with
    held = everything(redis_url)
    assert SECRET.encode() not in held
    assert b"dl1.k2." in held


@pytest.mark.postgres
@pytest.mark.parametrize("any_url", ["postgres"], indirect=True)
def test_a_proof_that_comes_with_a_row_that_does_not_decrypt_is_an_error_and_stores_nothing(
    cached: OpenLayer, redis_url: str, unlifted: Any
):
    writer, reader = cached(safe.OLD), cached(safe.NEW)
    writer.repository(Shut).create(Shut(id=1, text=SECRET, bound=SECRET))
    unlifted(lambda: writer.repository(Shut).update(1, bound=SECRET + "!"))
    for _ in range(2):
        with pytest.raises(DecodeError, match=r"shut_notes\.\w+: .*'k1'"):
            reader.repository(Shut).get(1)
    assert b"dl1." not in everything(redis_url)


# -- cached results ------------------------------------------------------------------------------------------------


def patients_of(layer: DataLayer, city: str) -> list[int]:
    found = layer.repository(Patient).search_cached(Q(Patient).where(city=city).order_by("id"))
    assert all(p.city == city for p in found)
    return [p.id for p in found]


def test_results_of_equality_are_cached_as_keys_under_a_name_that_needs_the_key(cached: OpenLayer, redis_url: str):
    layer = cached()
    layer.repository(Patient).create_many([Patient(id=i, ward="w", city=SECRET if i % 2 else "faro") for i in range(4)])
    assert [patients_of(layer, SECRET) for _ in range(3)] == [[1, 3]] * 3
    until(lambda: layer.caches.results.counts["l1_hits"] > 0, lambda: patients_of(layer, SECRET))
    others: list[DataLayer] = []

    def ask_another() -> None:
        others.append(cached())
        assert patients_of(others[-1], SECRET) == [1, 3]

    until(lambda: bool(others) and others[-1].caches.results.counts["l2_hits"] == 1, ask_another)
    assert SECRET.encode() not in everything(redis_url)
    # A process that cannot read all of the values does not believe what the others have found, nor the reverse.
    newer = cached({"k3": safe.K3, **safe.BOTH})
    assert patients_of(newer, SECRET) == [1, 3]
    assert newer.caches.results.counts["misses"] == 1


def test_results_of_equality_follow_every_write(cached: OpenLayer):
    layer, other = cached(), cached()
    patients = layer.repository(Patient)
    patients.create_many([Patient(id=i, ward="w", city=SECRET) for i in range(3)])
    for change, expected in (
        (lambda: patients.update(0, city="faro"), [1, 2]),
        (lambda: other.repository(Patient).update(1, city=None), [2]),
        (lambda: patients.create(Patient(id=9, ward="w", city=SECRET)), [2, 9]),
        (lambda: other.repository(Patient).delete(2), [9]),
        (lambda: layer.crypto.rotate(), [9]),
    ):
        patients_of(layer, SECRET)
        change()
        with layer.consistency("shared"), other.consistency("shared"):
            assert patients_of(layer, SECRET) == patients_of(other, SECRET) == expected


# -- shapes --------------------------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class Shape(Base):
    __tablename__ = "shapes"
    __cache__ = CachePolicy(l1=L1Policy(enabled=False))
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = column(encrypted=True)
    at: Mapped[dt.datetime | None] = mapped_column(sa.DateTime(timezone=True))


VAULT = Vault(Keyring(safe.BOTH))
ROW = (1, SECRET, None)


def test_ciphertext_is_never_taken_for_a_value_nor_a_value_for_ciphertext():
    schema, codec = schema_of(sa.inspect(Shape)), codec_named("msgpack")
    plain = compile_row(schema.fields, codec)
    sealed = compile_row(schema.fields, codec, row_sealing(schema, VAULT))
    assert plain.fingerprint != sealed.fingerprint
    body = sealed.encode(ROW)
    assert SECRET.encode() not in body
    assert sealed.decode(body) == ROW
    assert adapt(plain.shape, plain.encode(ROW), sealed) is None
    assert adapt(sealed.shape, body, plain) is None


def test_another_releases_shape_is_decrypted_too():
    schema, codec = schema_of(sa.inspect(Shape)), codec_named("msgpack")
    sealed = compile_row(schema.fields, codec, row_sealing(schema, VAULT))
    assert adapt(sealed.shape, sealed.encode(ROW), sealed) == ROW
    other = Vault(Keyring({"k9": safe.K3}))
    unreadable = compile_row(schema.fields, codec, row_sealing(schema, other))
    assert adapt(sealed.shape, sealed.encode(ROW), unreadable) is None
    with pytest.raises(DecodeError):
        unreadable.decode(sealed.encode(ROW))
