from __future__ import annotations

import enum
import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import pytest
from sqlalchemy import (
    CHAR,
    Column,
    DateTime,
    ForeignKey,
    Integer,
    MetaData,
    Sequence,
    Text,
    create_engine,
    func,
    inspect,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column
from sqlalchemy.schema import CreateColumn

from datalayer.errors import ConfigError
from datalayer.models.base import Model, UTCDateTime, json_type
from datalayer.models.columns import CLOCK_OPTION, ColumnFlags, check_columns, column, column_flags

AT = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
Secret = Annotated[str, column(omit_cache=True, default="50%'s")]


class Colour(enum.Enum):
    RED = "r"


class Account(Model):
    __tablename__ = "col_accounts"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str] = column(default="it's 50%", unique=True, comment="shown")
    level: Mapped[int] = column(default=1, index=True)
    ratio: Mapped[float] = column(default=1.5)
    active: Mapped[bool] = column(default=True)
    since: Mapped[datetime] = column(default=AT)
    day: Mapped[date] = column(default=date(2026, 1, 1))
    token: Mapped[uuid.UUID] = column(default=uuid.UUID(int=7))
    raw: Mapped[bytes] = column(default=b"x")
    wait: Mapped[timedelta] = column(default=timedelta(seconds=5))
    data: Mapped[dict[str, Any]] = column(default={"a": [1]})
    tags: Mapped[list[str]] = column(default=[])
    colour: Mapped[Colour] = column(default=Colour.RED)
    drawn: Mapped[int] = column(default=func.abs(-3))
    called: Mapped[int] = column(default=lambda: 7)
    note: Mapped[str | None] = column(default=None)
    parent: Mapped[int | None] = column(ForeignKey("col_accounts.id"), default=1)
    password: Mapped[str] = column(omit_cache=True, default="")
    local: Mapped[str | None] = column(omit_l1=True)
    created_at: Mapped[datetime] = column(auto_now_add=True)
    updated_at: Mapped[datetime] = column(auto_now=True)
    both: Mapped[Secret] = column(omit_l1=True)
    alias: Mapped[Secret]
    plain: Mapped[str | None] = mapped_column(info={"datalayer": {"omit_l1": True}})


class FixedClock:
    def monotonic(self) -> float:
        return 0.0

    def now(self) -> datetime:
        return AT


@pytest.fixture
def engine():
    engine = create_engine("sqlite://")
    Account.__table__.create(engine)
    yield engine
    engine.dispose()


def ddl(name: str, dialect: Any) -> str:
    return str(CreateColumn(Account.__table__.c[name]).compile(dialect=dialect))


def mapped(**columns: Any) -> Any:
    """A class on a base of its own, checked."""

    class Base(DeclarativeBase):
        metadata = MetaData()

    attributes = {"__tablename__": "things", "id": mapped_column(Integer, primary_key=True), **columns}
    return inspect(type("Thing", (Base,), attributes))


@pytest.mark.parametrize(
    ("name", "on_postgresql", "on_sqlite"),
    [
        ("name", "DEFAULT 'it''s 50%%'", "DEFAULT 'it''s 50%'"),
        ("level", "DEFAULT 1", "DEFAULT 1"),
        ("ratio", "DEFAULT 1.5", "DEFAULT (1.5)"),
        ("active", "DEFAULT true", "DEFAULT 1"),
        ("since", "DEFAULT '2026-01-01 12:30:00+00:00'", "DEFAULT '2026-01-01 12:30:00.000000'"),
        ("day", "DEFAULT '2026-01-01'", "DEFAULT '2026-01-01'"),
        ("token", "DEFAULT '00000000-0000-0000-0000-000000000007'", "DEFAULT '00000000000000000000000000000007'"),
        ("data", """DEFAULT '{"a": [1]}'""", """DEFAULT '{"a": [1]}'"""),
        ("colour", "DEFAULT 'RED'", "DEFAULT 'RED'"),
        ("drawn", "DEFAULT abs(-3)", "DEFAULT (abs(-3))"),
        ("parent", "DEFAULT 1", "DEFAULT 1"),
        ("alias", "DEFAULT '50%%''s'", "DEFAULT '50%''s'"),
    ],
)
def test_a_plain_default_is_written_in_each_dialects_own_sql(name: str, on_postgresql: str, on_sqlite: str):
    assert on_postgresql in ddl(name, postgresql.psycopg.dialect())
    assert on_sqlite in ddl(name, sqlite.dialect())


@pytest.mark.parametrize("name", ["raw", "wait", "called", "note", "created_at"])
def test_defaults_without_a_common_literal_are_python_defaults_only(name: str):
    assert "DEFAULT" not in ddl(name, postgresql.dialect())


def test_python_and_sql_defaults_give_the_same_row(engine: Any):
    with Session(engine) as session:
        first = Account()
        session.add(first)
        session.commit()
        session.execute(
            text(
                "INSERT INTO col_accounts (id, name, raw, wait, called, created_at, updated_at) "
                "SELECT 2, 'other', raw, wait, called, created_at, updated_at FROM col_accounts"
            )
        )
        second = session.get_one(Account, 2)
        names = [name for name in Account.__table__.columns.keys() if name not in ("id", "name")]  # noqa: SIM118
        assert [getattr(first, name) for name in names] == [getattr(second, name) for name in names]
        assert (first.name, first.password, first.both, first.drawn) == ("it's 50%", "", "50%'s", 3)


def test_a_mutable_default_is_copied_for_each_row(engine: Any):
    with Session(engine) as session:
        one, two = Account(name="1"), Account(name="2")
        session.add_all([one, two])
        session.flush()
        one.data["a"].append(2)
        assert two.data == {"a": [1]}


def test_a_sequence_and_an_explicit_server_default_are_left_as_they_are():
    thing = mapped(
        number=column(Integer, default=Sequence("numbers")),
        words=column(Text, default="x", server_default=text("'y'")),
    )
    assert thing.columns.number.default.name == "numbers"
    assert str(thing.columns.words.server_default.arg) == "'y'"
    assert thing.columns.words.default.arg == "x"


def test_automatic_times_are_known_without_a_select_and_only_auto_now_moves(engine: Any):
    with Session(engine, expire_on_commit=False) as session:
        account = Account()
        session.add(account)
        session.commit()
        created, updated = account.created_at, account.updated_at
        assert created.tzinfo is UTC
        account.level = 2
        session.commit()
        assert account.created_at == created
        assert account.updated_at > updated
        before = account.updated_at
        session.execute(update(Account).values(level=3))
        session.refresh(account)
        assert account.updated_at > before
        assert account.created_at == created


def test_automatic_times_ask_the_clock_of_the_connection(engine: Any):
    with Session(engine.execution_options(**{CLOCK_OPTION: FixedClock()})) as session:
        account = Account()
        session.add(account)
        session.commit()
        assert (account.created_at, account.updated_at) == (AT, AT)


def test_automatic_times_are_utc_timestamps_on_any_base_unless_a_type_is_given():
    thing = mapped(made=column(auto_now_add=True), seen=column(DateTime(), auto_now=True))
    assert isinstance(thing.columns.made.type, UTCDateTime)
    assert not isinstance(thing.columns.seen.type, UTCDateTime)


def test_flags_are_read_back_from_column_and_from_plain_mapped_column():
    columns = Account.__table__.c
    assert column_flags(columns.password) == ColumnFlags(omit_cache=True)
    assert column_flags(columns.plain) == ColumnFlags(omit_l1=True)
    assert column_flags(columns.updated_at) == ColumnFlags(auto_now=True)
    assert column_flags(columns.level) == ColumnFlags()


def test_flags_of_an_annotated_alias_and_of_the_attribute_are_joined():
    assert column_flags(Account.__table__.c.alias) == ColumnFlags(omit_cache=True)
    assert column_flags(Account.__table__.c.both) == ColumnFlags(omit_cache=True, omit_l1=True)


def test_omit_cache_columns_are_deferred():
    attributes = inspect(Account).attrs
    assert [attributes[name].deferred for name in ("password", "alias", "both", "local")] == [True, True, True, False]


def test_options_of_mapped_column_are_passed_through_and_info_is_kept():
    columns = Account.__table__.c
    assert (columns.name.unique, columns.level.index, columns.name.comment) == (True, True, "shown")
    options: dict[str, Any] = {"nullable": False, "info": {"form": "x"}, "sqlite_on_conflict_unique": None}
    thing = mapped(code=column("c", CHAR(2), omit_l1=True, **options))
    assert thing.columns.code.name == "c"
    assert thing.columns.code.info == {"form": "x", "datalayer": {"omit_l1": True}}
    assert not thing.columns.code.nullable


def test_columns_of_a_mixin_keep_flags_and_defaults():
    class Scored:
        score: Mapped[int] = column(default=3, omit_cache=True)

    class Base(DeclarativeBase):
        pass

    class First(Scored, Base):
        __tablename__ = "first"
        id: Mapped[int] = column(primary_key=True)

    class Second(Scored, Base):
        __tablename__ = "second"
        id: Mapped[int] = column(primary_key=True)

    for cls in (First, Second):
        assert column_flags(cls.__table__.c.score).omit_cache
        assert "DEFAULT 3" in str(CreateColumn(cls.__table__.c.score).compile(dialect=sqlite.dialect()))
    copied = Second.__table__.to_metadata(MetaData())
    assert "DEFAULT 3" in str(CreateColumn(copied.c.score).compile(dialect=sqlite.dialect()))


def test_columns_of_a_mapped_dataclass_keep_defaults_and_automatic_times():
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    class Point(Base):
        __tablename__ = "points"
        id: Mapped[int] = column(primary_key=True)
        x: Mapped[int] = column(default=4)
        made: Mapped[datetime] = column(auto_now_add=True, init=False)

    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Point(1))
        session.commit()
        found = session.get_one(Point, 1)
        assert (found.x, found.made.tzinfo) == (4, UTC)
    engine.dispose()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"omit_cahce": True}, "did you mean 'omit_cache'"),
        ({"auto_now": True, "auto_now_add": True}, "contradict"),
        ({"auto_now": True, "default": 1}, "remove default"),
        ({"auto_now_add": True, "insert_default": 1}, "remove insert_default"),
        ({"encrypted": True, "auto_now": True}, "only strings"),
        ({"encrypted": True, "default": "x"}, "cannot have a default"),
    ],
)
def test_unknown_and_contradictory_options_are_refused_at_once(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        column(**options)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"omit_chache": True}, "did you mean 'omit_cache'"),
        ({"omit_cache": "yes"}, "expected True or False"),
        (["omit_cache"], "expected a dict"),
        ({"auto_now": True, "auto_now_add": True}, "contradict"),
        ({"auto_now": True}, "need a datetime column"),
    ],
)
def test_wrong_flags_on_a_plain_column_are_refused_when_checked(info: Any, message: str):
    thing = mapped(code=mapped_column(Text, info={"datalayer": info}))
    with pytest.raises(ConfigError, match=r"things\.code.*" + message):
        check_columns(thing)


@pytest.mark.parametrize("flag", ["omit_cache", "omit_l1"])
def test_the_caches_need_keys_version_and_discriminator(flag: str):
    for role, options in (
        ("primary key", {"id": column(Integer, primary_key=True, **{flag: True})}),
        ("version", {"v": (v := column(Integer, **{flag: True})), "__mapper_args__": {"version_id_col": v}}),
        ("discriminator", {"k": (k := column(Text, **{flag: True})), "__mapper_args__": {"polymorphic_on": k}}),
    ):
        with pytest.raises(ConfigError, match=f"{flag} cannot be used on .*{role}"):
            check_columns(mapped(**options))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: column(Integer, encrypted=True), "hold strings"),
        (lambda: column(json_type(), encrypted=True), "hold strings"),
        (lambda: column(Text, encrypted=True, unique=True), "code_bidx"),
        (lambda: column(Text, encrypted=True, index=True), "code_bidx"),
        (lambda: mapped_column(Text, server_default="x", info={"datalayer": {"encrypted": True}}), "SQL default"),
        (lambda: column(Text, encrypted=True), "no key is configured"),
    ],
)
def test_encrypted_columns_are_refused_with_the_reason(made: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        check_columns(mapped(code=made()))


def test_encrypted_text_is_accepted_when_readable_storage_is_allowed():
    check_columns(mapped(code=column(Text, encrypted=True)), allow_plaintext=True)


def test_a_loose_column_can_be_asked_too():
    assert column_flags(Column("x", Integer, info={"datalayer": {"omit_l1": True}})).omit_l1
    with pytest.raises(ConfigError, match="column x: "):
        column_flags(Column("x", Integer, info={"datalayer": {"nope": True}}))
