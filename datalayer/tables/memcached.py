"""``MemcachedProvider``: values in one or several memcached servers, through pymemcache.

Lists of keys and lives come from memcached's meta commands and its crawler's dump (doc/protocol.txt of memcached, 1.6.9
and newer). A dump is a walk over all that the servers hold, in their background thread.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from ..errors import ConfigError, EncodeError, MissingDriverError, UnavailableError
from .checks import check_key, check_ttl, check_value
from .forks import renew_after_fork

try:
    from pymemcache.client.hash import HashClient
    from pymemcache.exceptions import MemcacheError, MemcacheUnexpectedCloseError
except ImportError as missing:
    raise MissingDriverError("memcached needs pymemcache: pip install 'datalayer[memcached]'") from missing

from . import meta

R = TypeVar("R")

_PORT = 11211
_LONGEST_KEY = 250
_PAGE = 500
_MONTH = 30 * 86400
_SAFE = "!\"#$&'()*+,/:;<=>?@[\\]^`{|}"
_LOST = (MemcacheUnexpectedCloseError, ConnectionResetError, BrokenPipeError)


class MemcachedProvider:
    """A :class:`~datalayer.contracts.provider.Provider`, also Scannable, Expiring, Adding and Native. Thread-safe.

    ``servers`` is ``"host:port"``, several of them with commas or as a list; each key has one of them by rendezvous
    hashing, as in pymemcache's ``HashClient``, which is ``native``. A server that is down is an
    :class:`~datalayer.errors.UnavailableError` for its keys and never replaced by another one, whose older values would
    come to light. ``timeout`` in seconds bounds every wait; a command on a connection that had died is sent again.

    Lives are whole seconds, rounded up. A key takes up to 250 bytes, where a space, a control or a non-ASCII byte
    counts three. What takes many keys costs a round trip for each 500 of them on a server, one after the other;
    ``add_many`` and ``ttl_many`` cost one for each key. ``keys`` and ``clear`` dump the names of everything on all
    servers, about 100 bytes a value.
    """

    def __init__(self, servers: str | Sequence[str], *, timeout: float = 1.0, max_connections: int = 100) -> None:
        self._addresses = _addresses(servers)
        self._options = {"timeout": timeout, "connect_timeout": timeout, "max_pool_size": max_connections}
        self._closed = False
        self._connect()
        renew_after_fork(self)

    def _connect(self) -> None:
        self._hash: Any = HashClient(
            self._addresses, use_pooling=True, no_delay=True, default_noreply=False, retry_attempts=0, **self._options
        )

    @property
    def native(self) -> HashClient:
        """pymemcache's client over the same servers."""
        return self._hash

    # -- one key ---------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        name = _name(key)
        found: bytes | None = self._ask(name, lambda client: client.get(name))
        return found

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        name, life = _name(key), _seconds(ttl)
        check_value(value, key)
        _stored(key, self._ask(name, lambda client: client.set(name, value, expire=life), key))

    def add(self, key: str, value: bytes, ttl: float | None = None) -> bool:
        name, life = _name(key), _seconds(ttl)
        check_value(value, key)
        return bool(self._ask(name, lambda client: client.add(name, value, expire=life), key, again=False))

    def delete(self, key: str) -> bool:
        name = _name(key)
        return bool(self._ask(name, lambda client: client.delete(name)))

    def exists(self, key: str) -> bool:
        name = _name(key)
        return bool(self._ask(name, lambda client: meta.exists(client, name)))

    def ttl(self, key: str) -> float | None:
        name = _name(key)
        left: int | None = self._ask(name, lambda client: meta.life(client, name))
        return None if left is None else math.inf if left < 0 else float(left)

    # -- many ------------------------------------------------------------------------------------------------------

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        names = {_name(key): key for key in keys}
        found: dict[str, bytes] = {}
        for group in self._grouped(names):
            found |= self._ask(group[0], _calling("get_many", group))
        return {names[name]: value for name, value in found.items()}

    def set_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> None:
        life = _seconds(ttl)
        values = {_name(key): check_value(value, key) for key, value in items.items()}
        for group in self._grouped(values):
            some = {name: values[name] for name in group}
            failed = self._ask(group[0], _calling("set_many", some, expire=life), "set_many")
            _stored(", ".join(map(unquote, failed)), not failed)

    def add_many(self, items: Mapping[str, bytes], ttl: float | None = None) -> int:
        return sum([self.add(key, value, ttl) for key, value in items.items()])

    def ttl_many(self, keys: Iterable[str]) -> dict[str, float]:
        left = {key: self.ttl(key) for key in keys}
        return {key: seconds for key, seconds in left.items() if seconds is not None}

    def delete_many(self, keys: Iterable[str]) -> int:
        groups = self._grouped(dict.fromkeys(map(_name, keys)))
        return sum(self._ask(group[0], partial(meta.delete_all, names=group)) for group in groups)

    def keys(self, prefix: str = "") -> Iterator[str]:
        for client in list(self._open().clients.values()):
            names = self._call(client, lambda client: list(meta.dump(client)))
            # The server encodes the names, which are encoded already.
            yield from (key for name in names if (key := unquote(unquote(name))).startswith(prefix))

    def clear(self, prefix: str = "") -> int:
        found = self.keys(prefix)
        return sum(map(self.delete_many, iter(lambda: list(itertools.islice(found, _PAGE)), [])))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for client in self._hash.clients.values():
                client.close()

    def reset_after_fork(self) -> None:
        """In the child: connections of its own."""
        self._connect()

    def __repr__(self) -> str:
        shown = ",".join(f"{host}:{port}" for host, port in self._addresses)
        return f"<MemcachedProvider: {shown}{', closed' if self._closed else ''}>"

    # -- inside ----------------------------------------------------------------------------------------------------

    def _open(self) -> Any:
        if self._closed:
            raise UnavailableError("this MemcachedProvider is closed; make another one")
        return self._hash

    def _grouped(self, names: Iterable[str]) -> list[list[str]]:
        node_of = self._open().hasher.get_node
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(node_of(name), []).append(name)
        return [group[at : at + _PAGE] for group in groups.values() for at in range(0, len(group), _PAGE)]

    def _ask(self, name: str, call: Callable[[Any], Any], key: str = "", *, again: bool = True) -> Any:
        clients = self._open()
        return self._call(clients.clients[clients.hasher.get_node(name)], call, key, again=again)

    def _call(self, client: Any, call: Callable[[Any], R], key: str = "", *, again: bool = True) -> R:
        # After a restart of the server every connection in the pool is dead, and each failure rids us of one.
        tries = len(client.client_pool.free) + 1 if again else 0
        while True:
            try:
                return call(client)
            except _LOST as error:
                tries -= 1
                if tries < 0:
                    raise _unavailable(client, error) from error
            except (MemcacheError, OSError) as error:
                if "too large" in str(error):
                    raise EncodeError(f"a value for {key!r} is larger than memcached's item size (-I)") from error
                raise _unavailable(client, error) from error


def _calling(method: str, *args: Any, **options: Any) -> Callable[[Any], Any]:
    return lambda client: getattr(client, method)(*args, **options)


def _addresses(servers: str | Sequence[str]) -> list[tuple[str, int]]:
    items = servers.split(",") if isinstance(servers, str) else list(servers)
    found = [_address(item.strip()) for item in items if item.strip()]
    if not found:
        raise ConfigError("servers names no memcached server; expected 'host:port', several of them with commas")
    return found


def _address(item: str) -> tuple[str, int]:
    host, colon, port = item.rpartition(":")
    if not colon:
        return item, _PORT
    if not host or not port.isdigit():
        raise ConfigError(f"servers names {item!r}; expected 'host:port' or 'host'")
    return host, int(port)


def _name(key: str) -> str:
    """The key as memcached takes it: no spaces, no control characters, ASCII."""
    name = quote(check_key(key), safe=_SAFE)
    if len(name) > _LONGEST_KEY:
        raise EncodeError(f"key {key[:40]!r}... takes {len(name)} bytes; memcached allows {_LONGEST_KEY}")
    return name


def _seconds(ttl: float | None) -> int:
    checked = check_ttl(ttl)
    if checked is None:
        return 0
    whole = math.ceil(checked)
    return whole if whole <= _MONTH else int(time.time()) + whole  # more than a month is taken for a date


def _stored(key: str, done: bool) -> None:
    if not done:
        raise UnavailableError(f"memcached did not store the value for {key!r}")


def _unavailable(client: Any, error: Exception) -> UnavailableError:
    host, port = client.server
    return UnavailableError(f"memcached {host}:{port} failed ({type(error).__name__}); the cause has its words")
