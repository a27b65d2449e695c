"""Rows come back exactly as they were, from both codecs; whatever else is decoded is refused, by one exception."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import math
import zlib
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datalayer.codecs.compressed import CompressedCodec
from datalayer.codecs.registry import codec_named
from datalayer.codecs.row import adapt, compile_row
from datalayer.contracts.codec import Field
from datalayer.errors import ConfigError, DecodeError, EncodeError


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Loud(str):
    """A subclass would come back as its base."""


zones = st.one_of(
    st.none(),
    st.just(dt.UTC),
    st.integers(-86399, 86399).map(lambda s: dt.timezone(dt.timedelta(seconds=s))),
    st.sampled_from(["Europe/Lisbon", "Asia/Kathmandu", "UTC"]).map(ZoneInfo),
)
text = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=8,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.one_of(st.integers(), st.integers(-(2**64), 2**64)),
    "str": text,
    "float": st.floats(),
    "bool": st.booleans(),
    "bytes": st.binary(),
    "datetime": st.builds(lambda d, z, f: d.replace(tzinfo=z, fold=f), st.datetimes(), zones, st.integers(0, 1)),
    "date": st.dates(),
    "time": st.builds(lambda t, f: t.replace(fold=f), st.times(), st.integers(0, 1)),
    "timedelta": st.timedeltas(),
    "decimal": st.decimals(),
    "uuid": st.uuids(),
    "enum": st.sampled_from(Colour),
    "json": json_values,
}
VALUES["any"] = st.one_of(
    *(VALUES[kind] for kind in VALUES if kind != "enum"), st.tuples(text, st.dates()), st.frozensets(st.integers())
)
KINDS = sorted(VALUES)
CODECS = ["msgpack", "json", CompressedCodec(codec_named("msgpack"))]


def field(kind: str, *, name: str = "x", nullable: bool = True) -> Field:
    return Field(name, kind, nullable, Colour if kind == "enum" else None)


def same(left: Any, right: Any) -> bool:
    """Equal in value, type, zone and fold; NaN is itself."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return (math.isnan(left) and math.isnan(right)) or repr(left) == repr(right)
    if isinstance(left, decimal.Decimal):
        return left.as_tuple() == right.as_tuple()
    if isinstance(left, dt.datetime | dt.time):
        return repr(left) == repr(right)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


@pytest.mark.parametrize("codec", CODECS, ids=["msgpack", "json", "deflate"])
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_value_of_every_kind_comes_back_exactly(codec: Any, kind: str, data: st.DataObject) -> None:
    row = compile_row([field(kind), field(kind, name="y")], codec_named(codec))
    value = data.draw(VALUES[kind])
    back = row.decode(row.encode((value, None)))
    assert same(back, (value, None))


@given(kind=st.sampled_from(KINDS), other=st.sampled_from(KINDS), data=st.data())
def test_a_value_of_another_kind_than_declared_comes_back_exactly_too(
    kind: str, other: str, data: st.DataObject
) -> None:
    row = compile_row([field(kind)], codec_named("msgpack"))
    value = data.draw(VALUES[other].filter(lambda v: not isinstance(v, Colour)))
    if kind == "enum" and type(value) is str:
        return  # a name of a member and the member itself are one text: refused or decoded as the member
    assert same(row.decode(row.encode((value,))), (value,))


@pytest.mark.parametrize("value", [Loud("x"), object(), "\ud800", enum.IntEnum("N", "A").A, bytearray(b"x"), {1, 2}])
def test_what_cannot_be_exact_is_refused_by_column_and_type_and_never_by_value(value: Any) -> None:
    row = compile_row([field("any", name="fine"), field("any", name="broken")], codec_named("msgpack"))
    with pytest.raises(EncodeError, match=rf"column broken of type '{type(value).__name__}'"):
        row.encode((1, value))
    assert row.decode(row.encode((1, 2))) == (1, 2)


def test_none_where_the_model_has_none_is_refused_both_ways() -> None:
    strict, loose = (compile_row([field("int", nullable=n)], codec_named("msgpack")) for n in (False, True))
    with pytest.raises(EncodeError, match="None"):
        strict.encode((None,))
    with pytest.raises(DecodeError):
        strict.decode(loose.encode((None,)))


@pytest.mark.parametrize("codec", CODECS, ids=["msgpack", "json", "deflate"])
@given(data=st.data())
def test_hostile_bytes_are_a_decode_error_and_nothing_else(codec: Any, data: st.DataObject) -> None:
    row = compile_row([field(kind, name=kind) for kind in KINDS], codec_named(codec))
    good = row.encode(tuple(data.draw(VALUES[kind]) for kind in KINDS))
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = bytes([*good[:at], good[at] ^ data.draw(st.integers(1, 255)), *good[at + 1 :]])
    for bad in (data.draw(st.binary(max_size=60)), flipped, good[:at], good + b"\x00"):
        try:
            decoded = row.decode(bad)
        except DecodeError:
            continue
        assert len(decoded) == len(KINDS)


@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xdd\x7f\xff\xff\xff")
@example(b"\xc9\x7f\xff\xff\xff\x01")
@example(b"\x91" * 5000)
@given(st.binary(max_size=200))
def test_lengths_that_lie_cost_nothing(data: bytes) -> None:
    row = compile_row([field("any")], codec_named("msgpack"))
    try:
        row.decode(data)
    except DecodeError:
        return


def test_another_release_reads_a_row_that_has_every_field_it_wants() -> None:
    codec = codec_named("msgpack")
    old = compile_row([field("int", name="id"), field("str", name="gone"), field("enum", name="colour")], codec)
    body = old.encode((1, "x", Colour.BLUE))
    wants = compile_row([field("enum", name="colour"), field("int", name="id")], codec)
    assert wants.fingerprint != old.fingerprint
    assert adapt(old.shape, body, wants) == (Colour.BLUE, 1)
    for fields in (
        [field("int", name="id"), field("str", name="new")],
        [field("str", name="id")],
        [field("int", name="id"), field("str", name="gone", nullable=False), field("any", name="colour")],
    ):
        assert adapt(old.shape, body, compile_row(fields, codec)) is None
    assert adapt(b"\xff", body, wants) is None
    assert adapt(old.shape, b"\xff", wants) is None


def test_the_fingerprint_tells_shapes_apart() -> None:
    codec = codec_named("msgpack")
    shapes = [
        [field("int", name="a"), field("str", name="b")],
        [field("str", name="b"), field("int", name="a")],
        [field("int", name="a"), field("str", name="b", nullable=False)],
        [field("int", name="a"), field("any", name="b")],
        [field("int", name="a")],
    ]
    prints = {compile_row(shape, codec).fingerprint for shape in shapes}
    prints.add(compile_row(shapes[0], codec_named("json")).fingerprint)
    assert len(prints) == 6
    assert compile_row(shapes[0], codec).fingerprint in prints


def test_a_decompression_bomb_is_refused_before_it_goes_off() -> None:
    codec = CompressedCodec(codec_named("msgpack"), max_bytes=10_000)
    bomb = zlib.compress(b"\x00" * 50_000_000)
    with pytest.raises(DecodeError, match="too large"):
        codec.decode(bomb)
    with pytest.raises(DecodeError):
        codec.decode(codec.encode([1]) + b"x")
    with pytest.raises(DecodeError):
        codec.decode(codec.encode([1])[:-1])


def test_an_unknown_codec_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'msgpac'.*did you mean 'msgpack'"):
        codec_named("msgpac")
    with pytest.raises(ConfigError, match="int"):
        codec_named(3)


@pytest.mark.parametrize("vector", json.loads((Path(__file__).parents[1] / "formats" / "row_v1.json").read_text()))
def test_bytes_of_rows_are_frozen(vector: dict[str, str]) -> None:
    kinds = {"id": "int", "name": "str", "at": "datetime", "price": "decimal", "tree": "json"}
    fields = [field(kind, name=name, nullable=name != "id") for name, kind in kinds.items()]
    row = compile_row(fields, codec_named(vector["codec"]))
    at = dt.datetime(2024, 5, 17, 12, 34, 56, 123456, tzinfo=dt.UTC)
    values = (7, "é", at, decimal.Decimal("1.50"), {"a": [1, None]})
    assert row.fingerprint.hex() == vector["fingerprint"]
    assert row.shape.hex() == vector["shape"]
    assert row.decode(bytes.fromhex(vector["body"])) == values
    assert row.encode(values).hex() == vector["body"]
