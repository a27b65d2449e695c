"""``Table[T]``: values of one type under text keys, in a corner of a provider that no other table touches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from ..config.units import seconds
from ..contracts.provider import Adding, Expiring, Provider, Scannable
from ..errors import ConfigError
from .checks import check_key, check_ttl
from .patterns import split_pattern
from .serializers import Serializer, dumped, loaded, serializer_for

if TYPE_CHECKING:
    from .service import Tables

T = TypeVar("T")
D = TypeVar("D")

_PAGE = 500
_GIVEN: Any = object()


class Table(Generic[T]):
    """Values of type ``T``. Thread-safe. Made by :meth:`Tables.table`; follows the service's provider and options.

    A value of another type raises :class:`~datalayer.errors.EncodeError`, also one of a subclass; stored bytes that are
    none of this table's raise :class:`~datalayer.errors.DecodeError` with table and key. ``ttl`` is seconds or a text
    such as ``"5m"``; without it the table's and then the service's counts, and None keeps the value for good.
    Every call is one call to the provider; a value is copied by being encoded, so nobody shares it.
    """

    def __init__(
        self, service: Tables, name: str, of: type[T], *, ttl: float | None, serializer: Serializer[T] | None
    ) -> None:
        self.name = name
        self._service = service
        self._of = of
        self._ttl = ttl
        self._serializer = serializer or serializer_for(of, service.options.codec)

    # -- one key ---------------------------------------------------------------------------------------------------

    @overload
    def get(self, key: str) -> T | None: ...

    @overload
    def get(self, key: str, default: D) -> T | D: ...

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or ``default`` where there is none."""
        with self._service.provider() as provider:
            data = provider.get(self._full(key))
        return default if data is None else self._load(key, data)

    def set(self, key: str, value: T, *, ttl: object = _GIVEN) -> None:
        """Keep the value, in place of one before."""
        full, data, life = self._full(key), self._dump(key, value), self._life(ttl)
        with self._service.provider() as provider:
            provider.set(full, data, life)

    def add(self, key: str, value: T, *, ttl: object = _GIVEN) -> bool:
        """Keep the value if there is none; says whether that was so. ConfigError if the provider cannot in one step."""
        full, data, life = self._full(key), self._dump(key, value), self._life(ttl)
        with self._service.provider() as provider:
            added: bool = self._able(provider, Adding, "add").add(full, data, life)
            return added

    def delete(self, key: str) -> bool:
        """Forget the value; says whether there was one."""
        with self._service.provider() as provider:
            return provider.delete(self._full(key))

    def exists(self, key: str) -> bool:
        """Whether there is a value, without fetching it."""
        with self._service.provider() as provider:
            return provider.exists(self._full(key))

    def ttl(self, key: str) -> float | None:
        """Seconds that the value has left: ``math.inf`` if it does not end, None if there is none.

        ConfigError if the provider cannot say.
        """
        with self._service.provider() as provider:
            left: float | None = self._able(provider, Expiring, "ttl").ttl(self._full(key))
            return left

    # -- many ------------------------------------------------------------------------------------------------------

    def get_many(self, keys: Iterable[str]) -> dict[str, T]:
        """The values that are there, by key: one round trip where the provider's server allows it."""
        full = {self._full(key): key for key in keys}
        with self._service.provider() as provider:
            found = provider.get_many(full)
        return {full[name]: self._load(full[name], data) for name, data in found.items()}

    def set_many(self, values: Mapping[str, T], *, ttl: object = _GIVEN) -> None:
        """Keep all these values; none of them if one cannot be encoded. Not atomic on the server."""
        items = {self._full(key): self._dump(key, value) for key, value in values.items()}
        life = self._life(ttl)
        with self._service.provider() as provider:
            provider.set_many(items, life)

    def delete_many(self, keys: Iterable[str]) -> int:
        """Forget these values; returns how many there were."""
        full = [self._full(key) for key in keys]
        with self._service.provider() as provider:
            return provider.delete_many(full)

    def keys(self, pattern: str = "*") -> Iterator[str]:
        """The keys that match, each once, in no order: a walk over the provider; see :mod:`datalayer.tables.patterns`.

        ``*`` is any text, ``?`` one character, ``[abc]`` one of these, and a backslash quotes. ConfigError if the
        provider cannot list its keys.
        """
        prefix, matches = split_pattern(pattern)
        start = self._start()
        with self._service.provider() as provider:
            for full in self._able(provider, Scannable, "keys").keys(start + prefix):
                if matches(key := full[len(start) :]):
                    yield key

    def clear(self, pattern: str = "*") -> int:
        """Forget the values of this table, or those whose keys match; returns how many. Touches no other table.

        Works in pages and does not block a server. What is set meanwhile may stay. ConfigError as from :meth:`keys`.
        """
        if pattern != "*":
            found = self.keys(pattern)
            return sum(map(self.delete_many, iter(lambda: list(islice(found, _PAGE)), [])))
        with self._service.provider() as provider:
            count: int = self._able(provider, Scannable, "clear").clear(self._start())
            return count

    def __repr__(self) -> str:
        return f"<Table {self.name} of {getattr(self._of, '__name__', self._of)}>"

    # -- inside ----------------------------------------------------------------------------------------------------

    def _start(self) -> str:
        return f"{self._service.options.key_prefix}{self.name}:"

    def _full(self, key: str) -> str:
        return self._start() + check_key(key)

    def _dump(self, key: str, value: T) -> bytes:
        return dumped(self._serializer, value, f"table {self.name}, key {key!r}")

    def _load(self, key: str, data: bytes) -> T:
        return loaded(self._serializer, data, f"table {self.name}, key {key!r}")

    def _life(self, ttl: object) -> float | None:
        if ttl is _GIVEN:
            return self._ttl if self._ttl is not None else self._service.options.default_ttl
        return None if ttl is None else check_ttl(seconds(ttl, name="ttl"))

    def _able(self, provider: Provider, ability: Any, method: str) -> Any:
        if isinstance(provider, ability):
            return provider
        raise ConfigError(f"table {self.name}: {provider!r} has no {method}; it would need to be {ability.__name__}")
