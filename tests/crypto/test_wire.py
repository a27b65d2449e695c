"""What Redis is told, command by command, while encrypted rows are written and read in every way."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from heard import listening
from safe import Open, Patient, Seat, Shut, Token

from datalayer import DataLayer, Q

OpenLayer = Callable[..., DataLayer]
SECRET = "gallbladder-inflammation"

pytestmark = [pytest.mark.redis]


def digests(text: str) -> set[str]:
    """Digests that anybody can compute of a guess, with and without the name of its type."""
    found = set()
    for data in (text.encode(), f"str:{text}".encode(), repr(text).encode()):
        found |= {hashlib.new(name, data).hexdigest()[:20] for name in ("md5", "sha1", "sha256", "sha512", "blake2b")}
        found |= {hashlib.blake2b(data, digest_size=size).hexdigest()[:20] for size in (8, 10, 16, 20, 32)}
    return found


def use(layer: DataLayer, *, first: bool) -> None:
    """Every kind of write and read that there is."""
    patients, tokens, seats, shut = (layer.repository(cls) for cls in (Patient, Token, Seat, Shut))
    if first:
        patients.create(Patient(id=1, ward="w", email=SECRET, city=SECRET, notes=SECRET))
        patients.create_many([Patient(id=i, ward="w", email=f"{SECRET}{i}", notes=SECRET) for i in range(2, 6)])
        seats.create_many([Seat(hall="a", number=i, guest=SECRET) for i in range(3)])
        shut.create_many([Shut(id=i, text=SECRET, bound=SECRET, rare=SECRET) for i in range(3)])
        tokens.create(Token(secret=SECRET))
    for level in ("cached", "shared", "database"):
        with layer.consistency(level):  # type: ignore[arg-type]
            _read(layer, patients, seats, shut, tokens)
    _write(layer, patients, seats, shut)
    _read(layer, patients, seats, shut, tokens)


def _read(layer: DataLayer, patients: Any, seats: Any, shut: Any, tokens: Any) -> None:
    for _ in range(2):
        assert patients.get_one(1).email == SECRET
        assert patients.get_by(email=SECRET).id == 1
        assert patients.get_snapshot(1).notes == SECRET
        assert len(patients.get_many([1, 2, 3, 99])) == 3
        assert patients.search(Q(Patient).where(city=SECRET))[0].id == 1
        assert patients.search_cached(Q(Patient).where(city=SECRET))[0].email == SECRET
        assert len(patients.search_cached(Q(Patient).where(ward="w"))) >= 2
        assert patients.exists(1)
        assert patients.count(Q(Patient).where(email=SECRET)) == 1
        assert seats.get_one(("a", 1)).guest.startswith(SECRET)
        assert len(shut.get_many(range(3))) == 3
        assert shut.get_one(1).bound == SECRET
        assert len(tokens.get_many([t.id for t in tokens.search()])) == 1
        with layer.session() as session:
            assert session.get_one(Shut, 2).text == SECRET
            assert session.scalars(sa.select(Patient).where(Patient.email == SECRET)).one().id == 1


def _write(layer: DataLayer, patients: Any, seats: Any, shut: Any) -> None:
    patients.update(2, email=f"{SECRET}-two", notes=SECRET)
    patients.set(Patient(id=3, ward="x", email=f"{SECRET}-three"))
    patients.set_many([Patient(id=4, ward="x", notes=SECRET)])
    changed = patients.get_one(5)
    changed.notes = SECRET + "!"
    patients.compare_and_set(changed, expected={"id": 5})
    patients.create(Patient(id=6, ward="w", email=f"{SECRET}-six"))
    patients.delete(6)
    patients.bulk_load([Patient(id=7, ward="w", email=f"{SECRET}-seven", notes=SECRET)], on_conflict="update")
    patients.delete_many([7])
    seats.update(("a", 1), guest=SECRET + "?")
    shut.update(0, bound=SECRET + "?")
    with layer.begin() as session:
        session.execute(sa.update(Patient).where(Patient.email == SECRET).values(notes=SECRET))
        session.get_one(Patient, 2).city = SECRET + "#"


def test_redis_is_told_ciphertext_only(open_layer: OpenLayer, redis_url: str, key_prefix: str):
    def opened() -> DataLayer:
        return open_layer(redis=redis_url, key_prefix=key_prefix, redis_timeout=5.0, fence_lease=30.0)

    with listening(redis_url, key_prefix) as heard:
        one, two = opened(), opened()
        use(one, first=True)
        use(two, first=False)
        two.crypto.rotate()
        use(one, first=False)
    told = "\n".join(heard)
    assert len(re.findall(r"dl1\.k2\.", told)) > 20, "nothing was cached: the test proves nothing"
    assert SECRET not in told
    assert [digest for digest in digests(SECRET) if digest in told] == []


def test_readable_text_would_have_been_heard(open_layer: OpenLayer, redis_url: str, key_prefix: str):
    layer = open_layer(redis=redis_url, key_prefix=key_prefix)
    with listening(redis_url, key_prefix) as heard:
        layer.repository(Open).create(Open(id=1, text=SECRET))
        until = time.monotonic() + 30
        while not any(SECRET in command for command in heard) and time.monotonic() < until:
            assert layer.repository(Open).get_one(1).text == SECRET  # a busy machine may miss Redis' time limit
    assert SECRET in "\n".join(heard)
