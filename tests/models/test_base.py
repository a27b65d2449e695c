from __future__ import annotations

import enum
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal, NewType, Optional, TypedDict
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import JSON, CheckConstraint, Dialect, ForeignKey, Interval, create_engine, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.schema import CreateTable
from typing_extensions import TypeAliasType

from datalayer.errors import EncodeError
from datalayer.models.base import Model, NaiveDateTimeError, UTCDateTime, json_type

PlayerId = NewType("PlayerId", int)
Document = TypeAliasType("Document", dict[str, Any])  # what `type Document = dict[str, Any]` makes


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


class Mood(enum.StrEnum):
    GOOD = "good"


class Address(TypedDict):
    street: str


class Everything(Model):
    __tablename__ = "base_everything"
    id: Mapped[PlayerId] = mapped_column(primary_key=True)
    s: Mapped[str]
    i: Mapped[int | None] = mapped_column(CheckConstraint("i != 1"), CheckConstraint("i != 2"))
    f: Mapped[float]
    b: Mapped[bool] = mapped_column(index=True)
    at: Mapped[datetime]
    d: Mapped[date]
    t: Mapped[time]
    td: Mapped[timedelta]
    n: Mapped[Decimal]
    u: Mapped[uuid.UUID] = mapped_column(unique=True)
    raw: Mapped[bytes]
    plain: Mapped[dict]
    tags: Mapped[list[str] | None]
    counts: Mapped[dict[str, int]]
    nested: Mapped[Optional[list[dict[str, list[int]]]]]  # noqa: UP045  # the old spelling is in use
    address: Mapped[Address]
    document: Mapped[Document | None]
    colour: Mapped[Colour]
    mood: Mapped[Mood | None]
    kind: Mapped[Literal["a", "bb"]]
    parent: Mapped[int | None] = mapped_column(ForeignKey("base_everything.id"))


class Event(Model):
    __tablename__ = "base_events"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime | None]
    data: Mapped[dict[str, Any] | None]
    colour: Mapped[Colour | None]


def types(dialect: Dialect) -> dict[str, str]:
    return {column.name: column.type.compile(dialect=dialect) for column in Everything.__table__.columns}


@pytest.fixture
def session():
    engine = create_engine("sqlite://")
    Event.__table__.create(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


def test_python_types_become_the_promised_postgresql_types():
    json = dict.fromkeys(("plain", "tags", "counts", "nested", "address", "document"), "JSONB")
    text = dict.fromkeys(("colour", "mood", "kind"), "VARCHAR(255)")
    assert types(postgresql.dialect()) == {
        "id": "BIGINT",
        "s": "TEXT",
        "i": "BIGINT",
        "f": "DOUBLE PRECISION",
        "b": "BOOLEAN",
        "at": "TIMESTAMP WITH TIME ZONE",
        "d": "DATE",
        "t": "TIME WITHOUT TIME ZONE",
        "td": "INTERVAL",
        "n": "NUMERIC",
        "u": "UUID",
        "raw": "BYTEA",
        "parent": "BIGINT",
        **json,
        **text,
    }


def test_integers_are_integer_on_sqlite_so_that_it_numbers_rows_itself():
    found = types(sqlite.dialect())
    assert (found["id"], found["i"], found["counts"]) == ("INTEGER", "INTEGER", "JSON")


def test_optional_annotations_are_nullable_and_others_are_not():
    nullable = {column.name for column in Everything.__table__.columns if column.nullable}
    assert nullable == {"i", "tags", "nested", "document", "mood", "parent"}


def test_every_constraint_has_a_name_and_two_checks_on_a_column_have_two():
    ddl = str(CreateTable(Everything.__table__).compile(dialect=postgresql.dialect()))
    for name in ("pk_base_everything", "uq_base_everything_u", "fk_base_everything_parent_base_everything"):
        assert f"CONSTRAINT {name} " in ddl
    checks = [word for word in ddl.split() if word.startswith("ck_base_everything_")]
    assert len(checks) == len(set(checks)) == 2
    assert {index.name for index in Everything.__table__.indexes} == {"ix_base_everything_b"}


def test_every_column_has_a_type_object_of_its_own():
    columns = list(Everything.__table__.columns)
    assert len({id(column.type) for column in columns if column.name != "parent"}) == len(columns) - 1


def test_watching_one_json_column_for_changes_leaves_the_others_alone(session: Session):
    class Watched(Model):
        __tablename__ = "base_watched"
        id: Mapped[int] = mapped_column(primary_key=True)
        data: Mapped[dict[str, Any]] = mapped_column(MutableDict.as_mutable(json_type()))
        tags: Mapped[list[str]]

    Watched.__table__.create(session.connection())
    session.add(Watched(id=1, data={"a": 1}, tags=["x"]))
    session.commit()
    found = session.get_one(Watched, 1)
    found.data["a"] = 2
    session.commit()
    assert (found.data, found.tags) == ({"a": 2}, ["x"])


def test_an_unknown_annotation_still_fails_as_in_sqlalchemy():
    from sqlalchemy.orm.exc import MappedAnnotationError

    with pytest.raises(MappedAnnotationError):

        class Odd(Model):
            __tablename__ = "base_odd"
            id: Mapped[int] = mapped_column(primary_key=True)
            what: Mapped[complex]


def test_none_in_a_json_column_is_sql_null(session: Session):
    session.add(Event(id=1, data=None))
    session.commit()
    assert session.scalar(select(func.count()).where(Event.data.is_(None))) == 1


def test_enums_are_stored_by_name(session: Session):
    session.add(Event(id=1, colour=Colour.BLUE))
    session.commit()
    assert session.scalar(text("SELECT colour FROM base_events")) == "BLUE"
    assert session.get_one(Event, 1).colour is Colour.BLUE


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-7)), ZoneInfo("Asia/Tokyo")], ids=str)
def test_any_aware_instant_comes_back_in_utc_from_sqlite(session: Session, zone: Any):
    at = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=zone)
    session.add(Event(id=1, at=at))
    session.commit()
    found = session.get_one(Event, 1).at
    assert found == at
    assert found.tzinfo is UTC
    assert session.scalars(select(Event).where(Event.at == at)).all() != []


@pytest.mark.parametrize(
    ("value", "found"), [(datetime(2026, 1, 1), "without a time zone"), (date(2026, 1, 1), "a date"), ("now", "a str")]
)
def test_what_is_no_instant_is_refused_by_name_of_its_kind_and_not_by_value(session: Session, value: Any, found: str):
    session.add(Event(id=1, at=value))
    with pytest.raises(NaiveDateTimeError, match=found) as raised:
        session.flush()
    assert isinstance(raised.value, EncodeError)
    assert "2026" not in str(raised.value)


def test_a_naive_datetime_in_a_where_is_refused_too(session: Session):
    with pytest.raises(NaiveDateTimeError):
        session.scalars(select(Event).where(Event.at > datetime(2026, 1, 1)))


def test_postgresql_values_are_passed_through_in_utc_and_converted_from_other_zones():
    read = UTCDateTime().result_processor(postgresql.dialect(), None)
    at = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert read(at) is at
    assert read(None) is None
    moved = read(at.astimezone(ZoneInfo("Europe/Paris")))
    assert moved == at
    assert moved.tzinfo is UTC


def test_instants_and_durations_can_be_calculated_with():
    assert isinstance((Event.at - Event.at).type, Interval)
    assert isinstance((Event.at + timedelta(days=1)).type, UTCDateTime)
    assert isinstance((Event.at + timedelta(days=1)).right.type, Interval)


def test_statements_with_instants_are_compiled_once(session: Session):
    assert select(Event).where(Event.at > datetime.now(UTC))._generate_cache_key() is not None
    assert UTCDateTime().python_type is datetime


def test_repr_shows_the_key_and_no_other_value(session: Session):
    event = Event(id=7, data={"secret": 1})
    assert repr(event) == "<Event (no key yet)>"
    session.add(event)
    session.commit()
    assert repr(event) == "<Event 7>"


def test_json_type_can_be_used_as_a_plain_sqlalchemy_type():
    assert isinstance(json_type(), JSON)
    assert json_type() is not json_type()
