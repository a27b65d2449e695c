"""Encrypted columns of rows that are written behind: ciphertext in the journal, in Redis and among dead letters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import safe
import sqlalchemy as sa
from heard import listening
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from datalayer import CachePolicy, DataLayer, WriteMode, column

SECRET = "gallbladder-inflammation"
STILL: dict[str, Any] = {
    "write_behind_flush_interval": 3600,
    "write_behind_flush_threshold": 1_000_000,
    "journal_allow_unsafe": True,
}
Open = Callable[..., DataLayer]


class Base(DeclarativeBase):
    pass


class Letter(Base):
    __tablename__ = "sealed_letters"
    __cache__ = CachePolicy(write_mode=WriteMode.BEHIND)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str | None] = column(encrypted=True, blind_index=True)
    bound: Mapped[str | None] = column(encrypted=True, bind="row")
    pages: Mapped[int] = mapped_column(sa.CheckConstraint("pages >= 0"), default=0)


@pytest.fixture
def opened(pg_url: str, redis_url: str, key_prefix: str) -> Iterator[Open]:
    with ExitStack() as stack:

        def open_layer(keys: Any) -> DataLayer:
            layer = DataLayer(
                pg_url, models=Base, redis=redis_url, key_prefix=key_prefix, encryption_keys=keys, **STILL
            )
            assert layer.explain(Letter)
            Base.metadata.create_all(layer.engine)
            return stack.enter_context(layer)

        yield open_layer


def dead_letters(layer: DataLayer) -> str:
    with layer.engine.connect() as connection:
        return repr(connection.exec_driver_sql("SELECT * FROM datalayer_dead_letters").all())


def test_redis_is_told_ciphertext_only(opened: Open, redis_url: str, key_prefix: str):
    with listening(redis_url, key_prefix) as heard:
        letters = opened(safe.BOTH).repository(Letter)
        reader = opened(safe.BOTH).repository(Letter)
        for i in range(3):
            letters.set(Letter(id=i, text=SECRET, bound=SECRET))
        letters.update(1, bound=SECRET + "!")
        assert reader.get_one(1).bound == SECRET + "!"
        assert reader.get_one(2).text == SECRET
    told = "\n".join(heard)
    assert told.count("dl1.k2.") > 3
    assert SECRET not in told


def test_dead_letters_are_ciphertext(opened: Open):
    layer = opened(safe.BOTH)
    layer.repository(Letter).set_many([Letter(id=1, text=SECRET, bound=SECRET, pages=-1), Letter(id=2, text=SECRET)])
    layer.flush(5)
    found = dead_letters(layer)
    assert "dl1.k2." in found
    assert SECRET not in found
    assert layer.repository(Letter).get_one(2, consistency="database").text == SECRET


def test_what_is_queued_under_a_key_that_is_missing_is_kept_and_the_key_is_named(opened: Open):
    writer, other = opened(safe.NEW), opened(safe.OLD)
    writer.repository(Letter).set(Letter(id=1, text=SECRET, bound=SECRET))
    other.flush(5)
    found = dead_letters(other)
    assert "key 'k2', which is not in the key ring ('k1')" in found
    assert "dl1.k2." in found
    assert SECRET not in found
