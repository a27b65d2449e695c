"""Typed tables over a cache or a store: ``table("users", User)`` in memory, Redis, memcached, or any key/value store.

``configure`` gives the application's tables their provider, :class:`Tables` is a service of one's own. ``Layers`` makes
one provider of several; ``Bounded``, ``Compressed``, ``Encrypted``, ``Validated`` and ``Measured`` are wrappers of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .bounded import Bounded
from .compressed import Compressed
from .default import close, configure, configure_from_env, native, swap_provider, table
from .layers import Layers
from .level import Layer
from .measured import Measured
from .memory import MemoryProvider
from .serializers import Serializer, register_serializer
from .service import Tables
from .store import StoreProvider
from .typed import Table
from .urls import register_scheme
from .validated import Validated

if TYPE_CHECKING:
    from .encrypted import Encrypted
    from .memcached import MemcachedProvider
    from .redis import RedisProvider

__all__ = [
    "Bounded",
    "Compressed",
    "Encrypted",
    "Layer",
    "Layers",
    "Measured",
    "MemcachedProvider",
    "MemoryProvider",
    "RedisProvider",
    "Serializer",
    "StoreProvider",
    "Table",
    "Tables",
    "Validated",
    "close",
    "configure",
    "configure_from_env",
    "native",
    "register_scheme",
    "register_serializer",
    "swap_provider",
    "table",
]

#: Names whose modules import a driver, which is loaded when somebody asks for the name.
_LATER = {"Encrypted": "encrypted", "MemcachedProvider": "memcached", "RedisProvider": "redis"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LATER[name]}", __name__), name)
