"""``Tables``: one provider for many typed tables, which can be exchanged while calls are in flight."""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from ..codecs.registry import codec_named
from ..config.units import seconds
from ..contracts.codec import Codec
from ..contracts.provider import Native, Provider
from ..errors import ConfigError, UnavailableError
from .checks import check_ttl
from .forks import renew_after_fork
from .serializers import Serializer
from .typed import Table

T = TypeVar("T")

log = logging.getLogger("datalayer.tables")

SEPARATOR = ":"


class _Slot:
    """A provider and the calls that are using it: whoever comes last after its retirement closes it."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._users = 0
        self._retired = False

    def enter(self) -> bool:
        """Take part; False when the provider has been replaced meanwhile."""
        with self._lock:
            if self._retired:
                return False
            self._users += 1
            return True

    def __enter__(self) -> Provider:
        return self.provider

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            is_last = self._retired and not self._users
        if is_last:
            self._end()

    def retire(self) -> None:
        with self._lock:
            is_last = not self._retired and not self._users
            self._retired = True
        if is_last:
            self._end()

    def _end(self) -> None:
        try:
            self.provider.close()
        except Exception:  # it is no concern of the call that happened to be the last
            log.warning("a provider that is not needed any more failed to close: %r", self.provider, exc_info=True)
        finally:
            self.ended.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What all tables of a service have in common; see :meth:`Tables.configure`."""

    key_prefix: str = ""
    default_ttl: float | None = None
    codec: Codec


class Tables:
    """Typed tables over one provider. Thread-safe; survives a fork. A context manager that closes at its end.

    The provider becomes the service's own: it is closed with the service, or when it is replaced and the last call that
    uses it has returned. Tables may be made before the service is configured, and follow every change of it.
    """

    def __init__(self, provider: Provider | None = None, **options: Any) -> None:
        self._lock = threading.Lock()
        self._slot: _Slot | None = None
        self._closed = False
        self.options = Options(codec=codec_named("msgpack"))
        renew_after_fork(self)
        if provider is not None:
            self.configure(provider, **options)
        elif options:
            raise ConfigError(f"options {', '.join(options)} without a provider; pass one first")

    def configure(
        self, provider: Provider, *, key_prefix: str = "", default_ttl: object = None, codec: str | Codec = "msgpack"
    ) -> None:
        """Use this provider and these options from now on; one before it goes as in :meth:`swap_provider`.

        Every key begins with ``key_prefix``, the table's name and a colon. ``default_ttl`` (seconds or ``"5m"``; None
        for no end) is the life of values that are set without one in tables without one. ``codec`` (``"msgpack"``,
        ``"json"`` or an object) is for tables made from now on. ConfigError for options that are none.
        """
        if not isinstance(key_prefix, str):
            raise ConfigError(f"key_prefix is a {type(key_prefix).__name__}; expected text such as 'myapp:'")
        options = Options(key_prefix=key_prefix, default_ttl=life_of(default_ttl), codec=codec_named(codec))
        self._put(checked(provider), options)

    def swap_provider(self, provider: Provider, *, timeout: float | None = None) -> bool:
        """Send all calls from now on to another provider; those in flight end where they began.

        The provider before is closed when its last call has returned: True if that was within ``timeout`` seconds (None
        does not wait). What it held is not copied. ConfigError before ``configure``.
        """
        if self._slot is None:
            raise ConfigError("there is no provider to swap; call configure(provider) first")
        before = self._put(checked(provider), self.options)
        return before is None or before.ended.wait(timeout or 0)

    def table(
        self,
        name: str,
        of: type[T],
        *,
        ttl: object = None,
        serializer: Serializer[T] | None = None,
    ) -> Table[T]:
        """The table of that name for values of type ``of``; costs nothing and may be made as often as one likes.

        ``ttl`` is the life of its values where ``set`` gives none. ConfigError for a name with a colon in it, which
        would make one table's keys another's, and for a type that has no serializer.
        """
        if not isinstance(name, str) or not name or SEPARATOR in name:
            raise ConfigError(f"a table's name is {name!r}; expected a text without {SEPARATOR!r}")
        return Table(self, name, of, ttl=life_of(ttl), serializer=serializer)

    def native(self, of: type[T]) -> T:
        """The provider, or the client beneath it, as what it is: ``native(redis.Redis).sadd(...)``.

        ConfigError if it is of another type. Do not keep it beyond a swap, and do not close it.
        """
        provider = self._in_use().provider
        if isinstance(provider, of):
            return provider
        client = provider.native if isinstance(provider, Native) else None
        if isinstance(client, of):
            return client
        found = f"{provider!r}" + ("" if client is None else f" over a {type(client).__name__}")
        raise ConfigError(f"found {found}, expected a {of.__module__}.{of.__qualname__}")

    def provider(self) -> AbstractContextManager[Provider]:
        """The provider for the calls of one ``with`` block, which it is not closed before the end of."""
        while True:  # a swap between the two lines sends us to the next provider
            slot = self._in_use()
            if slot.enter():
                return slot

    def close(self) -> None:
        """End the service until it is configured again, and its provider when its last call has returned.

        May be called twice. Until then every call raises :class:`~datalayer.errors.UnavailableError`.
        """
        with self._lock:
            self._closed, slot, self._slot = True, self._slot, None
        if slot is not None:
            slot.retire()

    def reset_after_fork(self) -> None:
        """In the child: nobody else is using the provider."""
        self._lock = threading.Lock()
        if self._slot is not None:
            self._slot = _Slot(self._slot.provider)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        slot = self._slot
        return f"<Tables: {'closed' if self._closed else 'not configured' if slot is None else repr(slot.provider)}>"

    def _put(self, provider: Provider, options: Options) -> _Slot | None:
        """Returns what was replaced."""
        with self._lock:
            self._closed, self.options, before = False, options, self._slot
            if before is not None and before.provider is provider:
                return None
            self._slot = _Slot(provider)
        if before is not None:
            before.retire()
        return before

    def _in_use(self) -> _Slot:
        slot = self._slot
        if self._closed:
            raise UnavailableError("these tables are closed; configure them again, or make others")
        if slot is None:
            raise ConfigError("tables have no provider; call datalayer.tables.configure(provider) at start-up")
        return slot


def life_of(value: object) -> float | None:
    """A life in seconds from a number or a text such as ``"5m"``, or None; ConfigError for anything else."""
    return None if value is None else check_ttl(seconds(value, name="ttl"))


def checked(provider: Any) -> Provider:
    """The provider; ConfigError for what is none."""
    if isinstance(provider, Provider):
        return provider
    raise ConfigError(
        f"provider is a {type(provider).__name__}; expected a datalayer.tables provider such as RedisProvider(url), "
        "or StoreProvider(store) around a key/value store"
    )
