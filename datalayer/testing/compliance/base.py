"""What the suites of stores share. Every rule is a method of its own, so that an engine which breaks one fails one."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .clock import ManualClock

THREADS = 8


class Suite:
    """Tests ask for ``store`` (new and empty), ``place`` (a folder of the test's own) and ``clock`` (which stands still
    until a rule moves it). ``store`` is typed as Any: each suite uses what its Protocol adds."""

    @abstractmethod
    def make_store(self, place: Path, clock: ManualClock) -> Any:
        """A store that keeps what it keeps in ``place`` and takes the time from ``clock``."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        return tmp_path

    @pytest.fixture
    def store(self, place: Path, clock: ManualClock) -> Iterator[Any]:
        store = self.make_store(place, clock)
        yield store
        store.close()


def in_threads(work: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """The answers of ``work(0)``, ``work(1)`` ... run at once; the first error of any of them is raised here."""
    answers: list[Any] = []
    errors: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        try:
            answers.append(work(number))
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(number,), name=f"datalayer-compliance-{number}") for number in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return answers
