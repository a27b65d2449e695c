"""The classes with named fields: dataclasses, named tuples, msgspec structs, pydantic models.

A record is made by its own constructor, so that what depends on fields is worked out again, and then given the very
values that it had. msgspec and pydantic are never imported here: who has such a class has imported them.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ConfigError

_SET, _EXTRA, _PRIVATE = "$set", "$extra", "$private"


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A class with named fields. ``take`` gives an instance's fields as a new dict; ``make`` builds an instance from
    decoded fields and the plain dict that they came from; ``required`` are the fields without a default."""

    cls: type[Any]
    hints: Mapping[str, Any]
    required: frozenset[str]
    take: Callable[[Any], dict[str, Any]]
    make: Callable[[dict[str, Any], dict[str, Any]], Any]


def record_of(cls: type[Any]) -> Record | None:
    """What is known of a class with fields; None for a class of another kind."""
    for applies, describe in _KINDS:
        if applies(cls):
            return describe(cls)
    return None


def _hints(cls: type[Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        name = f"{cls.__module__}.{cls.__qualname__}"
        raise ConfigError(
            f"the type hints of {name} cannot be read ({error}); define its names in its module, "
            f"or register a serializer: register_serializer({cls.__name__}, ...)"
        ) from error


# -- dataclasses -----------------------------------------------------------------------------------------------------


def _dataclass(cls: type[Any]) -> Record:
    hints, fields = _hints(cls), dataclasses.fields(cls)
    if any(isinstance(hint, dataclasses.InitVar) or hint is dataclasses.InitVar for hint in hints.values()):
        raise ConfigError(f"{cls.__name__} has an InitVar, which no instance keeps; register a serializer for it")
    names = [field.name for field in fields]
    given = frozenset(field.name for field in fields if field.init)
    required = frozenset(
        field.name
        for field in fields
        if field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )

    def make(values: dict[str, Any], _: dict[str, Any]) -> Any:
        made = cls(**{name: value for name, value in values.items() if name in given})
        for name, value in values.items():
            object.__setattr__(made, name, value)
        return made

    return Record(cls, {name: hints[name] for name in names}, required, _reader(names), make)


def _reader(names: list[str]) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {name: getattr(value, name) for name in names}


# -- named tuples ----------------------------------------------------------------------------------------------------


def _is_named_tuple(cls: type[Any]) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields") and hasattr(cls, "_make")


def _named_tuple(cls: type[Any]) -> Record:
    hints, names, defaults = _hints(cls), cls._fields, cls._field_defaults

    def make(values: dict[str, Any], _: dict[str, Any]) -> Any:
        return cls._make([values[name] if name in values else defaults[name] for name in names])

    found = {name: hints.get(name, Any) for name in names}
    return Record(cls, found, frozenset(names) - defaults.keys(), cls._asdict, make)


# -- msgspec ---------------------------------------------------------------------------------------------------------


def _is_struct(cls: type[Any]) -> bool:
    msgspec = sys.modules.get("msgspec")
    return msgspec is not None and issubclass(cls, msgspec.Struct) and cls is not msgspec.Struct


def _struct(cls: type[Any]) -> Record:
    structs = sys.modules["msgspec"].structs
    hints = _hints(cls)
    names = list(cls.__struct_fields__)

    def make(values: dict[str, Any], _: dict[str, Any]) -> Any:
        made = cls(**values)
        for name, value in values.items():
            structs.force_setattr(made, name, value)
        return made

    required = frozenset(field.name for field in structs.fields(cls) if field.required)
    return Record(cls, {name: hints[name] for name in names}, required, _reader(names), make)


# -- pydantic --------------------------------------------------------------------------------------------------------


def _is_pydantic(cls: type[Any]) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(cls, pydantic.BaseModel) and cls is not pydantic.BaseModel


def _pydantic(cls: type[Any]) -> Record:
    fields = cls.model_fields

    def take(value: Any) -> dict[str, Any]:
        taken = {name: value.__dict__[name] for name in fields if name in value.__dict__}
        # Equality of models looks at these too.
        taken[_SET] = sorted(value.model_fields_set)
        taken[_EXTRA], taken[_PRIVATE] = value.model_extra, value.__pydantic_private__
        return taken

    def make(values: dict[str, Any], plain: dict[str, Any]) -> Any:
        # Not validated: a validator may change what it was not written to see twice.
        made = cls.model_construct(_fields_set=set(plain[_SET]), **values, **(plain[_EXTRA] or {}))
        if plain[_PRIVATE] is not None:
            made.__pydantic_private__.update(plain[_PRIVATE])
        return made

    required = frozenset(name for name, field in fields.items() if field.is_required())
    return Record(cls, {name: field.annotation for name, field in fields.items()}, required, take, make)


_KINDS: tuple[tuple[Callable[[type[Any]], bool], Callable[[type[Any]], Record]], ...] = (
    (_is_pydantic, _pydantic),
    (_is_struct, _struct),
    (dataclasses.is_dataclass, _dataclass),
    (_is_named_tuple, _named_tuple),
)
