"""What a caller loads, as tuples in one order: instances, mappings or tuples, a thousand at a time.

A batch whose rows are all alike is turned by functions that run in C; only a batch that is not is looked at row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, Protocol

from sqlalchemy import inspect
from sqlalchemy.orm import Mapper

from ..errors import ConfigError, InvalidModelError

Row = tuple[Any, ...]


class Shape(Protocol):
    """Rows that have the same attributes, which are ``names``."""

    names: tuple[str, ...]

    def fits(self, row: Any) -> bool:
        """Whether a row has this shape."""

    def one(self, row: Any) -> Row:
        """The values of a row that fits."""

    def many(self, rows: list[Any]) -> list[Row] | None:
        """The values of all rows, or None if one of them does not fit."""


class Shapes:
    """The shapes of one model's rows. ``columns``: the attributes that a tuple holds, in order; None for all."""

    def __init__(self, mapper: Mapper[Any], columns: Sequence[str] | None) -> None:
        self.mapper = mapper
        self.order = _column_order(mapper, columns)

    def of(self, row: Any) -> Shape:
        """The shape of a row; InvalidModelError for anything that is not one."""
        if isinstance(row, self.mapper.class_) and inspect(row).mapper is self.mapper:
            return _Instances(self.mapper, row)
        if isinstance(row, Mapping):
            self.check_names(row)
            return _Mappings(row)
        if isinstance(row, tuple | list):
            return _Tuples(self.mapper, self.order)
        raise InvalidModelError(
            f"bulk_load of {self.mapper.class_.__name__} got a {type(row).__name__!r}; "
            f"expected instances, mappings, or tuples in the order {', '.join(self.order)}"
        )

    def check_names(self, names: Iterable[Any]) -> None:
        for name in names:
            if name not in self.mapper.column_attrs:
                raise InvalidModelError(
                    f"bulk_load of {self.mapper.class_.__name__} got a mapping with the key {name!r}; "
                    f"expected some of {', '.join(self.order)}"
                )

    def batches(self, rows: Iterable[Any], size: int) -> Iterator[tuple[tuple[str, ...], list[Row]]]:
        """Batches of at most ``size`` rows with the same attributes, and these."""
        source, shape = iter(rows), None
        while taken := list(islice(source, size)):
            if shape is None or not shape.fits(taken[0]):
                shape = self.of(taken[0])
            alike = shape.many(taken)
            if alike is not None:
                yield shape.names, alike
                continue
            for shape, group in self._groups(shape, taken):  # noqa: B020  # the last one is probably the next
                yield shape.names, group

    def _groups(self, shape: Shape, rows: list[Any]) -> Iterator[tuple[Shape, list[Row]]]:
        group: list[Row] = []
        for row in rows:
            if not shape.fits(row):
                if group:
                    yield shape, group
                shape, group = self.of(row), []
            group.append(shape.one(row))
        yield shape, group

    def instance(self, row: Any) -> Any:
        """A row as an instance, for hooks; an instance is the row itself."""
        cls = self.mapper.class_
        if isinstance(row, cls):
            return row
        if isinstance(row, Mapping):
            self.check_names(row)
            return cls(**row)
        return cls(**dict(zip(self.order, self.of(row).one(row), strict=True)))


class _Mappings:
    def __init__(self, first: Mapping[str, Any]) -> None:
        self.names = tuple(first)
        self._keys = frozenset(first)
        self.one = picker(self.names)

    def fits(self, row: Any) -> bool:
        return isinstance(row, Mapping) and row.keys() == self._keys

    def many(self, rows: list[Any]) -> list[Row] | None:
        # As many keys as the first one, and those of the first one: the same.
        if set(map(type, rows)) != {dict} or set(map(len, rows)) != {len(self.names)}:
            return None
        try:
            return list(map(self.one, rows))
        except KeyError:
            return None


class _Instances:
    def __init__(self, mapper: Mapper[Any], first: Any) -> None:
        known = [prop.key for prop in mapper.column_attrs]
        loaded = inspect(first).dict
        self._cls = type(first)
        self.names = tuple(name for name in known if name in loaded)
        self._absent = frozenset(known) - frozenset(self.names)
        self._pick = picker(self.names)

    def fits(self, row: Any) -> bool:
        if type(row) is not self._cls:
            return False
        return all(name in row.__dict__ for name in self.names) and self._absent.isdisjoint(row.__dict__)

    def one(self, row: Any) -> Row:
        return self._pick(row.__dict__)

    def many(self, rows: list[Any]) -> list[Row] | None:
        if set(map(type, rows)) != {self._cls}:
            return None
        loaded = [row.__dict__ for row in rows]
        if self._absent and not all(map(self._absent.isdisjoint, loaded)):
            return None
        try:
            return list(map(self._pick, loaded))
        except KeyError:
            return None


class _Tuples:
    def __init__(self, mapper: Mapper[Any], order: tuple[str, ...]) -> None:
        self.names = order
        self._model = mapper.class_.__name__

    def fits(self, row: Any) -> bool:
        return isinstance(row, tuple | list)

    def one(self, row: Any) -> Row:
        if len(row) != len(self.names):
            raise InvalidModelError(
                f"bulk_load of {self._model} got a tuple of {len(row)} values; "
                f"expected {len(self.names)}: {', '.join(self.names)} (or name them with columns=)"
            )
        return tuple(row)

    def many(self, rows: list[Any]) -> list[Row] | None:
        alike = set(map(type, rows)) == {tuple} and set(map(len, rows)) == {len(self.names)}
        return rows if alike else None


def picker(names: Sequence[Any]) -> Callable[[Any], Row]:
    """What takes the items with these names out of a mapping, or a tuple, as a tuple."""
    if len(names) == 1:
        (only,) = names
        return lambda row: (row[only],)
    return itemgetter(*names) if names else lambda row: ()


def _column_order(mapper: Mapper[Any], columns: Sequence[str] | None) -> tuple[str, ...]:
    if columns is not None:
        for name in columns:
            if name not in mapper.column_attrs:
                raise ConfigError(f"bulk_load: columns= has {name!r}, which {mapper.class_.__name__} has not")
        return tuple(columns)
    by_column: dict[Any, str] = {prop.columns[0]: prop.key for prop in mapper.column_attrs}
    own = [by_column[column] for table in mapper.tables for column in table.c if column in by_column]
    return tuple(dict.fromkeys(own))
