"""Every value of the type map as MessagePack, exactly: the same value, of the same type, in the same zone.

MessagePack knows integers of 64 bits, floats, text, bytes, lists and maps. Everything else travels in an extension type
that says what it is. Subclasses are refused: they would come back as their base.
"""

from __future__ import annotations

import datetime as dt
import decimal
import threading
import uuid
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import msgpack

from ..errors import DecodeError, EncodeError

BIG_INT, DATETIME, DATE, TIME, SPAN, DECIMAL, UUID, TUPLE, SET = range(1, 10)


def _pack_zone(zone: dt.tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is ZoneInfo and zone.key is not None:
        return zone.key
    if type(zone) is dt.timezone:
        offset = zone.utcoffset(None)
        if zone == dt.timezone(offset) and zone.tzname(None) == dt.timezone(offset).tzname(None):
            return [offset.days, offset.seconds, offset.microseconds]
    raise EncodeError(f"a time zone of type {type(zone).__name__!r} cannot be encoded exactly")


def _unpack_zone(packed: Any) -> dt.tzinfo | None:
    if packed is None:
        return None
    if isinstance(packed, str):
        return ZoneInfo(packed)
    offset = dt.timedelta(*packed)
    return dt.timezone(offset) if offset else dt.UTC


def _datetime(value: dt.datetime) -> Any:
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _pack_zone(value.tzinfo)]


def _to_datetime(packed: Any) -> dt.datetime:
    text, fold, zone = packed
    return dt.datetime.fromisoformat(text).replace(tzinfo=_unpack_zone(zone), fold=fold)


def _time(value: dt.time) -> Any:
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _pack_zone(value.tzinfo)]


def _to_time(packed: Any) -> dt.time:
    text, fold, zone = packed
    return dt.time.fromisoformat(text).replace(tzinfo=_unpack_zone(zone), fold=fold)


_PACK: dict[type, tuple[int, Callable[[Any], Any]]] = {
    int: (BIG_INT, str),
    dt.datetime: (DATETIME, _datetime),
    dt.date: (DATE, dt.date.toordinal),
    dt.time: (TIME, _time),
    dt.timedelta: (SPAN, lambda v: [v.days, v.seconds, v.microseconds]),
    decimal.Decimal: (DECIMAL, str),
    uuid.UUID: (UUID, lambda v: v.bytes),
    tuple: (TUPLE, list),
    frozenset: (SET, list),
}

_UNPACK: dict[int, Callable[[Any], Any]] = {
    BIG_INT: int,
    DATETIME: _to_datetime,
    DATE: dt.date.fromordinal,
    TIME: _to_time,
    SPAN: lambda v: dt.timedelta(*v),
    DECIMAL: decimal.Decimal,
    UUID: lambda v: uuid.UUID(bytes=v),
    TUPLE: tuple,
    SET: frozenset,
}


def extend(value: Any) -> Any:
    """What MessagePack packs for a value that it does not know."""
    kind = _PACK.get(type(value))
    if kind is None:
        raise EncodeError(f"a value of type {type(value).__name__!r} cannot be encoded exactly")
    code, convert = kind
    return msgpack.ExtType(code, pack(convert(value)))


def restore(code: int, data: bytes) -> Any:
    """The value of an extension type. ValueError for one that is not ours."""
    convert = _UNPACK.get(code)
    if convert is None:
        raise ValueError("unknown extension type")
    return convert(unpack(data))


class _Packers(threading.local):
    def __init__(self) -> None:
        self.depth = 0
        self.packer = msgpack.Packer(default=extend, strict_types=True, use_bin_type=True)


_local = _Packers()


def pack(value: Any) -> bytes:
    """Bytes of one value; EncodeError when it cannot be exact. Thread-safe."""
    # A packer is reused unless this call is nested in another one's ``default``.
    packer = _local.packer if not _local.depth else msgpack.Packer(default=extend, strict_types=True, use_bin_type=True)
    _local.depth += 1
    try:
        return bytes(packer.pack(value))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise EncodeError(f"a value cannot be encoded ({type(error).__name__})") from error
    finally:
        _local.depth -= 1


def unpack(data: bytes | memoryview) -> Any:
    """The value of bytes that :func:`pack` made; DecodeError for all others."""
    try:
        return msgpack.unpackb(
            data, ext_hook=restore, raw=False, strict_map_key=False, use_list=True, timestamp=3, **bounds(len(data))
        )
    except DecodeError:
        raise
    except Exception as error:  # hostile bytes reach the constructors of many types
        raise DecodeError(f"bytes cannot be decoded ({type(error).__name__})") from error


def bounds(size: int) -> dict[str, int]:
    """No length in the data may claim more than the data has."""
    return {f"max_{kind}_len": size for kind in ("str", "bin", "array", "map", "ext")}
