"""Random calls of two processes, flushes, deaths and losses of Redis, against a dict."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from behind_duo import Duo, Process, Row
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import datalayer.writes.sink as sink_module
from datalayer.contracts.journal import Entry
from datalayer.writes.own import Own
from datalayer.writes.sink import Sink

KEYS = st.integers(0, 3)
WHO = st.sampled_from(["a", "b"])
POINTS = st.sampled_from(["wb.after_db_commit", "wb.after_clear"])


class Queued(RuleBasedStateMachine):
    """What every read by key says is what the dict says; so does the database once everything is flushed."""

    url: ClassVar[str]
    redis_url: ClassVar[str | None]
    journal: ClassVar[str]

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name)
        # What is queued is in sight for as long as the epoch lasts: a machine that stands still must not end it.
        options: dict[str, Any] = {"journal": self.journal, "fence_lease": 20.0, "redis_timeout": 5.0}
        if self.journal == "file":
            options["journal_path"] = str(path / "j")
        url = self.url or f"sqlite:///{path / 'db'}"
        # One prefix for all examples: a new one would be a Redis that has lost its data.
        self.duo = Duo(url, self.redis_url, self.prefix, **options)
        self.alone = self.redis_url is None
        self.model: dict[int, tuple[str, int]] = {}
        self.count = 0
        with self.duo.engine.begin() as connection:
            for table in ("duo_children", "duo_rows", "datalayer_dead_letters"):
                connection.exec_driver_sql(f"DELETE FROM {table}")
        self.duo.a.rows.invalidate_all()  # of the last example's rows, which were deleted past the layer

    prefix = f"m{secrets.token_hex(4)}"

    def of(self, who: str) -> Process:
        return self.duo.a if who == "a" or self.alone else self.duo.b

    @rule(who=WHO, key=KEYS)
    def set(self, who: str, key: int) -> None:
        self.count += 1
        self.of(who).rows.set(Row(id=key, text=f"t{self.count}", number=0))
        self.model[key] = f"t{self.count}", 0

    @rule(who=WHO, keys=st.lists(KEYS, unique=True, min_size=1))
    def set_many(self, who: str, keys: list[int]) -> None:
        self.count += 1
        self.of(who).rows.set_many([Row(id=key, text=f"m{self.count}", number=0) for key in keys])
        self.model |= dict.fromkeys(keys, (f"m{self.count}", 0))

    @rule(who=WHO, key=KEYS)
    def update(self, who: str, key: int) -> None:
        self.count += 1
        if key in self.model:
            self.of(who).rows.update(key, text=f"u{self.count}")
            self.model[key] = f"u{self.count}", self.model[key][1]

    @rule(who=WHO, key=KEYS)
    def delete(self, who: str, key: int) -> None:
        assert self.of(who).rows.delete(key) is (self.model.pop(key, None) is not None)

    @precondition(lambda self: self.journal == "redis" or self.alone)
    @rule(who=WHO, key=KEYS, amount=st.integers(1, 9))
    def add(self, who: str, key: int, amount: int) -> None:
        if key in self.model:
            self.of(who).rows.increment(key, number=amount)
            text, number = self.model[key]
            self.model[key] = text, number + amount

    @precondition(lambda self: (self.journal == "redis" or self.alone) and bool(self.model))
    @rule(who=WHO, key=KEYS, point=POINTS)
    def add_and_die(self, who: str, key: int, point: str) -> None:
        self.add(who, key, 100)
        self.die(who, point)

    @rule(who=WHO)
    def flush(self, who: str) -> None:
        self.of(who).turn()

    @rule(who=WHO, point=POINTS)
    def die(self, who: str, point: str) -> None:
        process = self.of(who)
        if len(process.behind._own) and process.behind._left():
            process.dies_at(point, process.turn)
        else:
            process.die()
        setattr(self.duo, "a" if process is self.duo.a else "b", self.duo.another())

    @rule(who=WHO, key=KEYS, strict=st.booleans())
    def read(self, who: str, key: int, strict: bool) -> None:
        # L1 of one process may be a moment behind another process's write.
        row = self.of(who).rows.get(key, consistency="shared" if strict or not self.alone else "cached")
        assert (None if row is None else (row.text, row.number)) == self.model.get(key)

    @rule(who=WHO, keys=st.lists(KEYS, unique=True, min_size=1))
    def read_many(self, who: str, keys: list[int]) -> None:
        rows = self.of(who).rows.get_many(keys, consistency="shared")
        assert {key: (row.text, row.number) for key, row in rows.items()} == {
            key: self.model[key] for key in keys if key in self.model
        }

    @rule(who=WHO, key=KEYS)
    def forget(self, who: str, key: int) -> None:
        self.of(who).rows.invalidate(key)

    def teardown(self) -> None:
        if not hasattr(self, "duo"):
            return
        try:
            for process in (self.duo.a, self.duo.b):
                process.flush()
            assert {key: (self.duo.stored(key), self.duo.number(key)) for key in self.model} == self.model
            assert all(self.duo.stored(key) is None for key in range(4) if key not in self.model)
        finally:
            self.duo.close()
            self.folder.cleanup()


def run(
    journal: str, url: str, redis_url: str | None, *, examples: int, steps: int, phases: Any = tuple(Phase)
) -> None:
    machine: Any = type("Machine", (Queued,), {"journal": journal, "url": url, "redis_url": redis_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            phases=phases,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


@pytest.fixture(params=["redis", "file", "sqlite"])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[str, str, str | None]]:
    """Journal, database and Redis; without Redis on a new SQLite file for every example."""
    if request.param == "sqlite":
        yield "file", "", None
        return
    yield request.param, request.getfixturevalue("pg_url"), request.getfixturevalue("redis_url")


@pytest.mark.slow
def test_queued_writes_are_read_and_flushed_as_a_dict_says(place: tuple[str, str, str | None]) -> None:
    run(*place, examples=200 if os.environ.get("DATALAYER_TEST_LONG") == "1" else 8, steps=20)


def no_offset(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sink, "_advance", lambda self, connection, journal, upto: None)


def first_of_a_batch(patch: pytest.MonkeyPatch) -> None:
    def coalesced(entries: Any) -> list[Entry]:
        found: dict[Any, Entry] = {}
        for entry in entries:
            found.setdefault((entry.space, entry.name), entry)
        return list(found.values())

    patch.setattr(sink_module, "coalesced", coalesced)


def nothing_of_its_own(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Own, "newest", lambda self, address: None)


@pytest.mark.slow
@pytest.mark.parametrize("mutate", [no_offset, first_of_a_batch, nothing_of_its_own])
def test_the_dict_notices_what_is_missing(monkeypatch: pytest.MonkeyPatch, mutate: Any) -> None:
    mutate(monkeypatch)
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- hypothesis may group several
        run("file", "", None, examples=400, steps=25, phases=(Phase.generate,))
    assert isinstance(caught.value, AssertionError | ExceptionGroup)
