"""What every engine asks of its arguments, so that all of them refuse the same things with the same words."""

from __future__ import annotations

import math
from typing import Any

from ..config.units import refused, seconds
from ..contracts.store import MAX_KEY_BYTES
from ..errors import EncodeError

FOREVER = math.inf


def checked_key(key: Any) -> bytes:
    """The key as bytes of our own; EncodeError for what is not a key."""
    if type(key) is not bytes:
        if not isinstance(key, bytes | bytearray | memoryview):
            raise EncodeError(f"a key is a {type(key).__name__!r}; expected bytes (a str needs .encode())")
        key = bytes(key)
    found: bytes = key
    if not 0 < len(found) <= MAX_KEY_BYTES:
        raise EncodeError(f"a key has {len(found)} bytes; expected 1 to {MAX_KEY_BYTES}")
    return found


def checked_prefix(prefix: Any) -> bytes:
    """A prefix as bytes; unlike a key it may be empty."""
    return checked_key(prefix) if not isinstance(prefix, bytes | bytearray | memoryview) or prefix else b""


def checked_value(value: Any) -> bytes:
    """The value as bytes of our own; EncodeError for what is not a buffer."""
    if type(value) is bytes:
        return value
    if not isinstance(value, bytes | bytearray | memoryview):
        raise EncodeError(f"a value is a {type(value).__name__!r}; expected bytes")
    return bytes(value)


def deadline(ttl: Any, now: float) -> float:
    """When a value that lives for ``ttl`` seconds from ``now`` ends; ConfigError unless ``ttl`` is None or above 0."""
    if ttl is None:
        return FOREVER
    life = seconds(ttl, name="ttl")
    if life <= 0:
        raise refused("ttl", ttl, "seconds (more than 0), or None for a value that does not end")
    return now + life


def shown(key: bytes) -> str:
    """A key for an error's text: short."""
    text = repr(key)
    return text if len(text) <= 60 else f"{text[:57]}..."
