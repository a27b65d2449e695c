"""The kinds of options that there are: durations, sizes, counts, choices, URLs, keys and objects."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from enum import Enum
from math import isfinite
from typing import Any, TypeVar

from ..contracts.cipher import KeyProvider
from ..contracts.suggest import hint
from ..contracts.urls import redact_url
from ..errors import ConfigError
from .option import Kind
from .secret import KeyRing, SecretBytes, from_base64, key_bytes, key_ring, ring_from_text
from .units import byte_size, refused, seconds
from .urls import database_url, redis_url

T = TypeVar("T")

DurationLike = float | str | timedelta
SizeLike = int | str

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


class Duration(Kind[DurationLike, float]):
    """Seconds, from a number, a text with units or a timedelta. ``zero`` says what 0 means; without it 0 is refused."""

    def __init__(self, *, zero: str = "") -> None:
        self._zero = zero

    def parse(self, value: Any, name: str) -> float:
        found = seconds(value, name=name)
        if not found and not self._zero:
            raise refused(name, value, "a duration greater than 0")
        return found


class Size(Kind[SizeLike, int]):
    """Bytes, at least one."""

    def parse(self, value: Any, name: str) -> int:
        found = byte_size(value, name=name)
        if not found:
            raise refused(name, value, "a size greater than 0")
        return found


class Count(Kind[int, int]):
    """A whole number from ``least`` to ``most``."""

    def __init__(self, *, least: int = 0, most: int | None = None) -> None:
        self._least, self._most = least, most

    def parse(self, value: Any, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not self._fits(value):
            raise refused(
                name, value, f"a whole number from {self._least}{f' to {self._most}' if self._most is not None else ''}"
            )
        return value

    def from_text(self, text: str, name: str) -> int:
        return self.parse(int(text) if re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", text) else text, name)

    def _fits(self, value: int) -> bool:
        return value >= self._least and (self._most is None or value <= self._most)


class Fraction(Kind[float, float]):
    """A number from ``least`` to ``most``."""

    def __init__(self, *, least: float = 0.0, most: float = 1.0) -> None:
        self._least, self._most = least, most

    def parse(self, value: Any, name: str) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
        if not is_number or not self._least <= value <= self._most:
            raise refused(name, value, f"a number from {self._least:g} to {self._most:g}")
        return float(value)

    def from_text(self, text: str, name: str) -> float:
        return self.parse(float(text) if re.fullmatch(r"\s*[+-]?[0-9]{0,18}\.?[0-9]{1,18}\s*", text) else text, name)


class Flag(Kind[bool, bool]):
    """True or False."""

    def parse(self, value: Any, name: str) -> bool:
        if not isinstance(value, bool):
            raise refused(name, value, "True or False")
        return value

    def from_text(self, text: str, name: str) -> bool:
        word = text.strip().lower()
        if word not in _TRUE + _FALSE:
            raise refused(name, text, f"one of {', '.join(_TRUE)} or {', '.join(_FALSE)}")
        return word in _TRUE


class Choice(Kind[str | Enum, str]):
    """One of some words, in any case; a member of an enum stands for its value."""

    def __init__(self, *words: str) -> None:
        self._words = words

    def parse(self, value: Any, name: str) -> str:
        plain = value.value if isinstance(value, Enum) else value
        word = plain.strip().lower() if isinstance(plain, str) else None
        if word not in self._words:
            expected = f"one of {', '.join(map(repr, self._words))}"
            close = hint(word, self._words) if word else ""
            raise refused(name, plain, f"{expected}; {close}" if close.startswith("did") else expected)
        return word


class Text(Kind[str, str]):
    """Text that a pattern fits as a whole; ``expected`` says it in words."""

    def __init__(self, pattern: str, expected: str) -> None:
        self._pattern, self._expected = re.compile(pattern), expected

    def parse(self, value: Any, name: str) -> str:
        if not isinstance(value, str) or not self._pattern.fullmatch(value):
            raise refused(name, value, self._expected)
        return value


class Path(Kind[str | os.PathLike[str], str]):
    """A file or a directory; it need not exist yet."""

    def parse(self, value: Any, name: str) -> str:
        path = os.fspath(value) if isinstance(value, str | os.PathLike) else value
        if not isinstance(path, str) or not path.strip() or "\0" in path:
            raise refused(name, value, "the path of a file or directory")
        return path


class Names(Kind[Iterable[str], tuple[str, ...]]):
    """Some texts, in order; as one text they are separated by commas."""

    def parse(self, value: Any, name: str) -> tuple[str, ...]:
        items = value if isinstance(value, list | tuple) else None
        if items is None or not all(isinstance(item, str) and item.strip() for item in items):
            raise refused(name, value, "a list of texts that are not empty")
        return tuple(items)

    def from_text(self, text: str, name: str) -> tuple[str, ...]:
        return self.parse([item.strip() for item in text.split(",")], name)


class Password(Kind[str, str]):
    """Text that no error and no ``repr`` shows."""

    def parse(self, value: Any, name: str) -> str:
        if not isinstance(value, str) or not value:
            raise ConfigError(
                f"{name}: found {'nothing' if value == '' else f'a {type(value).__name__}'}, expected text"
            )
        return value

    def show(self, value: str) -> str:
        return "<secret>"


class DatabaseUrl(Kind[Any, str]):
    """A SQLAlchemy URL, as text or as SQLAlchemy's own object."""

    def parse(self, value: Any, name: str) -> str:
        return database_url(value, name=name)

    def show(self, value: str) -> str:
        return repr(redact_url(value))


class RedisUrl(Kind[str, str]):
    """The URL of a Redis: one server, a socket, Sentinel or Cluster."""

    def parse(self, value: Any, name: str) -> str:
        return redis_url(value, name=name)

    def show(self, value: str) -> str:
        return repr(redact_url(value))


class Keys(Kind[Mapping[str, bytes] | KeyProvider | None, KeyRing]):
    """Encryption keys by id, active key first, or what provides them; none by default."""

    def parse(self, value: Any, name: str) -> KeyRing:
        if callable(load := getattr(value, "load", None)):
            value = load()
            if isinstance(value, str):
                return self.from_text(value, name)
        return key_ring({} if value is None else value, name=name, size=32)

    def from_text(self, text: str, name: str) -> KeyRing:
        return self.parse(ring_from_text(text, name=name), name)


class Key(Kind[bytes, SecretBytes]):
    """A key of ``size`` bytes or more."""

    def __init__(self, *, size: int) -> None:
        self._size = size

    def parse(self, value: Any, name: str) -> SecretBytes:
        return key_bytes(value, name=name, size=self._size, longer=True)

    def from_text(self, text: str, name: str) -> SecretBytes:
        return self.parse(from_base64(text, name=name), name)


class Object(Kind[T, T]):
    """An object of the application's with these attributes. It cannot be written as text."""

    def __init__(self, *attributes: str) -> None:
        self._attributes = attributes

    def parse(self, value: Any, name: str) -> T:
        absent = [attribute for attribute in self._attributes if not hasattr(value, attribute)]
        if absent or isinstance(value, type):
            found = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
            raise ConfigError(f"{name}: found {found}, expected an object with {', '.join(self._attributes)}")
        kept: T = value
        return kept

    def from_text(self, text: str, name: str) -> T:
        raise ConfigError(
            f"{name}: found text, but this option takes an object; give it in code, to Settings or DataLayer"
        )


class CodecLike(Object[T]):
    """The name of a codec that comes with the library, or a codec."""

    def __init__(self, *words: str) -> None:
        super().__init__("name", "encode", "decode")
        self._word = Choice(*words)

    def parse(self, value: Any, name: str) -> Any:
        return self._word.parse(value, name) if isinstance(value, str) else super().parse(value, name)

    def from_text(self, text: str, name: str) -> Any:
        return self._word.parse(text, name)


class LoggerLike(Object[T]):
    """A logger of the standard library (or an adapter of one), or the name of one."""

    def __init__(self) -> None:
        super().__init__("log", "isEnabledFor")

    def parse(self, value: Any, name: str) -> Any:
        return self.from_text(value, name) if isinstance(value, str) else super().parse(value, name)

    def from_text(self, text: str, name: str) -> Any:
        if not text.strip():
            raise refused(name, text, "the name of a logger")
        return logging.getLogger(text.strip())


class Function(Kind[T, T]):
    """A callable of the application's. It cannot be written as text."""

    def parse(self, value: Any, name: str) -> T:
        if not callable(value):
            raise ConfigError(f"{name}: found a {type(value).__name__}, expected a callable without arguments")
        kept: T = value
        return kept

    def from_text(self, text: str, name: str) -> T:
        raise ConfigError(
            f"{name}: found text, but this option takes a function; give it in code, to Settings or DataLayer"
        )
