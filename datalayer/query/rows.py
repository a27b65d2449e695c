"""Rows of some attributes as values with names and types: generated named tuples, or a class of the caller's own."""

from __future__ import annotations

import dataclasses
import keyword
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import QueryError

Maker = Callable[[Sequence[Any]], Any]


class RowShape(NamedTuple):
    """``fields``: the names and annotations of a row, in order. ``make``: a value of a sequence in that order."""

    cls: type[Any]
    fields: Mapping[str, Any]
    make: Maker


def generated(name: str, fields: Mapping[str, Any]) -> RowShape:
    """A new named tuple class."""
    for field in fields:
        if not field.isidentifier() or keyword.iskeyword(field) or field.startswith("_"):
            raise QueryError(f"{name}: {field!r} cannot be the name of a field; give the column another one with AS")
    cls: Any = NamedTuple(name, list(fields.items()))  # type: ignore[misc]
    return RowShape(cls, fields, cls._make)


def is_row_class(cls: Any) -> bool:
    """Whether a class says by itself what its rows are: a dataclass or a NamedTuple."""
    return isinstance(cls, type) and (dataclasses.is_dataclass(cls) or _is_named_tuple(cls))


def shape_of(cls: type[Any]) -> RowShape:
    """The shape of a dataclass or NamedTuple. QueryError for any other class."""
    if not is_row_class(cls):
        raise QueryError(f"{cls!r} is no class of rows; expected a dataclass or a NamedTuple")
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        raise QueryError(f"{cls.__name__}: the annotations name what is not defined: {error}") from error
    if _is_named_tuple(cls):
        return RowShape(cls, {name: hints.get(name, Any) for name in cls._fields}, cls._make)
    fields = [field for field in dataclasses.fields(cls) if field.init]
    names = {field.name: hints.get(field.name, Any) for field in fields}
    if any(field.kw_only for field in fields):
        return RowShape(cls, names, lambda row: cls(**dict(zip(names, row, strict=True))))
    return RowShape(cls, names, lambda row: cls(*row))


def _is_named_tuple(cls: Any) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields") and hasattr(cls, "_make")
