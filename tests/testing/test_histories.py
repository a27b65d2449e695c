"""The checker of histories: right ones pass, and each rule finds the wrong one that it is for."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from datalayer.testing.histories import Checker, Event, Follower, Kind, Recorder, Rule, Stairs, Version
from datalayer.testing.histories.events import parse

LEASE = 1.0


class Story:
    """A history told by hand: times are given, keys are ``k``."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.add(Kind.START, 0.0, {"k": "0"})

    def add(
        self,
        kind: Kind,
        end: float,
        versions: dict[str, str],
        *,
        begin: float | None = None,
        process: str = "p",
        level: str = "",
        attempt: str = "",
    ) -> Story:
        self.events.append(Event(kind, end, end if begin is None else begin, process, level, attempt, versions))
        return self

    def write(self, number: int, start: float, end: float | None, *, process: str = "w", text: str = "") -> Story:
        """An attempt ``a<number>``; without an end it is never acknowledged."""
        versions = {"k": text or str(number)}
        self.add(Kind.INTEND, start, versions, process=process, attempt=f"a{number}")
        if end is not None:
            self.add(Kind.COMMITTED, end, versions, process=process, attempt=f"a{number}")
        return self

    def read(
        self,
        text: str,
        begin: float,
        end: float,
        *,
        level: str = "shared",
        process: str = "p",
        attempt: str | None = None,
    ) -> Story:
        name = attempt if attempt is not None else f"a{text}" if text.isdigit() and text != "0" else ""
        return self.add(Kind.READ, end, {"k": text}, begin=begin, process=process, level=level, attempt=name)

    def broken(self) -> set[str]:
        checker = Checker(lease=LEASE)
        for event in sorted(self.events, key=lambda event: event.end):
            checker.feed(event)
        return set(checker.broken)


def test_a_right_history_has_no_anomaly() -> None:
    story = Story().write(1, 1.0, 2.0).write(2, 3.0, None).write(3, 4.0, 5.0)
    story.read("0", 0.5, 1.5).read("1", 1.2, 1.4, process="q", level="database")
    story.read("1", 2.1, 2.2).read("2", 3.1, 3.5).read("3", 5.1, 5.2)
    story.read("1", 5.5, 5.9, level="cached", process="other")  # 2 was never acknowledged, and 3 not a lease ago
    story.add(Kind.FINAL, 6.0, {"k": "3"}, attempt="a3").read("3", 6.1, 6.2)
    assert story.broken() == set()


BAD = {
    Rule.STALE: Story().write(1, 1.0, 2.0).read("0", 2.1, 2.2),
    Rule.BOUNDED: Story().write(1, 1.0, 2.0).read("0", 3.1, 3.2, level="cached"),
    Rule.ORDER: Story().write(1, 1.0, None).read("1", 1.1, 1.2, process="q").read("0", 1.3, 1.4),
    Rule.MONOTONIC: Story().write(1, 1.0, None).read("1", 1.1, 1.2, level="cached").read("0", 1.3, 1.4, level="cached"),
    Rule.READ_YOUR_WRITES: Story().write(1, 1.0, 2.0, process="p").read("0", 2.1, 2.2, level="cached"),
    Rule.FUTURE: Story().write(1, 2.0, 3.0).read("1", 1.0, 1.5, level="cached"),
    Rule.UNCOMMITTED: Story()
    .write(1, 1.0, None)
    .read("1", 1.1, 1.2, level="cached")
    .add(Kind.ROLLED_BACK, 2.0, {}, attempt="a1"),
    Rule.CONVERGED: Story()
    .write(1, 1.0, None)
    .add(Kind.FINAL, 2.0, {"k": "1"}, attempt="a1")
    .read("0", 4.0, 4.1, level="cached"),
    Rule.LOST_WRITE: Story().write(1, 1.0, 2.0).add(Kind.FINAL, 3.0, {"k": "0"}),
}


@pytest.mark.parametrize("rule", list(Rule))
def test_each_rule_finds_the_history_that_breaks_it_alone(rule: Rule) -> None:
    assert BAD[rule].broken() == {rule}


def test_a_row_that_was_rolled_back_before_it_was_read_is_found_too() -> None:
    story = Story().write(1, 1.0, None).add(Kind.ROLLED_BACK, 2.0, {}, attempt="a1").read("1", 2.1, 2.2, level="cached")
    assert story.broken() == {Rule.UNCOMMITTED}


def test_two_writers_of_one_version_are_found_whichever_way_they_show() -> None:
    other = {"k": "1"}
    twice = Story().write(1, 1.0, 2.0).add(Kind.INTEND, 1.1, other, attempt="b")
    twice.add(Kind.COMMITTED, 2.1, other, attempt="b")
    assert twice.broken() == {Rule.LOST_WRITE}
    shown = Story().write(1, 1.0, None).add(Kind.INTEND, 1.1, other, attempt="b")
    shown.read("1", 1.2, 1.3, level="cached").read("1", 1.4, 1.5, level="cached", attempt="b")
    assert shown.broken() == {Rule.UNCOMMITTED}


def test_a_shared_read_is_bound_by_its_process_s_cached_reads_too() -> None:
    story = Story().write(1, 1.0, None).read("1", 1.1, 1.2, level="cached").read("0", 1.3, 1.4)
    assert story.broken() == {Rule.MONOTONIC}


def test_a_list_is_bounded_but_not_monotonic_beside_the_rows() -> None:
    story = Story().write(1, 1.0, 2.0).read("1", 1.1, 1.2, level="cached").read("0", 1.3, 1.4, level="listed")
    assert story.broken() == set()
    assert story.read("0", 3.1, 3.2, level="listed").broken() == {Rule.BOUNDED}


def test_reads_that_overlap_may_see_either() -> None:
    story = Story().write(1, 1.0, None).read("1", 1.1, 1.5, process="q").read("0", 1.4, 1.6)
    assert story.broken() == set()


@pytest.mark.parametrize(
    ("begin", "rules"),
    [(1.5, set()), (2.1, set()), (3.5, {Rule.STALE})],
    ids=["before it is inserted", "while it is deleted", "after it was inserted again"],
)
def test_an_absent_row_fits_the_versions_in_which_there_is_none(begin: float, rules: set[Rule]) -> None:
    story = Story().write(1, 1.0, 2.0).write(2, 2.05, 2.5, text="2!").write(3, 3.0, 3.4)
    story.events[0] = Event(Kind.START, 0.0, 0.0, "p", "", "", {"k": "0!"})
    assert story.read("-", begin, begin + 0.1).broken() == rules


def test_an_absence_that_was_seen_binds_later_reads() -> None:
    story = Story().write(1, 1.0, None, text="1!").read("-", 1.1, 1.2, process="q").read("0", 1.3, 1.4)
    assert story.broken() == {Rule.ORDER}


def test_a_row_that_is_not_found_under_its_only_value_is_missed() -> None:
    assert Story().write(1, 1.0, 2.0).read("~1", 2.1, 2.2).broken() == {Rule.STALE}
    assert Story().write(1, 1.0, 2.0).read("~0", 2.1, 2.2).broken() == set()
    assert Story().write(1, 1.0, 2.0).write(2, 2.05, None).read("~1", 2.1, 2.2).broken() == set()


def test_what_a_process_sees_itself_and_the_faults_are_counted() -> None:
    story = Story().add(Kind.WRONG, 1.0, {"own row not seen": "0"}, attempt="own")
    assert story.broken() == {"own"}


def test_lines_say_what_was_said() -> None:
    event = Event(Kind.READ, 2.5, 1.25, "p1", "cached", "a.1", {"row 1": "-", "ü=": "7!"})
    assert parse(event.line()) == event
    with pytest.raises(ValueError, match="key=version"):
        parse(b"R 1 1 p - - nothing\n")


def test_stairs_take_late_news() -> None:
    stairs = Stairs()
    for moment, height in ((5.0, 3), (1.0, 1), (3.0, 4), (4.0, 2)):
        stairs.climb(moment, height)
    assert [stairs.before(t) for t in (1.0, 1.5, 3.5, 9.0)] == [-1, 1, 4, 4]
    assert stairs.top == 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "history").mkdir()
    return tmp_path / "history"


def test_a_real_register_under_threads_is_right_and_a_lagging_one_is_not(folder: Path, rng: random.Random) -> None:
    """A dictionary is a correct store; a copy of it that is behind is a wrong one."""
    truth, lagging, lock = {"k": (0, "")}, {"k": (0, "")}, threading.Lock()
    with Recorder(folder / "0.log", process="0") as first:
        first.start({"k": 0})

    def work(name: str, source: dict[str, tuple[int, str]]) -> None:
        with Recorder(folder / f"{name}.log", process=name) as log:
            for _ in range(300):
                with lock:
                    number, attempt = truth["k"][0] + 1, log.attempt()
                    log.intend(attempt, {"k": number})
                    truth["k"] = (number, attempt)
                log.committed(attempt, {"k": number})
                began = log.now()
                log.read("k", *source["k"], began, level="shared")

    threads = [threading.Thread(target=work, args=(str(i), truth)) for i in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    follower = Follower(folder, Checker(lease=LEASE))
    follower.drain()
    assert follower.checker.anomalies == []
    assert follower.checker.length == 2400
    work("9", lagging)
    follower.drain()
    assert set(follower.checker.broken) >= {Rule.STALE, Rule.READ_YOUR_WRITES}


def test_a_history_that_is_followed_while_it_grows_is_judged_like_a_finished_one(folder: Path) -> None:
    follower = Follower(folder, Checker(lease=LEASE), grace=0.0)
    with Recorder(folder / "a.log", process="a") as a, Recorder(folder / "b.log", process="b") as b:
        a.start({"k": 0})
        attempt = a.attempt()
        a.intend(attempt, {"k": Version(1)})
        a.committed(attempt, {"k": Version(1)})
        assert follower.follow() == 3
        began = b.now()
        b.read("k", 0, "", began, level="shared")
        b.fault("kill")
        b.count({"l1_hits": 3})
        follower.follow()
    assert [anomaly.rule for anomaly in follower.checker.anomalies] == [Rule.STALE]
    assert follower.checker.faults == {"kill": 1}
    assert follower.checker.counters == {"l1_hits": 3}


def test_a_killed_process_leaves_whole_events(folder: Path) -> None:
    child = os.fork()
    if child == 0:
        with Recorder(folder / "child.log", process="child") as log:
            for n in range(10**9):
                log.read("k", n, "", time.monotonic(), level="cached")
    while not (folder / "child.log").exists() or (folder / "child.log").stat().st_size < 10_000:
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    lines = (folder / "child.log").read_bytes().splitlines()
    assert [event.versions["k"] for event in map(parse, lines)] == [str(n) for n in range(len(lines))]


def test_an_event_costs_microseconds_however_long_the_history_is() -> None:
    checker = Checker(lease=LEASE)
    checker.feed(Event(Kind.START, 0.0, 0.0, "w", "", "", {"k": "0"}))
    began = time.process_time()
    for n in range(1, 10_001):
        checker.feed(Event(Kind.INTEND, n, n, "w", "", f"a{n}", {"k": str(n)}))
        checker.feed(Event(Kind.COMMITTED, n + 0.1, n + 0.1, "w", "", f"a{n}", {"k": str(n)}))
        checker.feed(Event(Kind.READ, n + 0.3, n + 0.2, "p", "shared", f"a{n}", {"k": str(n)}))
    assert checker.anomalies == []
    assert (time.process_time() - began) / 30_000 < 100e-6
