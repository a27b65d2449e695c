"""Instances of SQLAlchemy-mapped classes as values: their loaded columns, and whether the database has them."""

from __future__ import annotations

import enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstanceState, Mapper, attributes, class_mapper, make_transient_to_detached
from sqlalchemy.orm.exc import DetachedInstanceError, UnmappedClassError

from ..contracts.codec import Codec
from ..errors import ConfigError, DecodeError, EncodeError
from ..models.policy import policy_of
from ..models.sealed import encrypted_attributes
from .shapes import Shape, shape_of


def is_mapped(cls: Any) -> bool:
    """Whether SQLAlchemy maps the class."""
    return isinstance(cls, type) and _mapper(cls) is not None


def _mapper(cls: type[Any]) -> Mapper[Any] | None:
    try:
        return class_mapper(cls)
    except UnmappedClassError:
        return None


class MappedSerializer:
    """One mapped class, without its subclasses. Thread-safe.

    An instance of a session that has expired columns gets them loaded first. Columns that were never loaded (deferred)
    stay unloaded, relationships are left out. What comes back belongs to no session: it is *detached* if the database
    had it, so that ``session.merge(found, load=False)`` or ``session.add(found)`` makes it the session's.

    ConfigError for a class with encrypted columns: its values would be written down readable, unless its policy allows
    that (``l2_plaintext``).
    """

    def __init__(self, cls: type[Any], codec: Codec) -> None:
        self._cls, self._codec = cls, codec
        mapper: Mapper[Any] = class_mapper(cls)
        _refuse_encrypted(mapper)
        self._shapes = {attribute.key: _shape(attribute.columns[0].type) for attribute in mapper.column_attrs}
        self._manager: Any = mapper.class_manager

    def dump(self, value: Any) -> bytes:
        if type(value) is not self._cls:
            raise EncodeError(f"found a {type(value).__name__}, expected a {self._cls.__name__}")
        state: InstanceState[Any] = sa.inspect(value)
        self._load_expired(value, state)
        columns = {key: shape.plain(state.dict[key]) for key, shape in self._shapes.items() if key in state.dict}
        return self._codec.encode([state.key is not None, columns])

    def _load_expired(self, value: Any, state: InstanceState[Any]) -> None:
        try:
            for key in state.expired_attributes & self._shapes.keys():
                getattr(value, key)
        except DetachedInstanceError as error:
            name = self._cls.__name__
            raise EncodeError(
                f"a {name} has expired columns and no session; refresh it before it leaves one"
            ) from error

    def load(self, data: bytes) -> Any:
        stored, columns = self._codec.decode(data)
        if not isinstance(columns, dict) or not isinstance(stored, bool):
            raise DecodeError(f"these bytes are not a {self._cls.__name__}")
        made = self._manager.new_instance()
        for key, plain in columns.items():
            if key in self._shapes:  # else of another release, which had one more column
                attributes.set_committed_value(made, key, self._shapes[key].value(plain))
        if stored:
            make_transient_to_detached(made)
        return made


def _refuse_encrypted(mapper: Mapper[Any]) -> None:
    secret = encrypted_attributes(mapper)
    if secret and not policy_of(mapper.class_).l2_plaintext:
        raise ConfigError(
            f"{mapper.class_.__name__}.{next(iter(secret))} is encrypted, and a table would have it written readable; "
            "use a class of your own for the values, or CachePolicy(l2_plaintext=True) if the provider may see them"
        )


def _shape(kind: sa.types.TypeEngine[Any]) -> Shape:
    if isinstance(kind, sa.Enum) and kind.enum_class is not None and issubclass(kind.enum_class, enum.Enum):
        return shape_of(kind.enum_class | None)
    return shape_of(Any)
