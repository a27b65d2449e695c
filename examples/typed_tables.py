"""Typed tables: values of one type under text keys, in memory, in Redis, or in several layers at once.

Runs without any server: ``python examples/typed_tables.py``. With ``DATALAYER_TABLES_URL`` (``redis://localhost:6379/0``,
``memcached://localhost:11211``) the first part keeps its values there.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime

from datalayer import Layers, tables
from datalayer.tables import Bounded, Compressed, Encrypted, Layer, MemoryProvider, Tables


@dataclass
class Player:
    id: int
    name: str
    seen: datetime
    badges: set[str] = field(default_factory=set)


players = tables.table("players", Player, ttl="30m")  # may be made before the provider is known


def typed_values() -> None:
    tables.configure_from_env()
    ann = Player(1, "ann", datetime.now(UTC), {"gold"})
    players.set("1", ann)
    assert players.get("1") == ann  # equal, of the same type, in the same zone
    assert players.get("2") is None
    players.set_many({"2": Player(2, "bob", ann.seen), "3": Player(3, "cyd", ann.seen)}, ttl=60)
    print("three players:", sorted(players.get_many(["1", "2", "3"])))
    print("keys by pattern:", sorted(players.keys("[12]")))
    print("cleared:", players.clear())


def swapped_providers() -> None:
    players.set("1", Player(1, "ann", datetime.now(UTC)))
    tables.swap_provider(MemoryProvider(max_entries=1000))  # calls in flight end where they began
    print("after the swap:", players.get("1"))
    tables.close()


def layered_values() -> None:
    near = MemoryProvider(max_entries=100)
    low = Encrypted(MemoryProvider(), keys={"k1": secrets.token_bytes(32)})  # a store or Redis in earnest
    layers = Layers(Layer(name="L1", provider=near, ttl=60), ("persistent", Compressed(low)))
    with Tables(layers, key_prefix="example:", default_ttl="1h") as service:
        texts = service.table("texts", str)
        texts.set("a", "all work and no play " * 100)
        near.clear()
        assert texts.get("a") is not None  # from the lowest layer, and now in the near one again
        print("filled upwards:", list(near.keys()))
        texts.delete("a")
        print("deleted everywhere:", texts.get("a"), near.get("example:texts:a"))


def bounded_values() -> None:
    with Tables(Bounded(MemoryProvider(), max_entries=2, eviction="lru")) as service:
        numbers = service.table("numbers", int)
        numbers.set_many({"one": 1, "two": 2})
        numbers.get("one")
        numbers.set("three", 3)
        print("least recently used is gone:", sorted(numbers.keys()))


if __name__ == "__main__":
    typed_values()
    swapped_providers()
    layered_values()
    bounded_values()
