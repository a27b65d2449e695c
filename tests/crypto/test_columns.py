"""Encrypted columns by every way of reading and writing, on every database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import safe
import sqlalchemy as sa
from safe import Patient, Plainly
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column
from sqlalchemy.orm import Session as PlainSession

from datalayer import (
    AlreadyExistsError,
    ConfigError,
    ConflictError,
    DataLayer,
    DecodeError,
    EncodeError,
    Q,
    QueryError,
    column,
)
from datalayer.crypto.column import EncryptedText
from datalayer.models.columns import check_columns

Raw = Callable[..., list[Any]]
T = Patient.__table__


def patient(id: int = 1, **values: Any) -> Patient:
    return Patient(**{"id": id, "ward": "w", "email": f"p{id}@x", "city": "porto", "notes": f"note {id}", **values})


def stored(layer: DataLayer, raw: Raw, id: int = 1) -> Any:
    (row,) = raw(layer, "SELECT email, email_bidx, city, city_bidx, notes FROM patients WHERE id = :id", id=id)
    return row


def is_ciphertext(text: Any, key: str = "k2") -> bool:
    return isinstance(text, str) and text.startswith(f"dl1.{key}.")


# -- writing and reading -------------------------------------------------------------------------------------------


def _create(layer: DataLayer) -> None:
    layer.repository(Patient).create(patient())


def _upsert(layer: DataLayer) -> None:
    layer.repository(Patient).set(patient(notes="before", email="before@x"))
    layer.repository(Patient).set(patient())


def _update(layer: DataLayer) -> None:
    layer.repository(Patient).create(patient(email=None, notes="before"))
    layer.repository(Patient).update(1, email="p1@x", notes="note 1")


def _unit_of_work(layer: DataLayer) -> None:
    with layer.begin() as session:
        session.add_all([patient(2), patient(email="before@x"), patient(3)])
        session.flush()
        session.get_one(Patient, 1).email = "p1@x"


def _plain_session(layer: DataLayer) -> None:
    with PlainSession(layer.engine) as session:
        session.add(patient())
        session.commit()


def _core(layer: DataLayer) -> None:
    with layer.engine.begin() as connection:
        connection.execute(sa.insert(T).values(id=1, ward="w", email="before@x", city="porto", notes="note 1"))
        connection.execute(sa.update(T).where(T.c.id == 1).values({T.c.email: "p1@x"}))


def _core_many(layer: DataLayer) -> None:
    rows = [{"id": i, "ward": "w", "email": f"p{i}@x", "city": "porto", "notes": f"note {i}"} for i in (1, 2, 3)]
    with layer.engine.begin() as connection:
        connection.execute(sa.insert(T), rows)


def _core_values(layer: DataLayer) -> None:
    rows = [{"id": i, "ward": "w", "email": f"p{i}@x", "city": "porto", "notes": f"note {i}"} for i in (1, 2)]
    with layer.engine.begin() as connection:
        connection.execute(sa.insert(T).values(rows))


def _core_parameters(layer: DataLayer) -> None:
    _create(layer)
    statement = sa.update(T).where(T.c.id == sa.bindparam("i")).values(email=sa.bindparam("e"), notes=sa.bindparam("n"))
    with layer.engine.begin() as connection:
        connection.execute(statement, [{"i": 1, "e": "other@x", "n": "x"}, {"i": 2, "e": "p2@x", "n": "y"}])
        connection.execute(statement, {"i": 1, "e": "p1@x", "n": "note 1"})


def _bulk(layer: DataLayer) -> None:
    with layer.begin() as session:
        session.execute(sa.insert(Patient), [{"id": 1, "ward": "w", "email": "a@x", "city": "porto", "notes": "n"}])
        session.execute(sa.update(Patient), [{"id": 1, "email": "b@x"}])
        session.execute(sa.update(Patient).where(Patient.email == "b@x").values(email="p1@x", notes="note 1"))


def _returning(layer: DataLayer) -> None:
    statement = sa.insert(Patient).values(id=1, ward="w", email="p1@x", city="porto", notes="note 1")
    with layer.begin() as session:
        made = session.scalars(statement.returning(Patient)).one()
        assert (made.email, made.notes) == ("p1@x", "note 1")


def _on_conflict(layer: DataLayer) -> None:
    _create(layer)
    insert: Any = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}[layer.engine.dialect.name]
    statement = insert(T).values(id=1, ward="w", email="p1@x", city="porto", notes="note 1")
    changed = {name: statement.excluded[name] for name in ("email", "email_bidx", "notes")}
    with layer.engine.begin() as connection:
        connection.execute(statement.on_conflict_do_update(index_elements=[T.c.id], set_=changed))


def _bulk_load(layer: DataLayer) -> None:
    layer.repository(Patient).bulk_load([patient(i) for i in (1, 2, 3)])


def _bulk_load_of_dicts(layer: DataLayer) -> None:
    rows = [{"id": i, "ward": "w", "email": f"p{i}@x", "city": "porto", "notes": f"note {i}"} for i in (1, 2, 3)]
    layer.repository(Patient).bulk_load(rows, on_conflict="ignore")


def _bulk_update(layer: DataLayer) -> None:
    layer.repository(Patient).create(patient(email="before@x", notes="before"))
    layer.repository(Patient).bulk_load([patient(1), patient(2)], on_conflict="update")


WAYS = [
    _bulk_load,
    _bulk_load_of_dicts,
    _bulk_update,
    _create,
    _upsert,
    _update,
    _unit_of_work,
    _plain_session,
    _core,
    _core_many,
    _core_values,
    _core_parameters,
    _bulk,
    _returning,
    _on_conflict,
]


@pytest.mark.parametrize("write", WAYS, ids=lambda way: way.__name__.strip("_"))
def test_whoever_writes_the_database_holds_ciphertext_and_digests(
    layer: DataLayer, raw: Raw, loaded: Callable[..., Any], write: Any
):
    write(layer)
    email, email_digest, city, city_digest, notes = stored(layer, raw)
    assert all(is_ciphertext(text) for text in (email, city, notes))
    assert len({email, city, notes}) == 3
    assert email_digest.startswith("k2.")
    assert city_digest.startswith("k2.")
    patients = layer.repository(Patient)
    for found in (
        patients.get(1, consistency="database"),
        patients.get(1),
        patients.get_by(email="p1@x"),
        patients.search(Q(Patient).where(city="porto", id=1))[0],
        loaded(layer, Patient, 1),
        loaded(layer, Patient, 1, plainly=True),
    ):
        assert found is not None
        assert (found.email, found.city, found.notes) == ("p1@x", "porto", "note 1")


def test_null_stays_null_and_empty_text_does_not_show(layer: DataLayer, raw: Raw):
    patients = layer.repository(Patient)
    patients.create(patient(1, email=None, notes=""))
    patients.create(patient(2, email=None, notes=None))
    assert stored(layer, raw)[:2] == (None, None)
    assert is_ciphertext(stored(layer, raw)[4])
    assert [p.notes for p in patients.get_many([1, 2]).values()] == ["", None]
    patients.update(1, notes=None)
    assert patients.count(Q(Patient).where(Patient.notes.is_(None))) == 2
    assert patients.count(Q(Patient).where(Patient.notes == None)) == 2  # noqa: E711
    assert patients.count(Q(Patient).where(email=None)) == 2
    assert patients.count(Q(Patient).where(Patient.notes.is_not(None))) == 0


def test_a_value_taken_away_takes_its_digest_along(layer: DataLayer, raw: Raw):
    patients = layer.repository(Patient)
    patients.create(patient())
    patients.update(1, email=None)
    assert stored(layer, raw)[:2] == (None, None)


def test_only_columns_are_selected_and_decrypted(layer: DataLayer):
    layer.repository(Patient).create(patient())
    with layer.session() as session:
        assert session.execute(sa.select(Patient.id, Patient.notes)).all() == [(1, "note 1")]
        assert session.scalar(sa.select(sa.func.count(Patient.notes))) == 1
        inner = sa.select(Patient.notes.label("n")).subquery()
        assert session.scalar(sa.select(inner.c.n)) == "note 1"


def test_the_same_flags_work_on_a_plain_mapped_column(layer: DataLayer, raw: Raw):
    plainly = layer.repository(Plainly)
    plainly.create(Plainly(id=1, pin="1234", mail="m@x"))
    ((pin, mail, digest),) = raw(layer, "SELECT pin, e_mail, e_mail_bidx FROM plainly")
    assert is_ciphertext(pin)
    assert is_ciphertext(mail)
    assert digest.startswith("k2.")
    found = plainly.get_by(mail="m@x")
    assert found is not None
    assert (found.pin, found.mail) == ("1234", "m@x")
    with pytest.raises(AlreadyExistsError):
        plainly.create(Plainly(id=2, mail="m@x"))


def test_the_declared_length_is_that_of_the_readable_text(layer: DataLayer):
    with pytest.raises(EncodeError, match=r"plainly\.pin takes 8 characters at most, found 9") as caught:
        layer.repository(Plainly).create(Plainly(id=1, pin="123456789"))
    assert "123456789" not in str(caught.value)


def test_only_text_is_accepted(layer: DataLayer):
    with pytest.raises(EncodeError, match=r"patients\.notes is encrypted and takes text, found a value of type 'int'"):
        layer.repository(Patient).create(patient(notes=7))


# -- blind indexes -------------------------------------------------------------------------------------------------


def test_equality_is_answered_in_every_spelling(layer: DataLayer):
    patients = layer.repository(Patient)
    patients.create_many([patient(1), patient(2, city="faro"), patient(3, city=None)])

    def ids(query: Any) -> list[int]:
        return sorted(p.id for p in patients.search(query))

    other = aliased(Patient)
    assert ids(Q(Patient).where(city="porto")) == [1]
    assert ids(Q(Patient).where(Patient.city == "faro")) == [2]
    assert ids(Q(Patient).where(Patient.city != "faro")) == [1]
    assert ids(Q(Patient).where(Patient.city.in_(["faro", "porto", "x"]))) == [1, 2]
    assert ids(Q(Patient).where(Patient.city.not_in(["faro"]))) == [1]
    assert ids(Q(Patient).where(Patient.city.in_([]))) == []
    assert ids(Q(Patient).where(sa.or_(Patient.city == "faro", Patient.city.is_(None)))) == [2, 3]
    assert ids(sa.select(Patient).filter_by(city="porto")) == [1]
    assert ids(sa.select(Patient).where(~(Patient.city == "porto"))) == [2]
    with layer.session() as session:
        assert session.scalar(sa.select(other.id).where(other.city == "faro")) == 2
        joined = sa.select(Patient.id, other.id).join(other, other.id == Patient.id + 1).where(other.city == "faro")
        assert session.execute(joined).all() == [(1, 2)]
        assert session.scalar(sa.select(T.c.id).where(T.c.city == "faro")) == 2
        assert session.query(Patient).filter_by(city="faro").one().id == 2
        assert session.execute(sa.delete(Patient).where(Patient.city == "faro")).rowcount == 1  # type: ignore[attr-defined]


def test_equality_is_answered_by_the_index(layer: DataLayer):
    postgres = layer.engine.dialect.name == "postgresql"
    run: list[tuple[str, Any]] = []
    with layer.engine.begin() as connection:
        sa.event.listen(connection, "before_cursor_execute", lambda c, _, sql, given, *more: run.append((sql, given)))
        connection.execute(sa.select(Patient.id, Patient.notes).where(Patient.city == "porto"))
        if postgres:
            connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        sql, given = run[0]
        plan = connection.exec_driver_sql(("EXPLAIN " if postgres else "EXPLAIN QUERY PLAN ") + sql, given).all()
    assert "ix_patients_city_bidx" in repr(plan)
    assert "SCAN patients" not in repr(plan)


def test_the_same_text_has_other_digests_in_other_columns(layer: DataLayer, raw: Raw):
    layer.repository(Patient).create(patient(email="same", city="same"))
    _, email, _, city, _ = stored(layer, raw)
    assert email != city


def test_a_unique_text_is_unique_and_cached(layer: DataLayer):
    patients = layer.repository(Patient)
    patients.create_many([patient(1), patient(2)])
    for taken in (
        lambda: patients.create(patient(3, email="p1@x")),
        lambda: patients.update(2, email="p1@x"),
        lambda: patients.set(patient(4, email="p2@x")),
    ):
        with pytest.raises(AlreadyExistsError):
            taken()
    assert patients.get_by(email="p1@x") is not None
    from datalayer.testing.counting import Statements

    with layer.session() as session, Statements(layer.engine) as statements:
        found = session.scalars(sa.select(Patient).where(Patient.email == "p1@x")).one()
        assert (found.id, len(statements)) == (1, 0)
    patients.update(1, email="new@x")
    assert patients.get_by(email="p1@x") is None
    found_now = patients.get_by(email="new@x")
    assert found_now is not None
    assert found_now.id == 1
    with pytest.raises(QueryError, match="city is not unique"):
        patients.get_by(city="porto")


OPERATORS: list[tuple[str, Callable[[], Any]]] = [
    ("like", lambda: Patient.email.like("p%")),
    ("startswith", lambda: Patient.email.startswith("p")),
    ("less", lambda: Patient.email < "p"),
    ("between", lambda: Patient.email.between("a", "b")),
    ("concatenation", lambda: Patient.email + "x"),
    ("reversed", lambda: "x" + Patient.email),
    ("descending", lambda: Patient.email.desc()),
    ("unindexed", lambda: Patient.notes == "x"),
    ("unindexed in", lambda: Patient.notes.in_(["x"])),
    ("subquery", lambda: Patient.email.in_(sa.select(Patient.email))),
    ("not text", lambda: Patient.email == 7),
    ("subselect", lambda: sa.select(T).subquery().c.notes == "x"),
]


@pytest.mark.parametrize("make", [make for _, make in OPERATORS], ids=[name for name, _ in OPERATORS])
def test_every_other_operator_is_an_error_where_it_is_written(make: Callable[[], Any]):
    with pytest.raises(QueryError, match=r"patients\.(email|notes) is encrypted"):
        make()


STATEMENTS: list[tuple[str, Callable[[], Any]]] = [
    ("order", lambda: sa.select(Patient).order_by(Patient.email)),
    ("order by name", lambda: Q(Patient).order_by("email").to_select()),
    ("group", lambda: sa.select(sa.func.count()).group_by(Patient.city)),
    ("function", lambda: sa.select(Patient).where(sa.func.lower(Patient.email) == "p1@x")),
    ("aggregate", lambda: sa.select(sa.func.max(Patient.email))),
    ("cast", lambda: sa.select(sa.cast(Patient.email, sa.String))),
    ("columns", lambda: sa.select(Patient).where(Patient.email == Patient.city)),
    ("case", lambda: sa.select(sa.case((Patient.id == 1, Patient.email), else_="x"))),
    ("expression", lambda: sa.update(Patient).values(notes=sa.func.lower("X"))),
    ("own expression", lambda: sa.update(T).values({T.c.email: T.c.city})),
    (
        "insert from select",
        lambda: sa.insert(T).from_select(["id", "ward", "notes"], sa.select(T.c.id, T.c.ward, T.c.notes)),
    ),
    ("tuples", lambda: sa.insert(T).values([(1, "w", "e", None, "c", None, "n"), (2, "w", "e", None, "c", None, "n")])),
]


@pytest.mark.parametrize("make", [make for _, make in STATEMENTS], ids=[name for name, _ in STATEMENTS])
def test_what_no_operator_sees_is_an_error_when_it_is_run(layer: DataLayer, make: Callable[[], Any]):
    for _ in range(2):  # a compiled statement is kept
        with layer.session() as session, pytest.raises(QueryError, match="encrypted"):
            session.execute(make())


@pytest.mark.parametrize(
    "text", ["email = :x", "lower(email) = :x", '"EMAIL" > :x', "patients.notes LIKE :x", "ward = :x OR city = :x"]
)
def test_sql_text_that_compares_an_encrypted_column_is_refused(text: str):
    with pytest.raises(
        QueryError, match=r"patients\.\w+ is encrypted: SQL text can ask whether its ciphertext IS NULL"
    ):
        Q(Patient).where_sql(text, x="secret")


def test_sql_text_may_ask_whether_an_encrypted_column_is_null(layer: DataLayer):
    patients = layer.repository(Patient)
    patients.create_many([patient(1), patient(2, email=None, ward="email = ?")])
    for text, given, expected in (
        ("email IS NULL", {}, [2]),
        ('patients."email" is not null', {}, [1]),
        ("ward = 'email = ?' AND city IS NOT NULL", {}, [2]),
        ("ward = :email", {"email": "w"}, [1]),
    ):
        assert [p.id for p in patients.search(Q(Patient).where_sql(text, **given))] == expected


def test_an_upsert_without_the_digest_is_refused(layer: DataLayer):
    insert: Any = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}[layer.engine.dialect.name]
    statement = insert(T).values(id=1, ward="w", email="p1@x")
    for changed, message in (
        ({"email": statement.excluded.email}, "add email_bidx=statement.excluded.email_bidx"),
        ({"notes": statement.excluded.ward}, "may set it to excluded.notes only"),
    ):
        conflicting = statement.on_conflict_do_update(index_elements=[T.c.id], set_=changed)
        with layer.engine.connect() as connection, pytest.raises(QueryError, match=message):
            connection.execute(conflicting)


def test_aggregates_of_an_encrypted_column_are_refused(layer: DataLayer):
    patients = layer.repository(Patient)
    for aggregate in (patients.min, patients.max, patients.sum):
        with pytest.raises(QueryError, match="email"):
            aggregate("email")


def test_literals_are_not_rendered():
    for statement in (sa.insert(T).values(email="secret"), sa.select(T).where(T.c.email == "secret")):
        with pytest.raises(Exception, match="literal") as caught:
            statement.compile(compile_kwargs={"literal_binds": True})
        assert "secret" not in str(caught.value)


# -- compare and set -----------------------------------------------------------------------------------------------


def test_compare_and_set_compares_what_is_encrypted(layer: DataLayer):
    patients = layer.repository(Patient)
    patients.create(patient())
    read = patients.get_one(1)
    changed = patients.get_one(1)
    changed.notes = "new"
    assert patients.compare_and_set(changed, expected=read).notes == "new"
    with pytest.raises(ConflictError):
        patients.compare_and_set(changed, expected=read)
    assert patients.compare_and_set(patient(notes="newer"), expected={"notes": "new"}).notes == "newer"
    with pytest.raises(ConflictError):
        patients.compare_and_set(patient(notes="x"), expected={"notes": "new"})


# -- keys ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("models", [[Patient], safe.Base, safe.Base.registry, None])
def test_without_keys_a_model_with_encrypted_columns_is_refused(database: str, models: Any):
    refused = pytest.raises(ConfigError, match=r"\w+\.\w+: encryption is not available: no key is configured")
    if models is not None:
        with refused:
            DataLayer(database, models=models)
        return
    with DataLayer(database) as layer, refused:
        layer.repository(Patient)


def test_without_keys_a_model_that_comes_later_is_refused_when_it_is_used(sqlite_url: str):
    class Base(DeclarativeBase):
        pass

    with DataLayer(sqlite_url, models=Base) as layer:

        class Late(Base):
            __tablename__ = "late"
            id: Mapped[int] = mapped_column(primary_key=True)
            text: Mapped[str] = column(encrypted=True)

        with pytest.raises(ConfigError, match=r"late\.text: encryption is not available: no key is configured"):
            layer.repository(Late)
        Base.metadata.create_all(layer.engine)
        with (
            pytest.raises(ConfigError, match=r"late\.text is encrypted, but this engine has no keys"),
            layer.begin() as s,
        ):
            s.add(Late(id=1, text="readable"))
        with pytest.raises(ConfigError, match="no key is configured"):
            layer.migrate()


def test_without_a_layer_an_engine_neither_writes_nor_reads_encrypted_columns(layer: DataLayer, database: str):
    layer.repository(Patient).create(patient())
    engine = sa.create_engine(database)
    with PlainSession(engine) as session:
        with pytest.raises(ConfigError, match="this engine has no keys"):
            session.get(Patient, 1)
        session.add(patient(2))
        with pytest.raises(ConfigError, match="this engine has no keys"):
            session.flush()
    engine.dispose()


def test_an_engine_that_outlives_the_layer_loses_the_keys(database: str):
    engine = sa.create_engine(database)
    for keys in (safe.OLD, safe.BOTH):
        with DataLayer(engine=engine, models=safe.Base, encryption_keys=keys) as layer:
            layer.repository(Patient).set(patient())
            with pytest.raises(ConfigError, match="other encryption keys"):
                DataLayer(engine=engine, models=safe.Base, encryption_keys=safe.NEW)
            with DataLayer(engine=engine, models=safe.Base, encryption_keys=keys) as second:
                second.repository(Patient).set(patient())
            assert layer.repository(Patient).get_one(1, consistency="database").notes == "note 1"
    with PlainSession(engine) as session, pytest.raises(ConfigError, match="no keys"):
        session.get(Patient, 1)
    engine.dispose()


def test_readable_storage_has_to_be_asked_for(open_layer: Any, raw: Raw):
    layer = open_layer({}, allow_plaintext=True)
    patients = layer.repository(Patient)
    patients.create(patient())
    assert stored(layer, raw) == ("p1@x", "p1@x", "porto", "porto", "note 1")
    assert patients.get_by(email="p1@x") is not None
    with pytest.raises(EncodeError, match="looks like"):
        patients.update(1, notes="dl1.k1." + "A" * 60)


def test_a_readable_table_is_read_while_it_is_being_encrypted(open_layer: Any, raw: Raw):
    open_layer({}, allow_plaintext=True).repository(Patient).create(patient())
    with pytest.raises(DecodeError, match=r"patients\.(email|city|notes) is encrypted, but a stored value is no dl1"):
        open_layer(safe.NEW).repository(Patient).get(1)
    layer = open_layer(safe.NEW, allow_plaintext=True)
    assert layer.repository(Patient).get_by(email="p1@x") is not None
    with pytest.raises(AlreadyExistsError):
        layer.repository(Patient).create(patient(2, email="p1@x"))
    assert layer.repository(Patient).get_one(1).notes == "note 1"
    assert layer.crypto.status("patients").columns[0].readable == 1
    assert layer.crypto.rotate("patients").ok
    assert all(is_ciphertext(text) for text in stored(layer, raw)[::2])
    found = open_layer(safe.NEW).repository(Patient).get_by(email="p1@x")
    assert found is not None


def test_a_wrong_or_missing_key_is_an_error_that_names_the_place_and_nothing_is_cached(open_layer: Any):
    open_layer(safe.OLD).repository(Patient).create(patient())
    layer = open_layer(safe.NEW)
    patients = layer.repository(Patient)
    for _ in range(2):
        with pytest.raises(DecodeError, match=r"patients\.\w+: .* key 'k1', which is not in the key ring \('k2'\)"):
            patients.get(1)
    with layer.session() as session, pytest.raises(DecodeError, match="'k1'"):
        session.get(Patient, 1)
    with pytest.raises(DecodeError, match="'k1'"):
        patients.get_many([1])
    assert layer.stats().l1_entries == 0
    # Writing works, with the active key.
    patients.set(patient(notes="written over"))
    assert patients.get_one(1).notes == "written over"


def test_tampered_and_swapped_texts_are_noticed(layer: DataLayer):
    patients = layer.repository(Patient)
    patients.create(patient())
    for sql in (
        "UPDATE patients SET notes = email",
        "UPDATE patients SET notes = substr(notes, 1, 20) || substr(email, 21)",
        "UPDATE patients SET notes = 'readable'",
    ):
        patients.set(patient(notes=f"a text long enough to be {sql}"))
        with layer.engine.begin() as connection:
            connection.execute(sa.text(sql))
        with pytest.raises(DecodeError, match=r"patients\.notes"):
            patients.get(1, consistency="database")


# -- models --------------------------------------------------------------------------------------------------------


def test_tables_have_text_and_an_indexed_digest_that_is_no_attribute():
    assert all(isinstance(T.c[name].type, EncryptedText) for name in ("email", "city", "notes"))
    indexes = {index.name: index.unique for index in T.indexes}
    assert indexes == {"ux_patients_email_bidx": True, "ix_patients_city_bidx": False}
    assert [attribute.key for attribute in sa.inspect(Patient).column_attrs] == ["id", "ward", "email", "city", "notes"]
    ddl = str(sa.schema.CreateTable(T))
    assert "email TEXT" in ddl
    assert "email_bidx TEXT" in ddl


def test_copies_of_a_table_are_encrypted_for_themselves():
    copied = T.to_metadata(sa.MetaData(), name="copies")
    assert copied.c.email.type.place == ("copies", "email")
    assert copied.c.email_bidx.type.table == "copies"
    assert copied.c.keys() == T.c.keys()


def test_mixins_and_annotated_types_are_encrypted_in_each_table():
    class Base(DeclarativeBase):
        pass

    class Reachable:
        phone: Mapped[str] = column(encrypted=True, blind_index=True)

    class One(Reachable, Base):
        __tablename__ = "ones"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Two(Reachable, Base):
        __tablename__ = "twos"
        id: Mapped[int] = mapped_column(primary_key=True)

    for cls, table in ((One, "ones"), (Two, "twos")):
        check_columns(sa.inspect(cls), has_keys=True)
        assert cls.__table__.c.phone.type.place == (table, "phone")  # type: ignore[attr-defined]
        assert "phone_bidx" in cls.__table__.c


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blind_index": True}, "is about ciphertext"),
        ({"bind": "row"}, "is about ciphertext"),
        ({"encrypted": True, "bind": "table"}, "bind is 'table'"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        column(**options)


class MigratedBase(DeclarativeBase):
    pass


class Migrated(MigratedBase):
    __tablename__ = "migrated"
    id: Mapped[int] = column(primary_key=True)
    mail: Mapped[str] = column(encrypted=True, blind_index=True, unique=True)


def test_a_migration_makes_the_columns_and_nothing_more_later(any_url: str):
    with DataLayer(any_url, models=[Migrated], encryption_keys=safe.NEW) as layer:
        layer.migrate()
        layer.repository(Migrated).create(Migrated(id=1, mail="m@x"))
        with pytest.raises(AlreadyExistsError):
            layer.repository(Migrated).create(Migrated(id=2, mail="m@x"))
        report = layer.migrate()
        assert not report.applied
        assert not report.refused


def test_a_row_that_does_not_decrypt_can_still_be_written(open_layer: Any):
    open_layer(safe.OLD).repository(Patient).create_many([patient(1), patient(2)])
    layer = open_layer(safe.NEW)
    patients = layer.repository(Patient)
    for _ in range(2):  # the first to be cached, if it could be read; the second with everything known about the table
        with layer.begin() as session:
            session.execute(sa.update(Patient).where(Patient.id == 1).values(ward="moved"))
        with pytest.raises(DecodeError, match="'k1'"):
            patients.get(1)
    with layer.session() as session:
        assert session.execute(sa.select(Patient.ward).where(Patient.id == 1)).scalar_one() == "moved"
    patients.set(patient(1, notes="written over"))
    assert patients.get_one(1).notes == "written over"
    assert patients.delete_many([1]) == 1
    with layer.begin() as session:
        session.execute(sa.delete(Patient).where(Patient.id == 2))
    assert patients.count() == 0


def test_a_table_from_before_is_migrated_encrypted_and_verified(any_url: str, raw: Raw):
    engine = sa.create_engine(any_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE migrated (id INTEGER PRIMARY KEY, mail VARCHAR(50) NOT NULL)"))
        connection.execute(sa.text("INSERT INTO migrated VALUES (1, 'a@x'), (2, 'b@x')"))
    with DataLayer(engine=engine, models=[Migrated], encryption_keys=safe.NEW, allow_plaintext=True) as layer:
        assert not layer.migrate().refused
        assert [m.mail for m in layer.repository(Migrated).search(sa.select(Migrated).order_by(Migrated.id))] == [
            "a@x",
            "b@x",
        ]
        assert layer.crypto.status().columns[0].readable == 2
        assert layer.crypto.rotate().rotated == 2
    with DataLayer(engine=engine, models=[Migrated], encryption_keys=safe.NEW) as layer:
        assert layer.crypto.verify().checked == 2
        assert all(is_ciphertext(mail) for (mail,) in raw(layer, "SELECT mail FROM migrated"))
        found = layer.repository(Migrated).get_by(mail="b@x")
        assert found is not None
        assert found.id == 2
        with pytest.raises(AlreadyExistsError):
            layer.repository(Migrated).create(Migrated(id=3, mail="a@x"))
    engine.dispose()
