"""The rules of engines: stores by the name of their kind."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ...contracts.store import Store, abilities_of
from ...errors import ConfigError
from .base import in_threads


class EngineCompliance:
    """The rules of :class:`~datalayer.contracts.store.Engine`. Tests ask for ``engine`` and ``place``, a folder."""

    @abstractmethod
    def make_engine(self) -> Any:
        """The engine."""

    def options(self, place: Path, name: str) -> dict[str, Any]:
        """What the engine needs to open a store of its own for ``name``; nothing by default."""
        return {}

    @pytest.fixture
    def engine(self) -> Any:
        return self.make_engine()

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        return tmp_path

    def test_it_has_a_name(self, engine: Any) -> None:
        assert isinstance(engine.name, str)
        assert engine.name

    def test_it_opens_stores(self, engine: Any, place: Path) -> None:
        with closing(self._open(engine, place, "one")) as store:
            assert isinstance(store, Store)
            store.put(b"k", b"v")
            assert store.get(b"k") == b"v"

    def test_its_stores_have_the_abilities_that_it_says(self, engine: Any, place: Path) -> None:
        with closing(self._open(engine, place, "one")) as store:
            assert set(engine.abilities) == abilities_of(store)

    def test_stores_of_two_names_are_two(self, engine: Any, place: Path) -> None:
        with closing(self._open(engine, place, "one")) as one, closing(self._open(engine, place, "two")) as two:
            one.put(b"k", b"one")
            assert two.get(b"k") is None
            two.put(b"k", b"two")
            assert one.get(b"k") == b"one"

    def test_closing_a_store_leaves_the_others_open(self, engine: Any, place: Path) -> None:
        with closing(self._open(engine, place, "two")) as two:
            self._open(engine, place, "one").close()
            two.put(b"k", b"v")
            assert two.get(b"k") == b"v"

    def test_an_option_that_it_does_not_know_is_refused(self, engine: Any, place: Path) -> None:
        with pytest.raises(ConfigError, match="no_such_option"):
            engine.open("one", **self.options(place, "one"), no_such_option=1)

    def test_it_opens_stores_in_many_threads(self, engine: Any, place: Path) -> None:
        def work(number: int) -> bytes | None:
            with closing(self._open(engine, place, f"store{number}")) as store:
                store.put(b"k", b"%d" % number)
                found: bytes | None = store.get(b"k")
                return found

        assert sorted(in_threads(work, 4)) == [b"0", b"1", b"2", b"3"]

    def _open(self, engine: Any, place: Path, name: str) -> Any:
        return engine.open(name, **self.options(place, name))
