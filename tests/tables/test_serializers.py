"""What goes into a table comes out of it: equal, of the same type, and never as something else."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from typing import Annotated, Any, NamedTuple, NewType
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
import msgspec
import pydantic
import pytest
import sqlalchemy as sa
from hypothesis import given
from sqlalchemy.orm import Mapped, Session, deferred, mapped_column

from datalayer import Model
from datalayer.codecs.registry import codec_named
from datalayer.errors import ConfigError, DecodeError, EncodeError
from datalayer.tables import MemoryProvider, Tables, register_serializer
from datalayer.tables.serializers import serializer_for


class Color(enum.Enum):
    RED = 1
    BLUE = "b"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


Name = NewType("Name", str)


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    street: str
    tags: set[str] = dataclasses.field(default_factory=set)
    color: Color | None = None


@dataclasses.dataclass
class User:
    id: int
    name: Name
    home: Address | None
    others: list[Address]
    named: dict[str, Address]
    colored: dict[Color, Address]
    rights: Rights
    seen: dt.datetime
    place: tuple[int, Address]
    friends: list[User]
    price: Annotated[decimal.Decimal, "money"] = decimal.Decimal("1.10")
    extra: Any = None
    size: int = dataclasses.field(init=False, default=7)


class Point(NamedTuple):
    x: int
    y: Address


class Struct(msgspec.Struct, frozen=True):
    a: int
    b: tuple[Address, ...] = ()


class Validated(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", validate_assignment=True)
    a: int
    b: Address
    c: dict[Color, Address] = {}
    d: list[Validated] = []
    _secret: int = pydantic.PrivateAttr(default=3)


class Base(Model):
    __abstract__ = True


class Player(Base):
    __tablename__ = "tables_players"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    color: Mapped[Color | None]
    born: Mapped[dt.datetime | None]
    score: Mapped[decimal.Decimal | None] = mapped_column(sa.Numeric(10, 2))
    data: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON)
    story: Mapped[str | None] = deferred(mapped_column(sa.Text))


HERE = Address("street", {"x"}, Color.BLUE)  # one tag: the order of more would differ from repr to repr


def user(**changes: Any) -> User:
    fields: dict[str, Any] = {
        "id": 2**70,
        "name": Name("ann"),
        "home": HERE,
        "others": [HERE, Address("b")],
        "named": {"k": HERE},
        "colored": {Color.RED: HERE},
        "rights": Rights.READ | Rights.WRITE,
        "seen": dt.datetime(2026, 3, 29, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        "place": (1, HERE),
        "friends": [],
    }
    return User(**{**fields, **changes})


def model() -> Validated:
    made = Validated(a=1, b=HERE, c={Color.RED: HERE}, d=[Validated(a=2, b=HERE)], unknown=[1])
    made._secret = 44
    return made


VALUES: list[tuple[Any, Any]] = [
    (bytes, bytes(range(256))),
    (str, "ä\x00\U0001f600"),
    (int, -(2**200)),
    (bool, True),
    (float, -0.0),
    (decimal.Decimal, decimal.Decimal("1.10")),
    (uuid.UUID, uuid.UUID(int=5)),
    (dt.timedelta, dt.timedelta(days=-1, microseconds=3)),
    (dict, {"a": [1, (2, b"x")], 3: None}),
    (list[User], [user()]),
    (dict[str, Address], {"a": HERE}),
    (set[int], {1, 2}),
    (Color, Color.BLUE),
    (Rights, Rights.WRITE),
    (User, user()),
    (User, user(home=None, friends=[user(id=1)], extra={"any": dt.date(2026, 1, 1)})),
    (Address, HERE),
    (Point, Point(1, HERE)),
    (Struct, Struct(1, (HERE,))),
    (Validated, model()),
    (int | Address, HERE),  # type: ignore[list-item]
]


@pytest.mark.parametrize("codec", ["msgpack", "json"])
@pytest.mark.parametrize(("of", "value"), VALUES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_value_comes_back_equal_and_of_its_type(codec: str, of: Any, value: Any) -> None:
    serializer = serializer_for(of, codec_named(codec))
    found = serializer.load(serializer.dump(value))
    assert found == value
    assert type(found) is type(value)
    assert repr(found) == repr(value)


def test_fields_that_the_constructor_does_not_take_come_back_too() -> None:
    changed = user()
    changed.size = 99
    serializer = serializer_for(User, codec_named("msgpack"))
    assert serializer.load(serializer.dump(changed)).size == 99


@given(
    st.builds(
        Address,
        street=st.text(),
        tags=st.sets(st.text()),
        color=st.sampled_from([None, *Color]),
    )
)
def test_any_record_comes_back(value: Address) -> None:
    for codec in ("msgpack", "json"):
        serializer = serializer_for(Address, codec_named(codec))
        try:
            data = serializer.dump(value)
        except EncodeError:
            assert any("\ud800" <= char <= "\udfff" for text in (value.street, *value.tags) for char in text)
        else:
            assert serializer.load(data) == value


# -- what is refused -------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Child(User):
    more: int = 0


class Odd:
    """A class that nobody knows."""


@dataclasses.dataclass
class Holder:
    odd: Any


@pytest.mark.parametrize(
    ("of", "value"),
    [
        (bytes, "text"),
        (bytes, bytearray(b"x")),
        (str, b"bytes"),
        (int, True),
        (int, "1"),
        (User, {"id": 1}),
        (User, Child(**{f.name: getattr(user(), f.name) for f in dataclasses.fields(User) if f.init})),
        (User, user(others=(HERE,))),
        (User, user(seen=Odd())),
        (Holder, Holder(Odd())),
        (Holder, Holder(HERE)),
        (Holder, Holder(Color.RED)),
        (list[Address], [HERE, None]),
        (Color, 1),
        (Player, HERE),
    ],
)
def test_what_would_come_back_as_something_else_is_refused(of: Any, value: Any) -> None:
    with Tables(MemoryProvider()) as tables:
        table = tables.table("t", of)
        with pytest.raises(EncodeError, match="table t, key 'k'"):
            table.set("k", value)
        assert not table.exists("k")


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\xc1", b"[]", b"\x91\x80", b"\x91\x81\xa1z\x01", b"null", b"\x80\x04N."]
)
@pytest.mark.parametrize("of", [User, Point, Struct, Validated, Player, int, Color, list[Address]])
def test_bytes_of_something_else_are_a_decode_error_with_table_and_key(of: Any, data: bytes) -> None:
    provider = MemoryProvider()
    provider.set("t:k", data)
    with Tables(provider) as tables, pytest.raises(DecodeError, match="table t, key 'k'"):
        tables.table("t", of).get("k")


def test_a_class_that_nobody_knows_is_refused_when_its_table_is_made() -> None:
    with Tables() as tables, pytest.raises(ConfigError, match=r"register_serializer\(Odd"):
        tables.table("odd", Odd)


def test_hints_that_cannot_be_read_are_refused_when_the_table_is_made() -> None:
    @dataclasses.dataclass
    class Broken:
        a: Nowhere  # type: ignore[name-defined]  # noqa: F821

    with Tables() as tables, pytest.raises(ConfigError, match="Nowhere"):
        tables.table("broken", Broken)


def test_a_registered_serializer_is_used_for_its_type() -> None:
    class OddSerializer:
        def dump(self, value: Odd) -> bytes:
            return b"odd"

        def load(self, data: bytes) -> Odd:
            assert data == b"odd"
            return Odd()

    register_serializer(Odd, OddSerializer())
    try:
        with Tables(MemoryProvider()) as tables:
            table = tables.table("odd", Odd)
            table.set("k", Odd())
            assert type(table.get("k")) is Odd
            with tables.provider() as provider:
                provider.set("odd:k", b"else")
            with pytest.raises(DecodeError, match="AssertionError"):
                table.get("k")
    finally:
        from datalayer.tables import serializers

        del serializers._registered[Odd]
    with pytest.raises(ConfigError, match="dump and load"):
        register_serializer(Odd, object())  # type: ignore[arg-type]


# -- other releases --------------------------------------------------------------------------------------------------


def test_a_field_that_is_new_gets_its_default_and_one_that_is_gone_is_left_out() -> None:
    old = dataclasses.make_dataclass("Rec", [("a", int), ("gone", int)])
    new = dataclasses.make_dataclass("Rec", [("a", int), ("new", int, 5)])
    strict = dataclasses.make_dataclass("Rec", [("a", int), ("needed", int)])
    codec = codec_named("msgpack")
    data = serializer_for(old, codec).dump(old(1, 2))
    assert serializer_for(new, codec).load(data) == new(1, 5)
    with pytest.raises(DecodeError, match="needed"):
        serializer_for(strict, codec).load(data)


def test_the_bytes_of_today_are_read_tomorrow() -> None:
    value = Address("s", {"x"}, Color.RED)
    json = serializer_for(Address, codec_named("json"))
    assert json.dump(value) == b'[{"street":"s","tags":["x"],"color":[0,"RED"]}]'
    packed = bytes.fromhex("9183a6737472656574a173a47461677391a178a5636f6c6f729200a3524544")
    assert serializer_for(Address, codec_named("msgpack")).dump(value) == packed
    assert serializer_for(Address, codec_named("msgpack")).load(packed) == value


# -- mapped classes --------------------------------------------------------------------------------------------------


def player(**changes: Any) -> Player:
    fields = {"id": 1, "name": "ann", "color": Color.RED, "score": decimal.Decimal("1.10"), "data": {"a": [1]}}
    return Player(**{**fields, **changes})


def columns(value: Player) -> dict[str, Any]:
    return {key: item for key, item in vars(value).items() if not key.startswith("_sa_")}


def test_an_instance_that_no_database_has_comes_back_transient() -> None:
    serializer = serializer_for(Player, codec_named("msgpack"))
    made = player()
    found = serializer.load(serializer.dump(made))
    assert sa.inspect(found).transient
    assert columns(found) == columns(made)
    assert found.score is not None
    assert str(found.score) == "1.10"


def test_an_instance_of_a_session_comes_back_detached_and_can_be_merged_without_a_statement() -> None:
    engine = sa.create_engine("sqlite://")
    Player.metadata.create_all(engine, tables=[Player.__table__])  # type: ignore[list-item]
    serializer = serializer_for(Player, codec_named("msgpack"))
    with Session(engine) as session:
        session.add(player(story="long"))
        session.commit()  # which expires all columns
        data = serializer.dump(session.get(Player, 1))
    found = serializer.load(data)
    assert sa.inspect(found).detached
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    with Session(engine) as session:
        merged = session.merge(found, load=False)
        assert (merged.name, merged.color, merged.data) == ("ann", Color.RED, {"a": [1]})
        assert statements == []
        assert merged.story == "long"
        assert len(statements) == 1, "only what was never loaded costs a statement"
    engine.dispose()


def test_an_expired_instance_without_a_session_is_refused() -> None:
    engine = sa.create_engine("sqlite://")
    Player.metadata.create_all(engine, tables=[Player.__table__])  # type: ignore[list-item]
    with Session(engine) as session:
        made = player()
        session.add(made)
        session.commit()
        session.expunge(made)
    with pytest.raises(EncodeError, match="expired"):
        serializer_for(Player, codec_named("msgpack")).dump(made)
    engine.dispose()
