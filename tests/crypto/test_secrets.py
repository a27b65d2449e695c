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
from sqlalchemy.orm import Session as PlainSession

import datalayer
from datalayer import DataLayer, DataLayerError, DecodeError
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


def test_decrypting_what_was_tampered_with_shows_neither_it_nor_its_neighbours(open_layer: OpenLayer):
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
        lambda: layer.session().get(Patient, 1),
        lambda: layer.repository(Shut).get(1),
        lambda: layer.session().get(Shut, 1),
        lambda: PlainSession(layer.engine).get(Shut, 1),
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
