"""Each rule of engines and of stores under one roof is broken by something made for it."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datalayer.contracts.store import Versioned, abilities_of
from datalayer.errors import DataLayerError, UnavailableError
from datalayer.kv import MemoryStore, MultiStore, StoreEngine
from datalayer.testing.compliance import EngineCompliance, MultiStoreCompliance

SUITES = [EngineCompliance, MultiStoreCompliance]
RULES = [name for suite in SUITES for name in vars(suite) if name.startswith("test_")]
BROKEN: dict[str, Callable[[], Any]] = {}


def breaks(rule: str) -> Callable[[type], type]:
    def register(broken: type) -> type:
        BROKEN[rule] = broken
        return broken

    return register


def run(rule: str, make: Callable[[], Any], place: Path) -> None:
    """One rule, without pytest's machinery."""
    owner = next(suite for suite in SUITES if hasattr(suite, rule))
    suite = type("Suite", (owner,), {})()
    made = make()
    given = {"engine": made, "stores": made, "place": place}
    method = getattr(suite, rule)
    method(**{name: given[name] for name in inspect.signature(method).parameters})


def test_every_rule_has_something_that_breaks_it() -> None:
    assert sorted(BROKEN) == sorted(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_fails_for_what_breaks_it(rule: str, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception, DataLayerError, LookupError)):
        run(rule, BROKEN[rule], tmp_path)


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_holds_for_what_keeps_it(rule: str, tmp_path: Path) -> None:
    run(rule, Healthy if hasattr(EngineCompliance, rule) else MultiStore, tmp_path)


# -- engines -----------------------------------------------------------------------------------------------------------


class Healthy(StoreEngine):
    def __init__(self) -> None:
        super().__init__("mine", MemoryStore)


@breaks("test_it_has_a_name")
class HasNoName(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.name = ""


@breaks("test_it_opens_stores")
class OpensDicts(Healthy):
    def open(self, name: str, **options: Any) -> Any:
        class Closing(dict):  # type: ignore[type-arg]
            def close(self) -> None: ...

        return Closing()


@breaks("test_its_stores_have_the_abilities_that_it_says")
class SaysTooLittle(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.abilities = abilities_of(MemoryStore) - {Versioned}


@breaks("test_stores_of_two_names_are_two")
class OpensOneForAll(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.one = MemoryStore()

    def open(self, name: str, **options: Any) -> Any:
        return self.one


@breaks("test_closing_a_store_leaves_the_others_open")
class ClosesAll(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.all: list[MemoryStore] = []

    def open(self, name: str, **options: Any) -> Any:
        outer = self

        class Contagious(MemoryStore):
            def close(self) -> None:
                for other in outer.all:
                    MemoryStore.close(other)

        self.all.append(Contagious())
        return self.all[-1]


@breaks("test_an_option_that_it_does_not_know_is_refused")
class TakesAnyOption(Healthy):
    def open(self, name: str, **options: Any) -> Any:
        return MemoryStore(name=name)


@breaks("test_it_opens_stores_in_many_threads")
class OpensOneAtATime(Healthy):
    """Refuses whoever comes while it is busy."""

    def __init__(self) -> None:
        super().__init__()
        self.busy = threading.Lock()
        self.met = threading.Event()

    def open(self, name: str, **options: Any) -> Any:
        if not self.busy.acquire(blocking=False):
            self.met.set()
            raise UnavailableError("busy")
        try:
            self.met.wait(5)
            return super().open(name, **options)
        finally:
            self.busy.release()


# -- several stores ----------------------------------------------------------------------------------------------------


@breaks("test_a_store_that_was_opened_is_found_by_its_name")
class FindsAnother(MultiStore):
    def store(self, name: str) -> Any:
        return MemoryStore()


@breaks("test_a_store_that_was_added_is_found_by_its_name")
class AddsACopy(MultiStore):
    def add(self, name: str, store: Any) -> None:
        super().add(name, MemoryStore())


@breaks("test_names_are_in_order")
class ListsAsAdded(MultiStore):
    def names(self) -> list[str]:
        return list(self._stores)


@breaks("test_a_name_is_taken_once")
class Replaces(MultiStore):
    def _check_free(self, name: str) -> None: ...


@breaks("test_a_name_that_nobody_has_is_an_error")
class SaysNone(MultiStore):
    def store(self, name: str) -> Any:
        return self._stores.get(name)


@breaks("test_an_engine_that_nobody_knows_is_refused")
class TakesTheName(MultiStore):
    def open(self, name: str, engine: str = "memory", **options: Any) -> Any:
        self.add(name, MemoryStore())
        return self._engines.open(engine, name, **options)


@breaks("test_remove_closes_the_store_and_frees_its_name")
class LeavesItOpen(MultiStore):
    def remove(self, name: str) -> None:
        self._stores.pop(name)


@breaks("test_close_closes_all_and_raises_the_first_error")
class StopsAtTheFirst(MultiStore):
    def close(self) -> None:
        for store in self._stores.values():
            store.close()


@breaks("test_close_of_all_may_be_called_twice")
class ClosesTwice(MultiStore):
    def close(self) -> None:
        for store in self._stores.values():
            store.close()


@breaks("test_when_it_is_closed_it_refuses_everything")
class GoesOn(MultiStore):
    def close(self) -> None:
        super().close()
        self._open = True


@breaks("test_of_many_who_want_a_name_one_gets_it")
class LooksAndTakes(MultiStore):
    """Looks, waits for the others to look, and takes."""

    def add(self, name: str, store: Any) -> None:
        self._check_free(name)
        threading.Event().wait(0.01)
        self._stores[name] = store
