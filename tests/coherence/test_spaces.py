"""A commit finds the spaces that it concerns by their tables, and none that is gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from datalayer.coherence.spaces import Spaces
from datalayer.contracts.coherence import WriteSet


@dataclass(eq=False)
class Space:
    base_table: str
    space: str
    tables: frozenset[str]


def named(base: str, *more: str, name: str | None = None) -> Any:
    return Space(base, name or base, frozenset((base, *more)))


@pytest.mark.parametrize(
    "written",
    [
        WriteSet(keys={"a": {(1,)}}, extent={"a": {"a"}}),
        WriteSet(tables={"a"}),
        WriteSet(births={"a"}),
        WriteSet(births={"b"}, reborn={"a"}),
        WriteSet(keys={"c": {(1,)}}, extent={"c": {"c", "a"}}),
        WriteSet(everything=True),
    ],
)
def test_every_way_of_writing_a_table_concerns_its_spaces(written: WriteSet) -> None:
    spaces, a, joined = Spaces(), named("a"), named("b", "a", name="other")
    spaces.add(a)
    spaces.add(joined)
    assert set(spaces.concerned(written)) == {a, joined}


def test_other_spaces_are_not_looked_at() -> None:
    spaces, a, b = Spaces(), named("a"), named("b")
    spaces.add(a)
    spaces.add(b)
    assert list(spaces.concerned(WriteSet(tables={"b"}))) == [b]
    assert spaces.named("a") == [a]
    assert "a" in spaces
    assert "c" not in spaces


def test_a_space_that_is_gone_is_forgotten() -> None:
    spaces, kept = Spaces(), named("a")
    spaces.add(named("a"))
    spaces.add(kept)
    spaces.add(named("b"))
    assert list(spaces) == [kept]
    assert list(spaces.concerned(WriteSet(tables={"a", "b"}))) == [kept]
    assert "b" not in spaces
