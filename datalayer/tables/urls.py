"""Providers by URL, as the environment names them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from ..contracts.provider import Provider
from ..contracts.urls import redact_url
from ..errors import ConfigError
from .memory import MemoryProvider

Factory = Callable[[str], Provider]

PREFIX = "DATALAYER_TABLES_"
_NAMES = ("URL", "KEY_PREFIX", "DEFAULT_TTL", "CODEC")


def _memory(_url: str) -> Provider:
    return MemoryProvider()


def _redis(url: str) -> Provider:
    from .redis import RedisProvider  # redis-py is loaded where it is used

    return RedisProvider(url)


def _memcached(url: str) -> Provider:
    from .memcached import MemcachedProvider  # an optional package

    return MemcachedProvider(url.partition("://")[2].rstrip("/"))


_FACTORIES: dict[str, Factory] = {
    "memory": _memory,
    **dict.fromkeys(("redis", "rediss", "unix", "redis+sentinel", "redis+cluster"), _redis),
    "memcached": _memcached,
}


def register_scheme(scheme: str, factory: Factory) -> None:
    """Have URLs that begin with ``scheme://`` made into providers by ``factory(url)``, in place of one before."""
    _FACTORIES[scheme.lower()] = factory


def provider_of(url: str) -> Provider:
    """The provider that a URL names: ``memory://``, the Redis URLs, ``memcached://host:port,host:port``, and what
    :func:`register_scheme` knows. ConfigError for others."""
    scheme, separator, _ = url.partition("://")
    factory = _FACTORIES.get(scheme.lower())
    if not separator or factory is None:
        raise ConfigError(f"found {redact_url(url)!r}, expected a URL that begins with {', '.join(_FACTORIES)} and ://")
    return factory(url)


def options_of(environ: Mapping[str, str] = os.environ) -> tuple[str, dict[str, str]]:
    """The URL and the options of :meth:`Tables.configure` that the environment names.

    Without ``DATALAYER_TABLES_URL`` the URL is ``DATALAYER_REDIS``, or else ``memory://``. Empty counts as not set.
    """
    given = {name[len(PREFIX) :]: text for name, text in environ.items() if name.startswith(PREFIX) and text.strip()}
    if unknown := sorted(given.keys() - set(_NAMES)):
        names = ", ".join(PREFIX + name for name in _NAMES)
        raise ConfigError(f"{PREFIX}{unknown[0]}: no option has this name; there are {names}")
    url = given.pop("URL", "") or environ.get("DATALAYER_REDIS", "").strip() or "memory://"
    return url, {name.lower(): text for name, text in given.items()}
