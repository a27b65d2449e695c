"""From a type to the plain values that a codec carries, and back, so that what comes out equals what went in.

A *leaf* is what the codecs carry exactly by themselves (text, numbers, moments, lists and dicts of them) and goes as
it is. Records (dataclasses, named tuples, structs, pydantic models) become dicts by field name, enum members their
names, sets lists; the hints of a record's fields say where to expect which. What does not fit its hint is refused:
it would come back as something else.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import ConfigError, DecodeError, EncodeError
from .records import Record, record_of


class Shape:
    """How values of one type are carried. ``takes`` says whether a value is of the type, exactly."""

    leaf = False

    def takes(self, value: Any) -> bool:
        raise NotImplementedError

    def plain(self, value: Any) -> Any:
        """What the codec gets; EncodeError for a value that is not of the type."""
        raise NotImplementedError

    def value(self, plain: Any) -> Any:
        """The value again; any exception means that ``plain`` was not made here."""
        raise NotImplementedError


class Leaf(Shape):
    """What a codec carries by itself; ``of`` is its class, if it is known."""

    leaf = True

    def __init__(self, of: type[Any] | None = None) -> None:
        self._of = of

    def takes(self, value: Any) -> bool:
        return self._of is None or type(value) is self._of

    def plain(self, value: Any) -> Any:
        return value

    def value(self, plain: Any) -> Any:
        return plain


class _Fields(Shape):
    def __init__(self, record: Record, shapes: Callable[[Any], Shape]) -> None:
        self._record = record
        self._fields = [(name, shapes(hint)) for name, hint in record.hints.items()]
        self._converted = [(name, shape) for name, shape in self._fields if not shape.leaf]

    def takes(self, value: Any) -> bool:
        return type(value) is self._record.cls

    def plain(self, value: Any) -> Any:
        if type(value) is not self._record.cls:
            raise EncodeError(f"found a {type(value).__name__}, expected a {self._record.cls.__name__}")
        fields = self._record.take(value)
        for name, shape in self._converted:
            if name in fields:
                fields[name] = _inside(name, shape, fields[name])
        return fields

    def value(self, plain: Any) -> Any:
        fields = {name: shape.value(plain[name]) for name, shape in self._fields if name in plain}
        if missing := self._record.required - fields.keys():
            raise DecodeError(f"a {self._record.cls.__name__} has no {', '.join(sorted(missing))}")
        return self._record.make(fields, plain)


def _inside(name: str, shape: Shape, value: Any) -> Any:
    try:
        return shape.plain(value)
    except EncodeError as error:
        raise EncodeError(f"field {name}: {error}") from error


class _Member(Shape):
    """A member of an enum by its name; of a flag by its bits, for there are combinations without one."""

    def __init__(self, cls: type[enum.Enum]) -> None:
        self._cls = cls
        self._flag = issubclass(cls, enum.Flag)

    def takes(self, value: Any) -> bool:
        return type(value) is self._cls

    def plain(self, value: Any) -> Any:
        if not self.takes(value):
            raise EncodeError(f"found a {type(value).__name__}, expected a {self._cls.__name__}")
        return value.value if self._flag else value.name

    def value(self, plain: Any) -> Any:
        return self._cls(plain) if self._flag else self._cls[plain]


class _Items(Shape):
    """A list, set or other collection of one kind of item."""

    def __init__(self, cls: type[Any], item: Shape) -> None:
        self._cls, self._item = cls, item

    def takes(self, value: Any) -> bool:
        return type(value) is self._cls

    def plain(self, value: Any) -> Any:
        if not self.takes(value):
            raise EncodeError(f"found a {type(value).__name__}, expected a {self._cls.__name__}")
        return [self._item.plain(item) for item in value]

    def value(self, plain: Any) -> Any:
        return self._cls([self._item.value(item) for item in _listed(plain)])


def _listed(plain: Any) -> list[Any]:
    if type(plain) is not list:
        raise DecodeError(f"found a {type(plain).__name__}, expected a list")
    return plain


class _Positions(Shape):
    """A tuple whose items have a kind each."""

    def __init__(self, items: list[Shape]) -> None:
        self._items = items

    def takes(self, value: Any) -> bool:
        return type(value) is tuple and len(value) == len(self._items)

    def plain(self, value: Any) -> Any:
        if not self.takes(value):
            raise EncodeError(f"found a {type(value).__name__}, expected a tuple of {len(self._items)}")
        return [shape.plain(item) for shape, item in zip(self._items, value, strict=True)]

    def value(self, plain: Any) -> Any:
        return tuple(shape.value(item) for shape, item in zip(self._items, _listed(plain), strict=True))


class _Values(Shape):
    """A dict whose keys are leaves."""

    def __init__(self, item: Shape) -> None:
        self._item = item

    def takes(self, value: Any) -> bool:
        return type(value) is dict

    def plain(self, value: Any) -> Any:
        if type(value) is not dict:
            raise EncodeError(f"found a {type(value).__name__}, expected a dict")
        return {key: self._item.plain(item) for key, item in value.items()}

    def value(self, plain: Any) -> Any:
        return {key: self._item.value(item) for key, item in plain.items()}


class _Pairs(_Values):
    """A dict whose keys are not, as a list of pairs."""

    def __init__(self, key: Shape, item: Shape) -> None:
        super().__init__(item)
        self._key = key

    def plain(self, value: Any) -> Any:
        return [[self._key.plain(key), item] for key, item in super().plain(value).items()]

    def value(self, plain: Any) -> Any:
        return {self._key.value(key): self._item.value(item) for key, item in plain}


class _OneOf(Shape):
    """One of several kinds: the number of the kind, and the value as that.

    A value of no kind, as an int where a float is expected, goes as it is under -1: the codec refuses what it must.
    """

    def __init__(self, members: list[Shape]) -> None:
        self._members = members

    def takes(self, value: Any) -> bool:
        return any(member.takes(value) for member in self._members)

    def plain(self, value: Any) -> Any:
        for number, member in enumerate(self._members):
            if member.takes(value):
                return [number, member.plain(value)]
        return [-1, value]

    def value(self, plain: Any) -> Any:
        number, inner = plain
        return inner if number == -1 else self._members[number].value(inner)


class _Later(Shape):
    """Stands for a record inside itself."""

    def __init__(self, find: Callable[[], Shape]) -> None:
        self._find = find

    def takes(self, value: Any) -> bool:
        return self._find().takes(value)

    def plain(self, value: Any) -> Any:
        return self._find().plain(value)

    def value(self, plain: Any) -> Any:
        return self._find().value(plain)


_COLLECTIONS = (list, set, frozenset, tuple)


def shape_of(hint: Any) -> Shape:
    """The shape of a type or a type hint. ConfigError for a record whose hints cannot be read."""
    return _Builder().shape(hint)


class _Builder:
    def __init__(self) -> None:
        self._records: dict[type[Any], Shape | None] = {}

    def shape(self, hint: Any) -> Shape:
        hint = _bare(hint)
        origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            return self._union(args)
        if not isinstance(origin, type):
            return Leaf()
        if issubclass(origin, enum.Enum):
            return _Member(origin)
        if origin in _COLLECTIONS:
            return self._collection(origin, args)
        if origin is dict and args:
            key, item = self.shape(args[0]), self.shape(args[1])
            return Leaf(dict) if key.leaf and item.leaf else _Values(item) if key.leaf else _Pairs(key, item)
        return self._record(origin)

    def _record(self, cls: type[Any]) -> Shape:
        if cls in self._records:
            return self._records[cls] or _Later(lambda: self._built(cls))
        record = record_of(cls)
        if record is None:
            return Leaf(None if cls is object else cls)
        self._records[cls] = None
        shape = self._records[cls] = _Fields(record, self.shape)
        return shape

    def _built(self, cls: type[Any]) -> Shape:
        shape = self._records[cls]
        if shape is None:
            raise ConfigError(f"{cls.__name__} contains itself in a way that is not supported")
        return shape

    def _union(self, args: tuple[Any, ...]) -> Shape:
        members = [self.shape(arg) for arg in args]
        return Leaf() if all(member.leaf for member in members) else _OneOf(members)

    def _collection(self, cls: type[Any], args: tuple[Any, ...]) -> Shape:
        items = [self.shape(arg) for arg in args if arg is not Ellipsis]
        if cls is tuple and Ellipsis not in args and args:
            return Leaf(tuple) if all(item.leaf for item in items) else _Positions(items)
        item = items[0] if items else Leaf()
        if item.leaf and cls is not set:  # the codecs know no set that can change
            return Leaf(cls)
        return _Items(cls, item)


def _bare(hint: Any) -> Any:
    """The hint without what says nothing about the value: Annotated, Final, NewType, a named alias."""
    for step in _unwrapped(hint):
        hint = step
    return type(None) if hint is None else hint


def _unwrapped(hint: Any) -> Iterator[Any]:
    while True:
        if typing.get_origin(hint) in (typing.Annotated, typing.Final, typing.Required, typing.NotRequired):
            hint = typing.get_args(hint)[0]
        elif isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif hasattr(hint, "__value__") and not isinstance(hint, type):  # ``type Alias = ...``
            hint = hint.__value__
        else:
            return
        yield hint
