"""The attributes of a model by name, for queries: what they are called, what type they have, what may be read alone."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import inspect
from sqlalchemy.orm import ColumnProperty, CompositeProperty

from ..contracts.suggest import did_you_mean
from ..errors import QueryError
from ..models.sealed import encrypted_attributes
from .rows import RowShape, generated

_MEMO = "_datalayer_rows"


def attribute(model: type[Any], name: str) -> Any:
    """The mapped attribute or hybrid; QueryError with the nearest name when there is none."""
    mapper: Any = inspect(model)
    if name in mapper.attrs:
        return getattr(model, name)
    found = getattr(model, name, None) if name in mapper.all_orm_descriptors else None
    if found is None or not hasattr(found, "__clause_element__"):
        raise unknown_attribute(mapper, name)
    return found


def unknown_attribute(mapper: Any, name: str) -> QueryError:
    """The error for an attribute that a model does not have, with the nearest name."""
    close = did_you_mean(name, mapper.attrs.keys())
    return QueryError(f"{mapper.class_.__name__} has no attribute {name!r}{close}")


def column_attribute(model: type[Any], name: str) -> Any:
    """The attribute, if it can be read without its row; QueryError for relationships and row-bound ciphertext."""
    found = attribute(model, name)
    mapper: Any = inspect(model)
    prop = mapper.attrs.get(name)
    if prop is not None and not isinstance(prop, ColumnProperty | CompositeProperty):
        raise QueryError(f"{model.__name__}.{name} is no column; read whole rows, with options() for relationships")
    sealed = encrypted_attributes(mapper).get(name)
    if sealed is not None and getattr(sealed.type, "by_row", False):
        raise QueryError(
            f"{model.__name__}.{name} is encrypted and bound to its row (bind='row'): only whole rows can be read"
        )
    return found


def row_shape_of_model(model: type[Any], names: tuple[str, ...]) -> RowShape:
    """The named tuple of some attributes, one class for each selection."""
    mapper: Any = inspect(model)
    known: dict[tuple[str, ...], RowShape] = mapper.__dict__.setdefault(_MEMO, {})
    shape = known.get(names)
    if shape is None:
        if len(set(names)) != len(names):
            raise QueryError(f"fields() has a name twice: {', '.join(names)}")
        types = {name: _annotation(column_attribute(model, name)) for name in names}
        shape = known.setdefault(names, generated(f"{model.__name__}Row", types))
    return shape


def _annotation(found: Any) -> Any:
    expression = found.__clause_element__()
    try:
        kind = expression.type.python_type
    except (NotImplementedError, AttributeError):
        return Any
    nullable = not isinstance(expression, sa.Column) or bool(expression.nullable)
    return kind | None if nullable else kind
