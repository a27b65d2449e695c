"""What every provider refuses before it does anything, in the same words."""

from __future__ import annotations

import math
from typing import Any

from ..errors import ConfigError, EncodeError


def check_key(key: Any) -> str:
    """The key itself; EncodeError for what is no key."""
    if type(key) is str and key:
        if key.isascii():
            return key
        try:
            key.encode()
        except UnicodeEncodeError:
            raise EncodeError("a key holds half of a surrogate pair; expected text that UTF-8 can write") from None
        return key
    found = "an empty text" if key == "" else f"a {type(key).__name__}"
    raise EncodeError(f"a key is {found}; expected a non-empty str")


def check_value(value: Any, key: str) -> bytes:
    """The value itself; EncodeError for anything but ``bytes``, which nobody can change afterwards."""
    if type(value) is bytes:
        return value
    raise EncodeError(f"the value for key {key!r} is a {type(value).__name__}; a provider takes bytes")


def check_ttl(ttl: Any) -> float | None:
    """The life in seconds, or None; ConfigError for zero, less, and what is no number."""
    if ttl is None:
        return None
    if isinstance(ttl, int | float) and not isinstance(ttl, bool) and math.isfinite(ttl) and ttl > 0:
        return float(ttl)
    raise ConfigError(f"ttl is {ttl!r}; expected seconds greater than 0, or None for a value that does not expire")
