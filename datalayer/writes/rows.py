"""From an instance to the whole row that it stands for: what a queued write must know at the time of the call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..contracts.coherence import Absent
from ..errors import InvalidModelError
from ..models.columns import column_flags, utc_now
from ..models.copying import own_row
from ..models.schema import Schema
from ..tiers.needs import Row

Newest = Callable[[], Row | Absent]


def whole_row(schema: Schema, loaded: Mapping[str, Any], newest: Newest) -> tuple[Any, ...]:
    """The values in the order of ``schema.full``: what is loaded, else what the newest row has, else the defaults.

    ``newest`` is asked at most once, and only if something is not loaded. InvalidModelError when a value is missing.
    """
    before: Row | Absent | None = None
    now = utc_now(None)
    values = []
    for column, name in zip(schema.full.columns, schema.full.keys, strict=True):
        flags = column_flags(column)
        if flags.auto_now:
            values.append(now)
        elif name in loaded and not (flags.auto_now_add and loaded[name] is None):
            values.append(loaded[name])
        else:
            before = newest() if before is None else before
            values.append(_of_row(before, name) if isinstance(before, Row) else _default(schema, column, name, now))
    return own_row(tuple(values)) if schema.mutable else tuple(values)


def _of_row(row: Row, name: str) -> Any:
    return row.values[row.projection.keys.index(name)]


def _default(schema: Schema, column: Any, name: str, now: Any) -> Any:
    """The value of a new row's column."""
    if column_flags(column).auto_now_add:
        return now
    default = column.default
    if default is not None and default.is_callable:
        return default.arg(None)  # those that look into their statement find none
    if default is not None and default.is_scalar:
        return default.arg
    if default is not None or column.server_default is not None or column.computed is not None:
        raise InvalidModelError(
            f"{schema.cls.__name__}.{name} has a default that only the database can work out; a row that is written "
            "behind is shown before it is there, so give the attribute a value or a default in Python"
        )
    if column.nullable:
        return None
    raise InvalidModelError(
        f"{schema.cls.__name__}.{name} has no value and no default; a row that is written behind needs all of them"
    )
