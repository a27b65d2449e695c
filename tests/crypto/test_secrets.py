"""Nothing secret in a repr, a log, an exception, a traceback's local variables or another row's failing bind."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import safe
import sqlalchemy as sa
from safe import Patient, Shut, Token

import datalayer
from datalayer import DataLayer, DataLayerError, DecodeError, NotFoundError, Q
from datalayer.crypto.keyring import Keyring
from datalayer.crypto.vault import slot_of

OpenLayer = Callable[..., DataLayer]
SECRET = "gallbladder-inflammation"
OWN = datalayer.__path__[0]


def said(error: BaseException) -> str:
    """All that an exception says, with everything that it was caused by."""
    parts = []
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        found = todo.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        parts += [str(found), repr(found), repr(found.args)]
        todo += [found.__cause__, found.__context__]
    return "\n".join([*parts, "".join(traceback.format_exception(error))])


def locals_of(error: BaseException) -> str:
    """The local variables of this package's frames, as error reporters collect them."""
    shown = []
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        found = todo.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        for frame, _ in traceback.walk_tb(found.__traceback__):
            if frame.f_code.co_filename.startswith(OWN) or frame.f_code.co_filename.startswith("<datalayer"):
                shown.append(f"{frame.f_code.co_qualname}: {frame.f_locals!r}")
        todo += [found.__cause__, found.__context__]
    return "\n".join(shown)


def assert_no_key(text: str) -> None:
    for key in (safe.K1, safe.K2, safe.K3):
        for spelling in (repr(key)[2:-1], key.hex(), repr(bytearray(key))):
            assert spelling not in text


def test_keys_are_in_no_repr(open_layer: OpenLayer):
    layer = open_layer()
    vault = slot_of(layer.engine.dialect).vault
    assert vault is not None
    things = [layer, layer.settings, layer.crypto, vault, vault.keyring, layer.caches, layer.engine]
    things += [vault.cipher(Patient.__table__.c.email.type.place), vault.digests(Patient.__table__.c.email.type.place)]  # type: ignore[attr-defined]
    for thing in things:
        assert_no_key(repr(thing))
        assert_no_key(str(getattr(thing, "__dict__", "")))
    assert repr(vault.keyring) == "<Keyring active='k2' older=['k1']>"


def test_snapshots_say_that_a_value_is_there_and_no_more(open_layer: OpenLayer):
    patients = open_layer().repository(Patient)
    patients.create(Patient(id=1, ward="w", notes=SECRET))
    for _ in range(3):
        snapshot = patients.get_snapshot(1)
        assert snapshot is not None
        assert snapshot.notes == SECRET  # type: ignore[attr-defined]
        assert SECRET not in repr(snapshot)
        assert "notes=<encrypted>" in repr(snapshot)
        assert "email=None" in repr(snapshot)


def test_decrypting_what_was_tampered_with_shows_neither_it_nor_its_neighbours(
    open_layer: OpenLayer, loaded: Callable[..., Any]
):
    layer = open_layer()
    layer.repository(Patient).create(Patient(id=1, ward="w", email=SECRET, notes=SECRET))
    layer.repository(Shut).create(Shut(id=1, text=SECRET, bound=SECRET))
    with layer.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE patients SET notes = '{SECRET} readable'"))
        connection.execute(sa.text("UPDATE shut_notes SET bound = text"))
    for read in (
        lambda: layer.repository(Patient).get(1),
        lambda: layer.repository(Patient).get_many([1]),
        lambda: layer.repository(Patient).search(),
        lambda: loaded(layer, Patient, 1),
        lambda: layer.repository(Shut).get(1),
        lambda: loaded(layer, Shut, 1),
        lambda: loaded(layer, Shut, 1, plainly=True),
    ):
        with pytest.raises(DecodeError) as caught:
            read()
        assert SECRET not in said(caught.value)
        shown = locals_of(caught.value)
        assert_no_key(shown)
        decrypting = [line for line in shown.splitlines() if "readable" not in line]  # what was never encrypted
        assert SECRET not in "\n".join(decrypting)


def test_a_failing_bind_of_another_row_shows_nothing(open_layer: OpenLayer, caplog: pytest.LogCaptureFixture):
    layer = open_layer()
    rows = [{"id": i, "ward": "w", "notes": SECRET} for i in range(3)]
    failures: list[Callable[[], Any]] = [
        lambda: _insert(layer, [*rows, {"id": 3, "ward": "w", "notes": 7}]),
        lambda: _insert(layer, [*rows, {"id": "not a number", "ward": "w", "notes": SECRET}]),
        lambda: _insert(layer, [*rows, {"id": 0, "ward": "w", "notes": SECRET}]),
        lambda: _insert(layer, [*rows, {"id": 3, "ward": object(), "notes": SECRET}]),
        lambda: _insert(layer, [*rows, {"id": 3, "ward": None, "notes": SECRET}]),
        lambda: layer.repository(Patient).create_many([Patient(**row) for row in [*rows, {"id": 3, "notes": SECRET}]]),
    ]
    with caplog.at_level(logging.DEBUG):
        for fail in failures:
            with pytest.raises((sa.exc.SQLAlchemyError, DataLayerError)) as caught:
                fail()
            assert SECRET not in said(caught.value)
            assert SECRET not in repr(getattr(caught.value, "params", None))
    own = [r.getMessage() for r in caplog.records if r.name.startswith(("datalayer", "sqlalchemy.engine"))]
    assert SECRET not in "\n".join(own)


# -- every way to fail ---------------------------------------------------------------------------------------------


def _in_session(layer: DataLayer, work: Callable[[Any], object]) -> None:
    with layer.begin() as session:
        work(session)
        session.flush()


def _change(session: Any, **values: Any) -> None:
    for name, value in values.items():
        setattr(session.get_one(Patient, 2), name, value)


FAILURES: dict[str, Callable[[DataLayer, Any], object]] = {
    "create": lambda _, p: p.create(Patient(id=1, ward="w", notes=SECRET)),
    "create, taken": lambda _, p: p.create(Patient(id=9, ward="w", email=SECRET)),
    "create many": lambda _, p: p.create_many([Patient(id=9, ward="w", email=SECRET)]),
    "update, absent": lambda _, p: p.update(99, notes=SECRET),
    "update, unknown": lambda _, p: p.update(2, nots=SECRET),
    "update, taken": lambda _, p: p.update(2, email=SECRET),
    "update, no text": lambda _, p: p.update(2, email=SECRET, notes=7),
    "update, NULL": lambda _, p: p.update(2, ward=None, notes=SECRET),
    "set": lambda _, p: p.set(Patient(id=3, ward=None, notes=SECRET)),
    "set, taken": lambda _, p: p.set(Patient(id=3, ward="w", email=SECRET)),
    "set many": lambda _, p: p.set_many([Patient(id=3, ward=None, notes=SECRET)]),
    "compare and set": lambda _, p: p.compare_and_set(Patient(id=1, notes=SECRET), expected={"notes": SECRET + "x"}),
    "compare and set, absent": lambda _, p: p.compare_and_set(Patient(id=99), expected={"notes": SECRET}),
    "bulk load": lambda _, p: p.bulk_load([Patient(id=1, ward="w", notes=SECRET)]),
    "bulk load, taken": lambda _, p: p.bulk_load([Patient(id=9, ward="w", email=SECRET)]),
    "bulk load, no text": lambda _, p: p.bulk_load([{"id": 9, "ward": "w", "email": SECRET, "notes": 7}]),
    "bulk load, NULL": lambda _, p: p.bulk_load([{"id": 9, "ward": None, "email": SECRET}], on_conflict="update"),
    "bulk load, no number": lambda _, p: p.bulk_load([{"id": "x", "ward": "w", "notes": SECRET}], on_conflict="ignore"),
    "get by, no index": lambda _, p: p.get_by(notes=SECRET),
    "get by, not unique": lambda _, p: p.get_by(city=SECRET),
    "get by, unknown": lambda _, p: p.get_by(mail=SECRET),
    "where, no index": lambda _, p: Q(Patient).where(notes=SECRET),
    "where, unknown": lambda _, p: Q(Patient).where(mail=SECRET),
    "where, no text": lambda _, p: Q(Patient).where(Patient.ward == "w", email=7, city=SECRET),
    "text": lambda _, p: Q(Patient).where_sql("email = :x", x=SECRET),
    "text, misspelt": lambda _, p: Q(Patient).where_sql("ward = :x", y=SECRET),
    "text, no column": lambda _, p: p.search(Q(Patient).where_sql("nope = :x", x=SECRET)),
    "search cached": lambda _, p: p.search_cached(sa.select(Patient).where(sa.func.lower(Patient.notes) == SECRET)),
    "like": lambda _, p: p.search(Q(Patient).where(Patient.notes.like(SECRET))),
    "no index": lambda _, p: p.search(sa.select(Patient).where(Patient.notes == SECRET)),
    "in, no index": lambda _, p: p.search(sa.select(Patient).where(Patient.notes.in_([SECRET]))),
    "in, no text": lambda _, p: p.search(sa.select(Patient).where(Patient.email.in_([SECRET, 7]))),
    "concatenated": lambda _, p: p.search(sa.select(Patient).where(SECRET + Patient.notes == "x")),
    "function": lambda _, p: p.search(Q(Patient).where(sa.func.lower(Patient.notes) == SECRET)),
    "count": lambda _, p: p.count(sa.select(Patient).where(sa.func.lower(Patient.notes) == SECRET)),
    "order": lambda _, p: p.search(Q(Patient).where(email=SECRET).order_by("notes")),
    "cursor": lambda _, p: p.page(Q(Patient).where(email=SECRET), size=2, after="forged"),
    "session, taken": lambda layer, _: _in_session(layer, lambda s: _change(s, email=SECRET)),
    "session, no text": lambda layer, _: _in_session(layer, lambda s: _change(s, email=SECRET, notes=7)),
    "session, add": lambda layer, _: _in_session(layer, lambda s: s.add(Patient(id=1, ward="w", notes=SECRET))),
    "session, update": lambda layer, _: _in_session(
        layer, lambda s: s.execute(sa.update(Patient).where(Patient.email == SECRET).values(ward=None))
    ),
    "session, insert": lambda layer, _: _in_session(
        layer, lambda s: s.execute(sa.insert(Patient), [{"id": 1, "ward": "w", "notes": SECRET}])
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_no_failure_shows_a_value_nor_leaves_one_in_our_local_variables(
    open_layer: OpenLayer, caplog: pytest.LogCaptureFixture, failure: str
):
    layer = open_layer()
    patients = layer.repository(Patient)
    patients.create_many([Patient(id=1, ward="w", email=SECRET, notes=SECRET), Patient(id=2, ward="w")])
    with caplog.at_level(logging.DEBUG), pytest.raises((sa.exc.SQLAlchemyError, DataLayerError)) as caught:
        FAILURES[failure](layer, patients)
    assert SECRET not in said(caught.value)
    assert SECRET not in locals_of(caught.value)
    assert SECRET not in caplog.text


def test_values_are_forgotten_in_the_librarys_frames_and_left_alone_in_the_applications(open_layer: OpenLayer):
    mine = SECRET
    with pytest.raises(NotFoundError) as caught:
        open_layer().repository(Patient).update(99, notes=mine)
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert frames[0].f_locals["mine"] == SECRET
    assert len(frames) > 3
    assert SECRET not in repr([frame.f_locals for frame in frames[1:]])


def test_what_a_layer_says_of_itself_shows_nothing(open_layer: OpenLayer):
    layer = open_layer(slow_query=0.000001)
    patients = layer.repository(Patient)
    patients.create(Patient(id=1, ward="w", email=SECRET, notes=SECRET))
    found = patients.get_by(email=SECRET)
    for thing in (
        layer,
        layer.stats(),
        layer.health(),
        layer.explain(Patient),
        patients,
        found,
        Q(Patient).where(city=SECRET),
    ):
        assert SECRET not in repr(thing) + str(thing)
        assert_no_key(repr(thing) + str(thing))


def test_slow_statements_are_logged_without_their_values(open_layer: OpenLayer, caplog: pytest.LogCaptureFixture):
    layer = open_layer(slow_query=0.000001, slow_query_log=True)
    with caplog.at_level(logging.DEBUG):
        layer.repository(Patient).create(Patient(id=1, ward="w", email=SECRET, notes=SECRET))
        layer.repository(Patient).search(Q(Patient).where(city=SECRET))
        layer.repository(Patient).update(1, notes=SECRET)
    assert SECRET not in caplog.text


def _insert(layer: DataLayer, rows: list[dict[str, Any]]) -> None:
    with layer.engine.begin() as connection:
        connection.execute(sa.insert(Patient), rows)


def test_an_engine_of_the_applications_hides_parameters_too(database: str, caplog: pytest.LogCaptureFixture):
    engine = sa.create_engine(database, echo=True)
    with DataLayer(engine=engine, models=safe.Base, encryption_keys=safe.NEW) as layer:
        with caplog.at_level(logging.INFO):
            layer.repository(Patient).create(Patient(id=1, ward="w", notes=SECRET, email=SECRET))
            assert layer.repository(Patient).get_by(email=SECRET) is not None
        with pytest.raises(sa.exc.IntegrityError) as caught:
            _insert(layer, [{"id": 1, "ward": "w", "notes": SECRET}])
        assert SECRET not in said(caught.value)
    assert SECRET not in caplog.text
    engine.dispose()


def test_a_unique_violation_shows_digests_only(open_layer: OpenLayer):
    layer = open_layer()
    layer.repository(Patient).create(Patient(id=1, ward="w", email=SECRET))
    with pytest.raises(DataLayerError) as caught:
        layer.repository(Patient).create(Patient(id=2, ward="w", email=SECRET))
    assert SECRET not in said(caught.value)


def test_reports_of_verification_show_no_text(open_layer: OpenLayer):
    layer = open_layer()
    layer.repository(Patient).create(Patient(id=1, ward="w", notes=SECRET))
    layer.repository(Token).create(Token(secret=SECRET))
    with layer.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE patients SET notes = 'dl1.{SECRET}.x', city = '{SECRET}'"))
    for report in (layer.crypto.verify(), layer.crypto.status(), layer.crypto.rotate()):
        assert SECRET not in repr(report)
        assert SECRET not in str(report.to_dict())


def test_key_rings_with_mistakes_show_nothing():
    for keys in ({safe.K1.hex() * 2: safe.K1}, {"k": safe.K1[:5]}, {"k": safe.K1.hex()}):
        with pytest.raises(DataLayerError) as caught:
            Keyring(keys)  # type: ignore[arg-type]
        assert_no_key(said(caught.value))
