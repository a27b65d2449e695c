"""What a type checker knows of tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

api = pytest.importorskip("mypy.api", reason="mypy is not installed")

CODE = """
from dataclasses import dataclass
from datalayer import Layers, tables
from datalayer.contracts.provider import Provider, Scannable
from datalayer.tables import MemoryProvider, RedisProvider, MemcachedProvider, Compressed, StoreProvider, Tables

@dataclass
class User:
    id: int

users = tables.table("users", User)
reveal_type(users)
reveal_type(users.get("1"))
reveal_type(users.get("1", 0))
reveal_type(users.get_many(["1"]))
reveal_type(tables.native(MemoryProvider))
users.set("1", "no user")
a: Provider = MemoryProvider()
b: Provider = Compressed(a)
c: Provider = Layers(("a", a), ("b", b))
d: type[Provider] = RedisProvider
e: type[Provider] = StoreProvider
f: type[Provider] = MemcachedProvider
g: Scannable = MemoryProvider()
"""

EXPECTED = [
    "Table[page.User]",
    "page.User | None",
    "page.User | int",
    "dict[str, page.User]",
    "datalayer.tables.memory.MemoryProvider",
]


def test_values_have_the_type_of_their_table(tmp_path: Path) -> None:
    page = tmp_path / "page.py"
    page.write_text(CODE)
    root = Path(__file__).parents[2]
    output, _, _ = api.run(["--strict", "--config-file", str(root / "pyproject.toml"), str(page)])
    revealed = [
        re.sub(r"builtins\.|datalayer\.tables\.typed\.", "", r) for r in re.findall(r'Revealed type is "(.*)"', output)
    ]
    assert revealed == EXPECTED
    errors = [line for line in output.splitlines() if "error:" in line]
    assert len(errors) == 1, output
    assert '"set" of "Table" has incompatible type "str"; expected "User"' in errors[0]
