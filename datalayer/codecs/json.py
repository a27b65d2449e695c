"""JSON on request: larger and slower than the default, but readable with ``redis-cli``."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

from ..errors import DecodeError, EncodeError
from . import exact

_EXACT = "$exact"


class JsonCodec:
    """Values as JSON; what JSON does not know is one exact value in base64. Thread-safe."""

    name = "json"

    def encode(self, values: Any) -> bytes:
        try:
            return json.dumps(_plain(values), separators=(",", ":"), allow_nan=False).encode()
        except (ValueError, TypeError, RecursionError, UnicodeError) as error:
            raise EncodeError(f"a value cannot be encoded as JSON ({type(error).__name__})") from error

    def decode(self, data: bytes | memoryview) -> Any:
        try:
            return _restored(json.loads(bytes(data)))
        except DecodeError:
            raise
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DecodeError(f"bytes are not JSON of ours ({type(error).__name__})") from error

    def __repr__(self) -> str:
        return "JsonCodec()"


def _plain(value: Any) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int) or (kind is float and math.isfinite(value)):
        return value
    if kind is str:
        value.encode()
        return value
    if kind is list:
        return [_plain(item) for item in value]
    if kind is dict and all(type(key) is str for key in value) and _EXACT not in value:
        return {key: _plain(item) for key, item in value.items()}
    return {_EXACT: base64.b64encode(exact.pack(value)).decode()}


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {_EXACT}:
            return exact.unpack(base64.b64decode(value[_EXACT], validate=True))
        return {key: _restored(item) for key, item in value.items()}
    return value
