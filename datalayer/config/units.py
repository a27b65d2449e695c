"""Durations and sizes as people write them, as the numbers that the rest works with."""

from __future__ import annotations

import re
from datetime import timedelta
from fractions import Fraction
from math import isfinite

from ..contracts.urls import redact_text
from ..errors import ConfigError

DURATIONS = "seconds (0 or more), or text such as '500ms', '30s', '5m', '1h30m', '2d'"
SIZES = "a whole number of bytes (0 or more), or text such as '512B', '64MB', '1MiB'"

_SECONDS = {
    "d": Fraction(86400),
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
}
_BYTES = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", start=1)},
    **{f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", start=1)},
}
_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,18})?"
_PART = rf"({_NUMBER})%s"
# Every unit at most once and the greater first, so that "5m1h" is a mistake and not an hour and five minutes.
_DURATION = re.compile("".join(f"(?:{_PART % unit})?" for unit in _SECONDS))
_SIZE = re.compile(rf"({_NUMBER})\s?([A-Z]*)")


def show(value: object) -> str:
    """A refused value for an error's text: short, and without the password of a URL."""
    if value is None or isinstance(value, str | int | float | timedelta):
        text = redact_text(repr(value)) if not isinstance(value, int) or value.bit_length() < 256 else "a huge number"
        return text if len(text) <= 60 else f"{text[:57]}..."
    return f"a {type(value).__name__}"


def refused(name: str, value: object, expected: str) -> ConfigError:
    """The error that says which option holds what, and what it takes."""
    return ConfigError(f"{name}: found {show(value)}, expected {expected}")


def seconds(value: object, *, name: str) -> float:
    """The duration in seconds. ConfigError naming the option ``name`` for anything that is not one."""
    found = _seconds(value)
    if found is None or not isfinite(found) or found < 0:
        raise refused(name, value, DURATIONS)
    return found


def byte_size(value: object, *, name: str) -> int:
    """The size in bytes; ``MB`` is a million, ``MiB`` 1024 * 1024. ConfigError naming the option ``name`` otherwise."""
    found = _bytes(value.strip()) if isinstance(value, str) else value
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise refused(name, value, SIZES)
    return found


def _seconds(value: object) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        return _seconds_of_text(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _seconds_of_text(text: str) -> float | None:
    if re.fullmatch(_NUMBER, text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        return None
    parts = zip(match.groups(), _SECONDS.values(), strict=True)
    return float(sum(Fraction(number) * unit for number, unit in parts if number is not None))


def _bytes(text: str) -> int | None:
    match = _SIZE.fullmatch(text.upper())
    unit = _BYTES.get(match[2]) if match else None
    if match is None or unit is None:
        return None
    size = Fraction(match[1]) * unit
    return int(size) if size.denominator == 1 else None
