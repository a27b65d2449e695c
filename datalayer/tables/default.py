"""The tables of the application: one service that is configured at start-up and used from everywhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeVar

from ..contracts.codec import Codec
from ..contracts.provider import Provider
from ..errors import ConfigError
from .serializers import Serializer
from .service import Tables
from .typed import Table
from .urls import PREFIX, options_of, provider_of

T = TypeVar("T")

_tables = Tables()


def configure(
    provider: Provider, *, key_prefix: str = "", default_ttl: object = None, codec: str | Codec = "msgpack"
) -> None:
    """Give the application's tables their provider and options; see :meth:`Tables.configure`."""
    _tables.configure(provider, key_prefix=key_prefix, default_ttl=default_ttl, codec=codec)


def configure_from_env(environ: Mapping[str, str] = os.environ) -> None:
    """Configure from ``DATALAYER_TABLES_URL`` (``memory://``, ``redis://…``, ``redis+sentinel://…``,
    ``redis+cluster://…``, ``memcached://host:port,…``; else ``DATALAYER_REDIS``, else memory),
    ``DATALAYER_TABLES_KEY_PREFIX``, ``DATALAYER_TABLES_DEFAULT_TTL`` and ``DATALAYER_TABLES_CODEC``.

    ConfigError names a variable that is misspelt or wrong.
    """
    url, options = options_of(environ)
    provider = provider_of(url)
    try:
        _tables.configure(provider, **options)
    except ConfigError as error:
        provider.close()
        raise ConfigError(f"environment variables {PREFIX}*: {error}") from None


def table(name: str, of: type[T], *, ttl: object = None, serializer: Serializer[T] | None = None) -> Table[T]:
    """The application's table of that name; may be called before :func:`configure`. See :meth:`Tables.table`."""
    return _tables.table(name, of, ttl=ttl, serializer=serializer)


def native(of: type[T]) -> T:
    """The provider or its client, if it is of that type; see :meth:`Tables.native`."""
    return _tables.native(of)


def swap_provider(provider: Provider, *, timeout: float | None = None) -> bool:
    """Send all calls from now on to another provider; see :meth:`Tables.swap_provider`."""
    return _tables.swap_provider(provider, timeout=timeout)


def close() -> None:
    """End the application's tables and their provider, as at shutdown; :func:`configure` starts them again."""
    _tables.close()
