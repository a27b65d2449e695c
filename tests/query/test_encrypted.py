"""Encrypted columns in queries: equality by the blind index, readable rows, and nothing readable elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped

from datalayer import DataLayer, Q, QueryError, column
from datalayer.testing.counting import Statements


class Base(DeclarativeBase):
    metadata = MetaData()


class Patient(Base):
    __tablename__ = "q_patients"
    id: Mapped[int] = column(primary_key=True)
    email: Mapped[str | None] = column(encrypted=True, blind_index=True, nullable=True)
    city: Mapped[str] = column(encrypted=True)
    notes: Mapped[str | None] = column(encrypted=True, bind="row", nullable=True)
    ward: Mapped[str]


class Contact(NamedTuple):
    ward: str
    email: str | None


@pytest.fixture
def layer(any_url: str) -> Iterator[DataLayer]:
    with DataLayer(any_url, models=Base, encryption_keys={"k1": b"1" * 32}) as layer:
        Base.metadata.create_all(layer.engine)
        layer.repository(Patient).create_many(
            Patient(id=i, email=None if i == 3 else f"p{i}@x", city="porto", notes=f"n{i}", ward="ab"[i % 2])
            for i in range(6)
        )
        yield layer


def test_equality_in_a_query_is_a_look_up_of_digests(layer: DataLayer) -> None:
    patients = layer.repository(Patient)
    with Statements(layer.engine) as statements:
        query = Q(Patient).where(ward="b", email="p1@x")
        assert [(p.id, p.city, p.notes) for p in patients.search(query)] == [(1, "porto", "n1")]
        assert patients.search(query.where(Patient.email != "p1@x")) == []
        assert [
            p.id for p in patients.search(Q(Patient).where(Patient.email.in_(["p2@x", "p4@x"])).order_by("-id"))
        ] == [
            4,
            2,
        ]
        assert patients.search(Q(Patient).where(email=None).fields("id")) == [(3,)]
        assert patients.count(query) == 1
        assert patients.exists(query.from_database())
        assert "p1@x" not in "".join(statements.texts)
    assert query == Q(Patient).where(ward="b", email="p1@x")
    assert query != Q(Patient).where(ward="b", email="p2@x")


def test_rows_of_fields_are_readable(layer: DataLayer) -> None:
    patients = layer.repository(Patient)
    assert patients.search(Q(Patient).where(id=1).fields("email", "city")) == [("p1@x", "porto")]
    assert patients.search(Q(Patient).where(id=1).fields(Contact)) == [Contact("b", "p1@x")]
    with pytest.raises(QueryError, match="bound to its row"):
        Q(Patient).fields("id", "notes")


def test_pages_of_a_search_by_an_encrypted_column_show_nothing(layer: DataLayer) -> None:
    patients = layer.repository(Patient)
    query = Q(Patient).where(Patient.email.in_([f"p{i}@x" for i in range(6)])).order_by("-ward")
    first = patients.page(query, size=2)
    assert first.next is not None
    raw = base64.urlsafe_b64decode(first.next + "=" * (-len(first.next) % 4))
    assert b"@x" not in raw
    rest = patients.page(query, after=first.next, size=9)
    assert [p.email for p in first.items + rest.items] == ["p5@x", "p1@x", "p4@x", "p2@x", "p0@x"]
    with pytest.raises(QueryError, match="another query"):
        patients.page(Q(Patient).where(email="p1@x").order_by("-ward"), after=first.next)


def test_what_ciphertext_cannot_answer_is_refused(layer: DataLayer) -> None:
    patients = layer.repository(Patient)
    with pytest.raises(QueryError, match="city is encrypted"):
        Q(Patient).where(city="porto")
    with pytest.raises(QueryError, match="email is encrypted"):
        Q(Patient).where(Patient.email.like("p%"))
    for name in ("email", "city", "notes"):
        with pytest.raises(QueryError, match=f"{name} is encrypted"):
            patients.search(Q(Patient).order_by(name))
        with pytest.raises(QueryError, match=f"{name} is encrypted"):
            patients.page(Q(Patient).order_by(name))
        with pytest.raises(QueryError, match="encrypted"):
            patients.max(name)


def test_named_queries_read_instances_decrypted_and_write_no_readable_text(layer: DataLayer, tmp_path: Path) -> None:
    path = tmp_path / "a.sql"
    path.write_text(
        "-- name: in_ward :many\n-- returns: Patient\nSELECT * FROM q_patients WHERE ward = :ward ORDER BY id\n"
        "-- name: move :exec\n-- writes: q_patients\nUPDATE q_patients SET ward = :ward WHERE id = :id\n"
        "-- name: gone :exec\n-- writes: q_patients\nDELETE FROM q_patients WHERE id = :id\n"
    )
    queries = layer.queries(tmp_path)
    first = queries.in_ward(ward="b")[0]
    assert (first.email, first.city, first.notes) == ("p1@x", "porto", "n1")
    assert queries.move(id=1, ward="c") == 1
    assert layer.repository(Patient).get(1).ward == "c"  # type: ignore[union-attr]
    assert queries.gone(id=1) == 1
    for statement in (
        "UPDATE q_patients SET city = :city",
        'UPDATE q_patients SET "email_bidx" = :city',
        "INSERT INTO q_patients (id, city) VALUES (1, :city)",
        "INSERT INTO q_patients VALUES (1, :city)",
        "INSERT INTO q_patients SELECT 1, :city",
    ):
        path.write_text(f"-- name: bad :exec\n-- writes: q_patients\n{statement}")
        with pytest.raises(QueryError, match=r"bad \(a.sql:1\) writes q_patients.*encrypted.*Repository"):
            layer.queries(tmp_path)
