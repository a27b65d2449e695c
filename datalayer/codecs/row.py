"""A row of one shape as bytes, by functions that are generated for the shape.

Values that MessagePack carries exactly go as they are, after a look at their type: a column that is declared an integer
may well yield a Decimal. Such a value, and every value of a richer type, travels in an extension that says what it is.
A row also says what shape it has, so that another release can read it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

import msgpack

from ..contracts.cipher import RowSealing
from ..contracts.codec import Codec, Field
from ..errors import DecodeError, EncodeError
from . import exact
from .msgpack import MsgpackCodec

_ODD = 64

_NATIVE = {"int": int, "str": str, "float": float, "bool": bool, "bytes": bytes, "sealed": str}
_KINDS = frozenset((*_NATIVE, "datetime", "date", "time", "timedelta", "decimal", "uuid", "enum", "json", "any"))


class _Odd:
    """A decoded value that was not of its column's plain type when it was encoded."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Row:
    """The compiled codec of one shape; see :class:`datalayer.contracts.codec.RowCodec`. Thread-safe."""

    def __init__(self, fields: Sequence[Field], codec: Codec, sealing: RowSealing | None = None) -> None:
        # Another kind is another fingerprint and shape: ciphertext is never taken for a value, nor a value for it.
        sealed = sealing.positions if sealing is not None else frozenset()
        self.fields = tuple(replace(f, kind="sealed") if i in sealed else f for i, f in enumerate(fields))
        self.codec = codec
        self.shape: bytes = msgpack.packb([[f.name, f.kind, f.nullable] for f in self.fields])
        self.fingerprint = _fingerprint(self.fields, codec)
        if isinstance(codec, MsgpackCodec):
            self.encode, self.decode = _compiled(self.fields)
        else:
            self.encode, self.decode = _generic(self.fields, codec)
        self.open: Callable[[tuple[Any, ...]], tuple[Any, ...]] = _as_it_is
        if sealing is not None:
            self.open = sealing.open
            self.encode, self.decode = _sealed(self.encode, self.decode, sealing)


def compile_row(fields: Sequence[Field], codec: Codec, sealing: RowSealing | None = None) -> Row:
    """The codec of rows with these fields; what ``sealing`` encrypts is ciphertext in the bytes."""
    return Row(fields, codec, sealing)


def _as_it_is(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return row


def _sealed(
    encode: Callable[[Any], bytes], decode: Callable[[Any], tuple[Any, ...]], sealing: RowSealing
) -> tuple[Callable[[Any], bytes], Callable[[Any], tuple[Any, ...]]]:
    return lambda row: encode(sealing.seal(row)), lambda body: sealing.open(decode(body))


def _fingerprint(fields: Sequence[Field], codec: Codec) -> bytes:
    parts = [codec.name]
    for field in fields:
        members = list(field.python_type.__members__) if field.kind == "enum" else []
        parts.append(repr((field.name, field.kind, field.nullable, members)))
    return hashlib.blake2b("\n".join(parts).encode("utf-8", "backslashreplace"), digest_size=8).digest()


def adapt(shape: bytes, body: bytes | memoryview, target: Row) -> tuple[Any, ...] | None:
    """A row of another release's shape, if it has every field of the target with the right kind; else None."""
    try:
        fields = [
            Field(name, "str" if kind == "enum" else kind, nullable) for name, kind, nullable in exact.unpack(shape)
        ]
        kinds = {name: kind for name, kind, _ in exact.unpack(shape)}
        if any(kinds.get(field.name) != field.kind for field in target.fields) or not set(kinds.values()) <= _KINDS:
            return None
        values = dict(zip(kinds, compile_row(fields, target.codec).decode(body), strict=True))
        return target.open(tuple(_fit(field, values[field.name]) for field in target.fields))
    except (DecodeError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _fit(field: Field, value: Any) -> Any:
    if value is None and not field.nullable:
        raise ValueError(field.name)
    return field.python_type[value] if field.kind == "enum" and isinstance(value, str) else value


# -- MessagePack -----------------------------------------------------------------------------------------------------


class _Packers(threading.local):
    def __init__(self) -> None:
        # datetime=True packs aware datetimes in C; only those in UTC are let through to it.
        self.pack = msgpack.Packer(default=_odd_one, strict_types=True, use_bin_type=True, datetime=True).pack


def _odd_one(value: Any) -> Any:
    if type(value) in (int, _Odd):
        return msgpack.ExtType(_ODD, exact.pack(value.value if type(value) is _Odd else value))
    raise EncodeError(f"a value of type {type(value).__name__!r} cannot be encoded exactly")


def _restore(code: int, data: bytes) -> Any:
    if code != _ODD:
        raise ValueError("unknown extension type")
    return _Odd(exact.unpack(data))


def _compiled(fields: tuple[Field, ...]) -> tuple[Callable[[Any], bytes], Callable[[Any], tuple[Any, ...]]]:
    names = [f"v{i}" for i in range(len(fields))]
    row = ", ".join(names) + ","
    out = "".join(f"    {_encoding(field, name)}\n" for field, name in zip(fields, names, strict=True))
    back = "".join(f"    {_decoding(field, name)}\n" for field, name in zip(fields, names, strict=True))
    source = f"def encode(row):\n    ({row}) = row\n{out}    return pack(({row}))\n"
    source += (
        "def decode(body):\n    try:\n        values = unpackb(body, ext_hook=restore, timestamp=3)\n"
        f"        if type(values) is not list: raise wrong()\n        ({row}) = values\n"
        + "".join(f"    {line}\n" for line in back.splitlines())
        + f"        return ({row})\n    except Exception as error: raise failed(error) from None\n"
    )
    # No length in a body is believed beyond the size of the body: that is unpackb's default for every limit.
    namespace: dict[str, Any] = {"datetime": dt.datetime, "utc": dt.UTC, "Odd": _Odd, "unpackb": msgpack.unpackb}
    namespace |= {"zones": _zones, "zoned": _in_zone, "restore": _restore, "wrong": _wrong, "failed": _undecodable}
    namespace |= {f"e{i}": field.python_type for i, field in enumerate(fields)}
    namespace |= {f"odd{i}": _odd(field) for i, field in enumerate(fields)}
    namespace |= {f"even{i}": _even(field) for i, field in enumerate(fields)}
    local = _Packers()
    namespace["pack"] = lambda values: local.pack([*values])
    exec(compile(source, "<datalayer row codec>", "exec"), namespace)
    return _encoder(namespace["encode"], fields), namespace["decode"]


def _plain_test(field: Field, name: str) -> str:
    """The condition under which a value is not of its column's plain type."""
    if field.kind in _NATIVE:
        test = f"type({name}) is not {_NATIVE[field.kind].__name__}"
    elif field.kind == "datetime":
        test = f"(type({name}) is not datetime or {name}.tzinfo is not utc or {name}.fold)"
    else:
        test = "True"
    return f"{name} is not None and {test}" if field.nullable else test


def _encoding(field: Field, name: str) -> str:
    i = name[1:]
    if field.kind == "enum":
        test = f"{name} is not None" if field.nullable else "True"
        return f"if {test}: {name} = {name}.name if type({name}) is e{i} else odd{i}({name})"
    return f"if {_plain_test(field, name)}: {name} = odd{i}({name})"


def _decoding(field: Field, name: str) -> str:
    i = name[1:]
    if field.kind == "datetime":  # most drivers return moments in a named zone: the shortest way for those
        known = "z is not None and type(m) is datetime and m.tzinfo is utc"
        return (
            f"if type({name}) is list:\n        m, k = {name}\n        z = zones.get(k)\n"
            f"        {name} = m.astimezone(z) if {known} else zoned(m, k)\n"
            f"    elif {_plain_test(field, name)}: {name} = even{i}({name})"
        )
    return f"if {_plain_test(field, name)}: {name} = even{i}({name})"


def _zoned(value: Any) -> list[Any] | None:
    """A moment in a named zone as the moment and the name, which is what drivers return for most server settings."""
    zone = getattr(value, "tzinfo", None)
    if type(value) is not dt.datetime or type(zone) is not ZoneInfo or zone.key is None:
        return None
    moment = value.astimezone(dt.UTC)
    back = moment.astimezone(zone)  # a local time that the zone skips has no moment of its own
    exact_back = back.fold == value.fold and back.replace(tzinfo=None) == value.replace(tzinfo=None)
    return [moment, zone.key] if exact_back else None


def _in_zone(moment: Any, key: Any) -> Any:
    if type(moment) is not dt.datetime or moment.tzinfo is not dt.UTC:
        raise DecodeError("a moment in a zone is not one")
    zone = _zones.get(key)
    if zone is None:
        zone = _zones[key] = ZoneInfo(key)
    return moment.astimezone(zone)


_zones: dict[str, ZoneInfo] = {}


def _odd(field: Field) -> Callable[[Any], Any]:
    def odd(value: Any) -> Any:
        if value is None:
            raise EncodeError(f"column {field.name} is None, but its model says that it never is")
        if isinstance(value, bytearray | memoryview):  # MessagePack would take them for bytes
            raise EncodeError(f"column {field.name} of type {type(value).__name__!r} cannot be encoded exactly")
        return (_zoned(value) or _Odd(value)) if zoned else _Odd(value)

    zoned = field.kind == "datetime"
    return odd


def _even(field: Field) -> Callable[[Any], Any]:
    def even(value: Any) -> Any:
        if type(value) is _Odd:
            return value.value
        if field.kind == "enum" and type(value) is str:
            try:
                return field.python_type[value]
            except KeyError:
                raise DecodeError(f"column {field.name} names no member of its enum") from None
        raise DecodeError(f"column {field.name} does not hold {field.kind}")

    return even


def _encoder(convert: Callable[[Any], bytes], fields: tuple[Field, ...]) -> Callable[[Any], bytes]:
    def encode(row: Sequence[Any]) -> bytes:
        try:
            return convert(row)
        except (EncodeError, ValueError, TypeError, OverflowError, RecursionError) as error:
            if str(error).startswith("column "):
                raise
            raise EncodeError(f"{_culprit(fields, row)} cannot be encoded exactly") from error

    return encode


def _culprit(fields: Sequence[Field], row: Sequence[Any]) -> str:
    """Names the column that cannot be encoded, and its type; never the value."""
    for field, value in zip(fields, row, strict=False):
        if value is None and not field.nullable:
            return f"column {field.name}, which is None,"
        try:
            exact.pack(getattr(value, "name", value) if field.kind == "enum" else value)
        except EncodeError:
            return f"column {field.name} of type {type(value).__name__!r}"
    return f"a row of {len(row)} values for {len(fields)} columns"


def _wrong() -> DecodeError:
    return DecodeError("a row is not an array")


def _undecodable(error: Exception) -> DecodeError:
    """Hostile bytes reach the constructors of many types: whatever they raise, the row cannot be decoded."""
    return error if isinstance(error, DecodeError) else DecodeError(f"a row cannot be decoded ({type(error).__name__})")


# -- any other codec -------------------------------------------------------------------------------------------------


def _generic(
    fields: tuple[Field, ...], codec: Codec
) -> tuple[Callable[[Any], bytes], Callable[[Any], tuple[Any, ...]]]:
    def encode(row: Sequence[Any]) -> bytes:
        if len(row) != len(fields):
            raise EncodeError(_culprit(fields, row))
        try:
            return codec.encode([_out(field, value) for field, value in zip(fields, row, strict=True)])
        except EncodeError as error:
            raise EncodeError(f"{_culprit(fields, row)} cannot be encoded exactly") from error

    def decode(body: bytes | memoryview) -> tuple[Any, ...]:
        values = codec.decode(bytes(body))
        if type(values) is not list or len(values) != len(fields):
            raise DecodeError("a row has another number of columns")
        return tuple(_in(field, value) for field, value in zip(fields, values, strict=True))

    return encode, decode


def _out(field: Field, value: Any) -> Any:
    if value is None and not field.nullable:
        raise EncodeError(f"column {field.name} is None, but its model says that it never is")
    if field.kind == "enum" and type(value) is field.python_type:
        return value.name
    return value


def _in(field: Field, value: Any) -> Any:
    if value is None:
        if not field.nullable:
            raise DecodeError(f"column {field.name} is None")
        return None
    if field.kind == "enum" and type(value) is str:
        return _even(field)(value)
    return value
