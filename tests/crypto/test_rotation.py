"""Rotation, status and verification: complete, resumable, and no writer's value is ever lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import safe
import sqlalchemy as sa
from safe import Patient, Seat, Token

from datalayer import AlreadyExistsError, ConfigError, DataLayer
from datalayer.crypto.keyring import Keyring
from datalayer.crypto.rotate import Progress, Rotation
from datalayer.crypto.scan import RawTable
from datalayer.crypto.vault import Vault, slot_of
from datalayer.testing.servers.cluster import wait_until

OpenLayer = Callable[..., DataLayer]
Raw = Callable[..., list[Any]]
ROWS = 25
ENOUGH = 100
SECONDS = 20.0 if os.environ.get("DATALAYER_TEST_LONG") == "1" else 2.0


def fill(layer: DataLayer) -> None:
    layer.repository(Patient).create_many(
        [
            Patient(id=i, ward="w", email=f"p{i}@x", city="porto" if i % 2 else None, notes=f"note {i}")
            for i in range(ROWS)
        ]
    )
    layer.repository(Token).create_many([Token(secret=f"s{i}") for i in range(ROWS)])
    layer.repository(Seat).create_many([Seat(hall=h, number=i, guest=f"{h}{i}") for h in "ab" for i in range(5)])


@pytest.fixture
def rotating(open_layer: OpenLayer) -> DataLayer:
    """A layer with a new active key over rows under the old one."""
    fill(open_layer(safe.OLD))
    return open_layer(safe.BOTH)


def test_status_counts_what_is_under_which_key(rotating: DataLayer):
    rotating.repository(Patient).update(0, notes="new")
    status = rotating.crypto.status(batch_size=7)
    columns = {f"{c.table}.{c.column}": c for c in status.columns}
    assert (status.active, status.ring, status.missing, status.ok) == ("k2", ("k2", "k1"), (), False)
    assert columns["patients.notes"].keys == {"k1": ROWS - 1, "k2": 1}
    assert columns["patients.city"].empty == 13
    assert columns["patients.email"].stale_digests == ROWS
    assert columns["tokens.secret"].keys == {"k1": ROWS}
    assert columns["seats.guest"].keys == {"k1": 10}


def test_rotation_brings_everything_under_the_active_key(rotating: DataLayer, open_layer: OpenLayer):
    report = rotating.crypto.rotate(batch_size=4)
    assert report.ok
    assert {t.table: t.rotated for t in report.tables if t.rotated} == {"patients": ROWS, "tokens": ROWS, "seats": 10}
    assert rotating.crypto.status().ok
    assert rotating.crypto.rotate().rotated == 0
    assert rotating.crypto.verify().ok
    # The old key may go.
    layer = open_layer(safe.NEW)
    assert layer.crypto.verify(batch_size=3).checked == 25 + 25 + 12 + 25 + 10
    found = layer.repository(Patient).get_by(email="p7@x")
    assert found is not None
    assert (found.id, found.notes, found.city) == (7, "note 7", "porto")
    assert {t.secret for t in layer.repository(Token).search()} == {f"s{i}" for i in range(ROWS)}
    assert layer.repository(Seat).get_one(("b", 3)).guest == "b3"


def test_rotation_changes_no_cached_text_and_no_other_column(rotating: DataLayer):
    before = {p.id: (p.ward, p.email, p.city, p.notes) for p in rotating.repository(Patient).search()}
    rotating.crypto.rotate()
    after = rotating.repository(Patient).search()
    assert {p.id: (p.ward, p.email, p.city, p.notes) for p in after} == before


def test_an_interrupted_rotation_is_continued(rotating: DataLayer):
    class Interrupted(Exception):
        pass

    def interrupt(progress: Progress) -> None:
        if progress.done >= 8:
            raise Interrupted

    with pytest.raises(Interrupted):
        rotating.crypto.rotate("patients", batch_size=4, progress=interrupt)
    assert rotating.crypto.status("patients").columns[0].keys == {"k1": ROWS - 8, "k2": 8}
    report = rotating.crypto.rotate("patients", batch_size=4)
    assert (report.rotated, report.ok) == (ROWS - 8, True)


def test_progress_says_how_far_it_is_and_verification_continues_from_there(rotating: DataLayer):
    seen: list[Progress] = []
    rotating.crypto.rotate("patients", batch_size=10, progress=seen.append)
    assert [(p.table, p.done, p.total) for p in seen] == [("patients", n, ROWS) for n in (10, 20, 25)]
    seen.clear()
    rotating.crypto.verify("patients", batch_size=10, progress=seen.append)
    assert [p.done for p in seen] == [10, 20, 25]
    rest = rotating.crypto.verify("patients", after={"patients": seen[1].after})
    assert rest.checked == 2 * 5 + 2


def test_verification_finds_what_does_not_decrypt_and_rotation_leaves_it(rotating: DataLayer):
    with rotating.engine.begin() as connection:
        connection.execute(sa.text("UPDATE patients SET notes = email WHERE id = 3"))
        connection.execute(sa.text("UPDATE patients SET city_bidx = 'k1.AAAAAAAAAAAAAAAAAAAAAA' WHERE id = 5"))
        connection.execute(sa.text("UPDATE seats SET guest = (SELECT guest FROM seats WHERE hall='a' AND number=1)"))
    report = rotating.crypto.verify()
    assert (report.ok, report.failed) == (False, 1 + 1 + 9)
    problems = {(p.table, p.column, p.key, p.key_id) for p in report.problems}
    assert {("patients", "notes", (3,), "k1"), ("patients", "city", (5,), None)} < {
        (t, c, k, None if c == "city" else i) for t, c, k, i in problems
    }
    rotated = rotating.crypto.rotate("patients")
    assert (rotated.ok, rotated.rotated, rotated.tables[0].failed, rotated.tables[0].remaining) == (False, 24, 1, 1)
    assert [p.key for p in rotated.tables[0].problems] == [(3,)]


def test_a_missing_key_is_named(open_layer: OpenLayer):
    fill(open_layer(safe.OLD))
    layer = open_layer(safe.NEW)
    assert layer.crypto.status().missing == ("k1",)
    report = layer.crypto.rotate("tokens")
    assert (report.ok, report.rotated, report.tables[0].failed) == (False, 0, ROWS)
    assert "key 'k1', which is not in the key ring" in report.tables[0].problems[0].reason


def test_unique_texts_stay_unique_while_keys_change(rotating: DataLayer):
    patients = rotating.repository(Patient)
    for taken in (
        lambda: patients.create(Patient(id=99, ward="w", email="p3@x")),
        lambda: patients.update(4, email="p3@x"),
        lambda: patients.set(Patient(id=98, ward="w", email="p3@x")),
        lambda: patients.create_many([Patient(id=97, ward="w", email="q"), Patient(id=96, ward="w", email="p3@x")]),
    ):
        with pytest.raises(AlreadyExistsError):
            taken()
    patients.set(Patient(id=3, ward="w", email="p3@x"))  # its own
    patients.update(3, email="other@x")
    patients.create(Patient(id=99, ward="w", email="p3@x"))
    assert rotating.crypto.rotate().ok


def test_equal_texts_that_slipped_in_are_reported_and_left(rotating: DataLayer, open_layer: OpenLayer):
    # Two processes whose rings do not overlap: the documentation says not to.
    open_layer(safe.NEW).repository(Patient).create(Patient(id=99, ward="w", email="p3@x"))
    report = rotating.crypto.rotate("patients")
    assert (report.ok, report.tables[0].failed, report.tables[0].remaining) == (False, 1, 1)
    problem = report.tables[0].problems[0]
    assert (problem.key, problem.reason) == ((3,), "another row has the same value, which must be unique")


def test_only_tables_with_encrypted_columns_can_be_named(rotating: DataLayer, open_layer: OpenLayer):
    with pytest.raises(ConfigError, match=r"'nope' is no table with encrypted columns; there are .*patients"):
        rotating.crypto.rotate("nope")
    with pytest.raises(ConfigError, match="no encryption key"):
        open_layer({}, allow_plaintext=True).crypto.status()


# -- beside writers ------------------------------------------------------------------------------------------------


class BlindRotation(Rotation):
    """Writes back what it has read, whatever is there now: what rotation must not do."""

    def _unchanged(self, column: Any, old: Any) -> sa.ColumnElement[bool]:
        return sa.or_(sa.true(), column.text == old)


def vault_of(layer: DataLayer) -> Vault:
    vault = slot_of(layer.engine.dialect).vault
    assert vault is not None
    return vault


@pytest.mark.parametrize(("kind", "kept"), [(Rotation, True), (BlindRotation, False)])
def test_a_writer_who_comes_between_wins(open_layer: OpenLayer, kind: type[Rotation], kept: bool):
    writer = open_layer(safe.OLD)
    writer.repository(Patient).create(Patient(id=1, ward="w", notes="first"))
    layer = open_layer(safe.BOTH)

    class Slow(kind):  # type: ignore[misc,valid-type]
        def _write(self, rows: Any) -> None:
            if not self._rotated and not self._overtaken:
                writer.repository(Patient).update(1, notes="second")
            super()._write(rows)

    report = Slow(layer.engine, RawTable(Patient.__table__), vault_of(layer)).run()  # type: ignore[arg-type]
    found = layer.repository(Patient).get_one(1, consistency="database")
    assert found.notes == ("second" if kept else "first")
    assert (report.rotated, report.overtaken, report.remaining) == (1, int(kept), 0)


class Adders:
    """Writers that add one to encrypted numbers, and count their commits."""

    def __init__(self, layers: list[DataLayer], rows: int) -> None:
        self.commits = [0] * rows
        self._layers = layers
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,), name=f"writer-{i}") for i in range(4)]

    def __enter__(self) -> Adders:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        layer, turn = self._layers[number % len(self._layers)], number
        while not self._stop.is_set():
            turn += 1
            i = turn % len(self.commits)
            with layer.begin() as session:
                row = session.get_one(Patient, i, with_for_update=True)
                row.notes = str(int(row.notes or 0) + 1)
            with self._lock:
                self.commits[i] += 1


def lost_updates(open_layer: OpenLayer, kind: type[Rotation]) -> tuple[int, int, int]:
    """(lost updates, rows rotated, rows that a writer was faster with) of a run with writers and rotations."""
    rows = 12
    one = open_layer({"k1": safe.K1, "k2": safe.K2})
    two = open_layer({"k2": safe.K2, "k1": safe.K1})
    one.repository(Patient).create_many([Patient(id=i, ward="w", notes="0") for i in range(rows)])
    table, rotated, overtaken = RawTable(Patient.__table__), 0, 0  # type: ignore[arg-type]

    class Late(kind):  # type: ignore[misc,valid-type]
        def _write(self, rows: Any) -> None:
            seen = sum(adders.commits)
            wait_until("writers come between", lambda: sum(adders.commits) > seen + 2, seconds=30)
            super()._write(rows)

    with Adders([one, two], rows) as adders:
        began = time.monotonic()
        while (time.monotonic() - began < SECONDS or rotated <= ENOUGH) and time.monotonic() - began < SECONDS + 30:
            for layer in (one, two):
                report = Late(layer.engine, table, vault_of(layer)).run(passes=1)
                rotated, overtaken = rotated + report.rotated, overtaken + report.overtaken
    assert two.crypto.rotate("patients").ok
    assert two.crypto.verify("patients").ok
    found = two.repository(Patient).get_many(range(rows), consistency="database")
    return sum(adders.commits) - sum(int(p.notes or 0) for p in found.values()), rotated, overtaken


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize("any_url", ["postgres"], indirect=True)
def test_no_update_is_lost_beside_a_rotation(open_layer: OpenLayer):
    lost, rotated, overtaken = lost_updates(open_layer, Rotation)
    print(f"rotated {rotated}, overtaken {overtaken}, lost {lost}")
    assert lost == 0
    assert rotated > ENOUGH


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize("any_url", ["postgres"], indirect=True)
def test_a_rotation_without_compare_and_set_does_lose_updates(open_layer: OpenLayer):
    lost, rotated, _ = lost_updates(open_layer, BlindRotation)
    print(f"rotated {rotated}, lost {lost}")
    assert lost > 0


@pytest.mark.postgres
@pytest.mark.parametrize("any_url", ["postgres"], indirect=True)
def test_rows_that_somebody_has_locked_are_passed_over_without_waiting(rotating: DataLayer):
    with rotating.session() as session:
        session.get(Patient, 3, with_for_update=True)
        began = time.monotonic()
        report = rotating.crypto.rotate("patients")
        assert time.monotonic() - began < 5
        assert (report.rotated, report.tables[0].remaining, report.ok) == (ROWS - 1, 1, False)
    assert rotating.crypto.rotate("patients").ok


def test_two_rotations_at_once_do_no_harm(rotating: DataLayer):
    reports: list[Any] = []
    threads = [threading.Thread(target=lambda: reports.append(rotating.crypto.rotate(batch_size=3))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(r.rotated for r in reports) == ROWS + ROWS + 10
    assert rotating.crypto.rotate().ok
    assert rotating.crypto.verify().ok


def test_a_rotation_needs_keys():
    with pytest.raises(ConfigError):
        Vault(None)
    assert Vault(Keyring(safe.BOTH)) == Vault(Keyring(safe.BOTH)) != Vault(Keyring(safe.OLD))
