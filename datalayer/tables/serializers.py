"""Which values a table can hold, and as which bytes: serializers, found by type."""

from __future__ import annotations

import threading
from typing import Any, Protocol, TypeVar

from ..contracts.codec import Codec
from ..errors import ConfigError, DataLayerError, DecodeError, EncodeError
from .mapped import MappedSerializer, is_mapped
from .shapes import Leaf, shape_of

T = TypeVar("T")


class Serializer(Protocol[T]):
    """Bytes of values of one type. Thread-safe; never runs code that the bytes name.

    A round trip is exact: an equal value of the same type. ``dump`` raises :class:`~datalayer.errors.EncodeError` when
    it cannot be; what ``load`` raises reaches the caller as :class:`~datalayer.errors.DecodeError`.
    """

    def dump(self, value: T) -> bytes: ...

    def load(self, data: bytes) -> T: ...


_registered: dict[Any, Serializer[Any]] = {}
_lock = threading.Lock()


def register_serializer(of: type[T], serializer: Serializer[T]) -> None:
    """Use this serializer in every table of ``of`` that is made from now on, in place of one before. Thread-safe.

    It counts for this very type as the type of a table: not for subclasses, and not for fields of other types.
    """
    if not (callable(getattr(serializer, "dump", None)) and callable(getattr(serializer, "load", None))):
        raise ConfigError(f"serializer is a {type(serializer).__name__}; expected an object with dump and load")
    with _lock:
        _registered[of] = serializer


def serializer_for(of: type[T], codec: Codec) -> Serializer[T]:
    """The registered serializer of a type, or the built-in one: bytes as they are, text in UTF-8, and everything else
    through ``codec``. ConfigError for a type that has neither."""
    with _lock:
        if of in _registered:
            return _registered[of]
    if of is bytes:
        return _Bytes()
    if of is str:
        return _Text()
    if is_mapped(of):
        return MappedSerializer(of, codec)
    return _Shaped(of, codec)


class _Bytes:
    def dump(self, value: Any) -> Any:
        return _exactly(bytes, value)

    def load(self, data: bytes) -> Any:
        return data


class _Text:
    def dump(self, value: Any) -> bytes:
        try:
            encoded: bytes = _exactly(str, value).encode()
        except UnicodeEncodeError as error:
            raise EncodeError("a text holds half of a surrogate pair, which UTF-8 cannot write") from error
        return encoded

    def load(self, data: bytes) -> Any:
        return data.decode()


class _Shaped:
    """Values of a type with a shape, through a codec, which gets a list of one."""

    def __init__(self, of: Any, codec: Codec) -> None:
        self._of, self._codec = of, codec
        self._shape = shape_of(of)
        # Said now and not at the first write: of a class that nobody knows no value can be encoded.
        if isinstance(self._shape, Leaf) and isinstance(of, type) and of.__module__ not in _CARRIED:
            raise ConfigError(
                f"{of.__module__}.{of.__qualname__} is none of the types that tables know ({_KNOWN}); "
                f"register a serializer: register_serializer({of.__name__}, ...)"
            )

    def dump(self, value: Any) -> bytes:
        if not self._shape.takes(value):
            raise EncodeError(f"found a {type(value).__name__}, expected a {_shown(self._of)}")
        return self._codec.encode([self._shape.plain(value)])

    def load(self, data: bytes) -> Any:
        (plain,) = self._codec.decode(data)
        value = self._shape.value(plain)
        if not self._shape.takes(value):
            raise DecodeError(f"these bytes hold a {type(value).__name__}, expected a {_shown(self._of)}")
        return value


_KNOWN = "dataclasses, named tuples, enums, msgspec structs, pydantic models, mapped classes and what codecs carry"
_CARRIED = ("builtins", "datetime", "decimal", "uuid", "typing")


def _exactly(cls: type[T], value: Any) -> T:
    if type(value) is not cls:
        raise EncodeError(f"found a {type(value).__name__}, expected {cls.__name__}")
    found: T = value
    return found


def _shown(of: Any) -> str:
    return of.__name__ if isinstance(of, type) and not hasattr(of, "__args__") else str(of)


def dumped(serializer: Serializer[T], value: T, where: str) -> bytes:
    """The bytes; EncodeError that says where, whatever the serializer raised."""
    try:
        return serializer.dump(value)
    except EncodeError as error:
        raise EncodeError(f"{where}: {error}") from error
    except DataLayerError:
        raise
    except Exception as error:
        raise EncodeError(f"{where}: the serializer failed ({type(error).__name__})") from error


def loaded(serializer: Serializer[T], data: bytes, where: str) -> T:
    """The value; DecodeError that says where, whatever the serializer raised."""
    try:
        return serializer.load(data)
    except DecodeError as error:
        raise DecodeError(f"{where}: {error}") from error
    except Exception as error:  # bytes from outside reach the constructors of many types
        raise DecodeError(
            f"{where}: the stored bytes are not a value of this table ({type(error).__name__})"
        ) from error
