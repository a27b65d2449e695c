"""The rules of several stores under one roof."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from ...errors import AlreadyExistsError, ConfigError, NotFoundError, StoreError, UnavailableError
from .base import THREADS, in_threads


class Held:
    """A store of the suite's own, which says whether it was closed; closing it may fail."""

    def __init__(self, *, fails: bool = False) -> None:
        self.values: dict[bytes, bytes] = {}
        self.closed = 0
        self.fails = fails

    def get(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self.values[key] = value

    def delete(self, key: bytes) -> bool:
        return self.values.pop(key, None) is not None

    def exists(self, key: bytes) -> bool:
        return key in self.values

    def close(self) -> None:
        self.closed += 1
        if self.fails:
            raise StoreError("this store fails to close")


class MultiStoreCompliance:
    """The rules of :class:`~datalayer.contracts.store.MultiStore`. ``engine`` is one that needs no options."""

    engine = "memory"

    @abstractmethod
    def make_multistore(self) -> Any:
        """A new one that knows ``engine``."""

    @pytest.fixture
    def stores(self) -> Iterator[Any]:
        stores = self.make_multistore()
        yield stores
        stores.close()

    def test_a_store_that_was_opened_is_found_by_its_name(self, stores: Any) -> None:
        one, two = stores.open("one", self.engine), stores.open("two", self.engine)
        one.put(b"k", b"one")
        assert stores.store("one") is one
        assert stores.store("two") is two
        assert two.get(b"k") is None

    def test_a_store_that_was_added_is_found_by_its_name(self, stores: Any) -> None:
        held = Held()
        stores.add("mine", held)
        assert stores.store("mine") is held

    def test_names_are_in_order(self, stores: Any) -> None:
        for name in ("b", "c", "a"):
            stores.add(name, Held())
        assert stores.names() == ["a", "b", "c"]

    def test_a_name_is_taken_once(self, stores: Any) -> None:
        first, second = Held(), Held()
        stores.add("mine", first)
        with pytest.raises(AlreadyExistsError, match="mine"):
            stores.add("mine", second)
        with pytest.raises(AlreadyExistsError, match="mine"):
            stores.open("mine", self.engine)
        assert stores.store("mine") is first
        assert (first.closed, second.closed) == (0, 0)

    def test_a_name_that_nobody_has_is_an_error(self, stores: Any) -> None:
        stores.add("mine", Held())
        for call in (stores.store, stores.remove):
            with pytest.raises(NotFoundError, match="yours"):
                call("yours")

    def test_an_engine_that_nobody_knows_is_refused(self, stores: Any) -> None:
        with pytest.raises(ConfigError, match="no such engine"):
            stores.open("mine", "no such engine")
        stores.add("mine", Held())  # the name is still free

    def test_remove_closes_the_store_and_frees_its_name(self, stores: Any) -> None:
        held, other = Held(), Held()
        stores.add("mine", held)
        stores.add("other", other)
        stores.remove("mine")
        assert (held.closed, other.closed, stores.names()) == (1, 0, ["other"])
        stores.add("mine", Held())

    def test_close_closes_all_and_raises_the_first_error(self, stores: Any) -> None:
        held = [Held(), Held(fails=True), Held()]
        for number, store in enumerate(held):
            stores.add(str(number), store)
        with pytest.raises(StoreError, match="fails to close"):
            stores.close()
        assert [store.closed for store in held] == [1, 1, 1]

    def test_close_of_all_may_be_called_twice(self, stores: Any) -> None:
        held = Held()
        stores.add("mine", held)
        stores.close()
        stores.close()
        assert held.closed == 1

    def test_when_it_is_closed_it_refuses_everything(self, stores: Any) -> None:
        stores.add("mine", Held())
        stores.close()
        calls: list[Callable[[], Any]] = [
            partial(stores.open, "one", self.engine),
            partial(stores.add, "two", Held()),
            partial(stores.store, "mine"),
            partial(stores.remove, "mine"),
            stores.names,
        ]
        for call in calls:
            with pytest.raises(UnavailableError):
                call()

    def test_of_many_who_want_a_name_one_gets_it(self, stores: Any) -> None:
        def work(name: str, _: int) -> bool:
            try:
                stores.add(name, Held())
            except AlreadyExistsError:
                return False
            return True

        for turn in range(20):
            assert in_threads(partial(work, f"name{turn}"), THREADS).count(True) == 1
