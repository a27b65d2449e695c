"""``Validated``: a provider that refuses what must not be stored, and what should never have been."""

from __future__ import annotations

from collections.abc import Callable

from ..contracts.provider import Provider
from ..errors import DecodeError, EncodeError
from .checks import check_key, check_value
from .wrapper import Wrapper

Check = Callable[[str, bytes], bool]


class Validated(Wrapper):
    """Asks ``check(key, value)`` about every value: False refuses it with EncodeError before it is stored, and with
    DecodeError when it comes out of the inner provider. ``max_value_bytes`` bounds a value before ``check`` sees it.

    What ``check`` raises goes through as it is. A ``set_many`` with one refused value stores nothing.
    """

    def __init__(self, inner: Provider, *, check: Check | None = None, max_value_bytes: int | None = None) -> None:
        super().__init__(inner)
        self._check = check or (lambda _key, _value: True)
        self._max = max_value_bytes

    def _out(self, key: str, value: bytes) -> bytes:
        if self._fits(check_key(key), check_value(value, key)):
            return value
        raise EncodeError(f"the value for key {key!r} ({len(value)} bytes) is refused by this provider's check")

    def _in(self, key: str, stored: bytes) -> bytes:
        if self._fits(key, stored):
            return stored
        raise DecodeError(f"the stored value under key {key!r} ({len(stored)} bytes) fails this provider's check")

    def _fits(self, key: str, value: bytes) -> bool:
        return (self._max is None or len(value) <= self._max) and self._check(key, value)
