"""Each rule of the compliance suites is broken by an engine made for it: a rule that cannot fail checks nothing."""

from __future__ import annotations

import inspect
import io
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from datalayer.errors import ConflictError, EncodeError, NotFoundError
from datalayer.kv import FileStore, MemoryStore
from datalayer.kv.overlay import OverlayTransaction, Reads
from datalayer.testing import compliance
from datalayer.testing.compliance import ManualClock

SUITES = [
    compliance.StoreCompliance,
    compliance.ScannableCompliance,
    compliance.ExpiringCompliance,
    compliance.VersionedCompliance,
    compliance.TransactionalCompliance,
    compliance.SnapshotsCompliance,
    compliance.StreamingCompliance,
    compliance.ObservableCompliance,
    compliance.DurableCompliance,
]


class Streams(MemoryStore):
    """A store with all abilities."""

    def put_stream(self, key: bytes, source: Any, ttl: float | None = None) -> int:
        value = source.read()
        self.put(key, value, ttl)
        return len(value)

    def get_stream(self, key: bytes) -> Any:
        value = self.get(key)
        return None if value is None else io.BufferedReader(io.BytesIO(value))  # type: ignore[type-var]


class Files(FileStore):
    """A store that is still there afterwards."""

    def __init__(self, place: Path, clock: ManualClock) -> None:
        super().__init__(place / "kv", clock=clock, sync=False)


Make = Callable[[Path, ManualClock], Any]
BROKEN: dict[str, list[Make]] = {}


def breaks(*rules: str, base: type = Streams) -> Callable[[type], type]:
    """Register an engine, given as a class of methods that replace those of ``base``, for the rules that it breaks."""

    def register(methods: type) -> type:
        broken = type(methods.__name__, (methods, base), {})
        make: Make = (
            (lambda place, clock: broken(place, clock)) if base is Files else (lambda _, clock: broken(clock=clock))
        )
        for rule in rules:
            BROKEN.setdefault(rule, []).append(make)
        return methods

    return register


def the(store: Any) -> Any:
    """The healthy methods of a broken store."""
    return super(type(store).__mro__[1], store)


def run(rule: str, make: Make, place: Path) -> None:
    """One rule against one engine, without pytest's machinery."""
    owner = next(suite for suite in SUITES if hasattr(suite, rule))
    suite = type("Suite", (owner,), {"make_store": lambda self, place, clock: make(place, clock)})()
    clock = ManualClock()
    given = {"store": make(place, clock), "clock": clock, "place": place}
    method = getattr(suite, rule)
    try:
        method(**{name: given[name] for name in inspect.signature(method).parameters})
    finally:
        given["store"].close()


RULES = [name for suite in SUITES for name in vars(suite) if name.startswith("test_")]


def test_every_rule_has_an_engine_that_breaks_it() -> None:
    assert sorted(set(RULES) - set(BROKEN)) == []
    assert sorted(set(BROKEN) - set(RULES)) == []


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_fails_for_engines_that_break_it(rule: str, tmp_path: Path) -> None:
    for number, make in enumerate(BROKEN[rule]):
        place = tmp_path / str(number)
        place.mkdir()
        with pytest.raises(
            (AssertionError, pytest.fail.Exception, ArithmeticError, LookupError, TypeError, ConflictError)
        ):
            run(rule, make, place)


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_holds_for_an_engine_that_keeps_it(rule: str, tmp_path: Path) -> None:
    durable = rule in vars(compliance.DurableCompliance)
    run(
        rule,
        (lambda place, clock: Files(place, clock)) if durable else (lambda _, clock: Streams(clock=clock)),
        tmp_path,
    )


# -- Store -------------------------------------------------------------------------------------------------------------


@breaks("test_a_value_comes_back_as_bytes")
class AnswersABytearray:
    def get(self, key, version=None):
        value = the(self).get(key, version)
        return None if value is None else bytearray(value)


@breaks("test_an_absent_key_is_an_answer")
class SaysEmptyForAbsent:
    def get(self, key, version=None):
        return the(self).get(key, version) or b""


@breaks("test_an_absent_key_is_an_answer", "test_one_of_many_deletes_is_the_one")
class SaysTrueForEveryDelete:
    def delete(self, key):
        the(self).delete(key)
        return True


@breaks("test_the_last_put_wins", "test_it_does_what_a_dict_does", "test_a_put_replaces_the_deadline")
class KeepsTheFirst:
    def put(self, key, value, ttl=None):
        if not self.exists(key):
            the(self).put(key, value, ttl)


@breaks("test_an_empty_value_is_a_value", "test_what_was_put_can_be_streamed")
class TakesEmptyForAbsent:
    def get(self, key, version=None):
        return the(self).get(key, version) or None

    def exists(self, key):
        return bool(self.get(key))


@breaks("test_delete_removes_and_says_so_once")
class DeletesNothing:
    def delete(self, key):
        return self.exists(key)


@breaks("test_a_deleted_key_can_be_put_again", "test_a_scan_shows_the_latest_values_only")
class NeverTakesAKeyBack:
    def put(self, key, value, ttl=None):
        if not self.versions(key) or self.exists(key):
            the(self).put(key, value, ttl)


@breaks("test_keys_and_values_are_any_bytes")
class StoresTextOnly:
    def put(self, key, value, ttl=None):
        the(self).put(key, bytes(value).decode(errors="replace").encode(), ttl)


@breaks("test_similar_keys_are_different_keys")
class IgnoresCaseAndLength:
    def put(self, key, value, ttl=None):
        the(self).put(bytes(key).lower()[:1000], value, ttl)

    def get(self, key, version=None):
        return the(self).get(key.lower()[:1000], version)


@breaks("test_buffers_are_copied", "test_buffers_of_a_transaction_are_copied")
class KeepsTheCallersBuffer:
    def put(self, key, value, ttl=None):
        the(self).put(key, value, ttl)
        self.__dict__.setdefault("buffers", {})[bytes(key)] = value

    def get(self, key, version=None):
        buffers = self.__dict__.get("buffers", {})
        return bytes(buffers[key]) if key in buffers else the(self).get(key, version)

    def begin(self):
        return BufferKeepingTransaction(self)


class BufferKeepingTransaction(OverlayTransaction):
    def put(self, key, value, ttl=None):
        super().put(key, value, ttl)
        self.__dict__.setdefault("late", {})[key] = value

    def commit(self):
        for key, value in self.__dict__.get("late", {}).items():
            super().put(key, bytes(value))
        super().commit()


@breaks("test_what_is_not_a_key_is_refused", "test_what_is_not_a_prefix_is_refused")
class TakesTextAsAKey:
    def get(self, key, version=None):
        return the(self).get(key.encode() if isinstance(key, str) else key, version)

    def scan(self, prefix=b""):
        return the(self).scan(prefix.encode() if isinstance(prefix, str) else prefix)


@breaks("test_what_is_not_a_value_is_refused", "test_a_write_that_fails_is_not_told")
class TakesTextAsAValue:
    def put(self, key, value, ttl=None):
        the(self).put(key, value.encode() if isinstance(value, str) else value, ttl)


@breaks("test_ten_megabytes_come_back", "test_a_stream_goes_in_and_comes_out", "test_what_was_put_can_be_streamed")
class CutsAtAMegabyte:
    def put(self, key, value, ttl=None):
        the(self).put(key, value if not isinstance(value, bytes) else value[:1_000_000], ttl)


@breaks("test_writers_in_many_threads_lose_nothing", "test_it_does_what_a_dict_does")
class LosesEverySeventhPut:
    def put(self, key, value, ttl=None):
        self.__dict__["n"] = self.__dict__.get("n", 0) + 1
        if self.__dict__["n"] % 7:
            the(self).put(key, value, ttl)


@breaks("test_close_may_be_called_twice")
class ClosesOnce:
    def close(self):
        if self.__dict__.setdefault("closes", 0) == 1:
            self.__dict__["closes"] = 2
            raise ZeroDivisionError
        self.__dict__["closes"] += 1
        the(self).close()


@breaks(
    "test_a_closed_store_refuses_everything",
    "test_a_closed_store_refuses_to_scan",
    "test_a_closed_store_has_no_versions_to_show",
    "test_a_closed_store_begins_and_commits_nothing",
)
class NeverCloses:
    def close(self):
        return None


# -- Scannable ---------------------------------------------------------------------------------------------------------


@breaks("test_a_scan_is_in_the_order_of_bytes", "test_many_keys_come_once_each")
class ScansInTheOrderOfWriting:
    def scan(self, prefix=b""):
        return iter([(key, the(self).get(key)) for key, _ in self._history.everything()])

    def keys(self, prefix=b""):
        return (key for key, _ in self.scan())


@breaks("test_a_prefix_picks_what_begins_with_it", "test_keys_are_those_of_the_scan")
class ScansEverything:
    def scan(self, prefix=b""):
        return the(self).scan()


@breaks("test_writing_during_a_scan_disturbs_no_other_key")
class ScansByPosition:
    def scan(self, prefix=b""):
        position = 0
        while position < len(found := list(the(self).scan(prefix))):
            yield found[position]
            position += 1


# -- Expiring ----------------------------------------------------------------------------------------------------------


@breaks(
    "test_a_value_ends_at_its_deadline",
    "test_an_expired_key_does_not_show_an_older_value",
    "test_an_expired_key_is_not_listed",
    "test_deleting_an_expired_key_says_false",
    "test_an_expired_value_is_absent_in_a_snapshot_too",
    "test_a_stream_can_end",
)
class KeepsForGood:
    def put(self, key, value, ttl=None):
        the(self).put(key, value)


@breaks("test_ttl_says_what_is_left")
class SaysTheWholeTtl:
    def ttl(self, key):
        left = the(self).ttl(key)
        return left and min(left, 10)


@breaks("test_an_expired_key_can_be_put_again", "test_a_put_replaces_the_deadline")
class KeepsTheDeadline:
    def put(self, key, value, ttl=None):
        the(self).put(key, value, self.__dict__.setdefault("lives", {}).setdefault(bytes(key), ttl))
        if ttl is None and self.__dict__["lives"][key]:
            self.delete(key)


@breaks("test_what_is_not_a_life_is_refused")
class TakesAnyTtl:
    def put(self, key, value, ttl=None):
        the(self).put(key, value, ttl if isinstance(ttl, int) and ttl > 0 else None)


# -- Versioned ---------------------------------------------------------------------------------------------------------


@breaks("test_every_write_is_a_version", "test_retention_never_touches_the_newest")
class ForgetsTheNewestVersion:
    def versions(self, key):
        return the(self).versions(key)[:-1]


@breaks("test_a_version_can_be_read", "test_restore_writes_a_new_version")
class ReadsTheNewestForEveryVersion:
    def get(self, key, version=None):
        return the(self).get(key)

    def restore(self, key, version):
        return the(self).restore(key, the(self).versions(key)[-1])


@breaks("test_an_unknown_key_has_no_versions")
class ShowsTheVersionsOfOthers:
    def versions(self, key):
        return [version for other, _ in self._history.everything() for version in the(self).versions(other)]


@breaks("test_a_version_that_is_not_kept_is_an_error")
class SaysNoneForUnknownVersions:
    def get(self, key, version=None):
        try:
            return the(self).get(key, version)
        except NotFoundError:
            return None


@breaks("test_restoring_a_deletion_deletes")
class RestoresADeletionAsEmpty:
    def restore(self, key, version):
        self.put(key, the(self).get(key, version) or b"")


@breaks("test_a_restored_value_has_no_deadline")
class RestoresTheDeadlineToo:
    def restore(self, key, version):
        self.put(key, the(self).get(key, version), ttl=5)


@breaks("test_versions_say_when")
class SaysNow:
    def versions(self, key):
        return [replace(version, written_at=datetime.now(UTC)) for version in the(self).versions(key)]


@breaks("test_retention_never_touches_the_newest")
class StopsAtItsLimit:
    def put(self, key, value, ttl=None):
        if len(self.versions(key)) < 10:
            the(self).put(key, value, ttl)


# -- Transactional -----------------------------------------------------------------------------------------------------


def breaks_transactions(*rules: str) -> Callable[[type], type]:
    """As :func:`breaks`, given as methods that replace those of a transaction."""

    def register(methods: type) -> type:
        transaction = type(methods.__name__, (methods, OverlayTransaction), {})
        breaks(*rules)(type("With" + methods.__name__, (), {"begin": lambda self: transaction(self)}))
        return methods

    return register


@breaks_transactions(
    "test_nobody_sees_it_before_the_commit_and_all_after",
    "test_rollback_leaves_nothing",
    "test_an_error_in_the_block_rolls_back",
    "test_a_ttl_counts_from_the_commit",
    "test_a_commit_is_one_event",
)
class WritesThrough:
    def put(self, key, value, ttl=None):
        self._ground.put(key, value, ttl)


@breaks_transactions("test_it_sees_its_own_writes", "test_a_scan_has_its_own_writes_in_it")
class SeesTheStoreOnly:
    def get(self, key):
        return self._ground.get(key)

    def scan(self, prefix=b""):
        return self._ground.scan(prefix)


@breaks_transactions("test_a_finished_transaction_is_finished")
class NeverFinishes:
    def _check_open(self):
        return None


@breaks_transactions(
    "test_a_change_of_what_it_read_is_a_conflict",
    "test_of_two_that_read_and_write_one_commits",
    "test_write_skew_is_a_conflict",
    "test_a_new_key_under_a_scanned_prefix_is_a_conflict",
    "test_counting_in_many_threads_loses_no_count",
)
class ComparesNothing:
    def commit(self):
        time.sleep(0.001)  # room for another thread, so that the race is sure
        self._ground.commit(Reads(), self._writes)


@breaks_transactions("test_write_skew_is_a_conflict")
class ComparesWhatItWrites:
    def commit(self):
        self._reads.keys = {key: stamp for key, stamp in self._reads.keys.items() if key in self._writes}
        super().commit()


@breaks_transactions("test_what_it_read_stays_as_read")
class ReadsAgain:
    def _read(self, key):
        return self._ground.get(key)


@breaks_transactions("test_writes_of_keys_that_it_did_not_read_conflict_with_nobody")
class ReadsWhatItWrites:
    def put(self, key, value, ttl=None):
        super().put(key, value, ttl)
        self._read(key)


@breaks_transactions("test_what_is_not_a_key_or_value_is_refused_at_once")
class ChecksLate:
    def put(self, key, value, ttl=None):
        try:
            super().put(key, value, ttl)
        except EncodeError:
            return


# -- Snapshots ---------------------------------------------------------------------------------------------------------


class Live:
    """A view that goes with the store."""

    def __init__(self, store):
        self.get, self.exists, self.scan = store.get, store.exists, store.scan

    def close(self):
        return None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@breaks(
    "test_a_snapshot_does_not_change",
    "test_snapshots_of_different_moments_differ",
    "test_a_closed_snapshot_shows_nothing",
)
class ShowsTheStoreItself:
    def snapshot(self):
        return Live(self)


@breaks("test_a_snapshot_shows_whole_transactions")
class CommitsKeyByKey:
    def commit(self, reads, writes):
        for key, write in writes.items():
            the(self).commit(reads, {key: write})
            time.sleep(0.0005)  # room for another thread, so that the race is sure


# -- Streaming ---------------------------------------------------------------------------------------------------------


@breaks("test_an_absent_key_has_no_stream")
class StreamsNothing:
    def get_stream(self, key):
        return the(self).get_stream(key) or io.BytesIO()


@breaks("test_only_what_the_source_has_left_is_taken")
class Rewinds:
    def put_stream(self, key, source, ttl=None):
        source.seek(0)
        return the(self).put_stream(key, source, ttl)


@breaks("test_an_open_stream_keeps_reading_its_value")
class StreamsWhatIsThere:
    def get_stream(self, key):
        store = self

        class Stream(io.BytesIO):
            def read(self, size=-1):
                at = self.tell()
                self.seek(0)
                self.write(store.get(key))
                self.truncate()
                self.seek(at)
                return super().read(size)

        return Stream()


@breaks("test_a_source_that_fails_leaves_the_value_before")
class DeletesFirst:
    def put_stream(self, key, source, ttl=None):
        self.delete(key)
        return the(self).put_stream(key, source, ttl)


# -- Observable --------------------------------------------------------------------------------------------------------


@breaks(
    "test_writes_are_told",
    "test_a_commit_is_one_event",
    "test_a_listener_that_raises_harms_nobody",
    "test_a_listener_may_use_the_store",
)
class TellsNothing:
    def subscribe(self, listener):
        return lambda: None


@breaks("test_a_listener_that_raises_harms_nobody")
class LetsListenersRaise:
    def put(self, key, value, ttl=None):
        the(self).put(key, value, ttl)
        for listener in self._events._listeners:
            listener(None)


@breaks("test_a_listener_can_leave")
class KeepsListeners:
    def subscribe(self, listener):
        the(self).subscribe(listener)
        return lambda: None


# -- Durable -----------------------------------------------------------------------------------------------------------


@breaks("test_what_was_written_is_there_after_a_restart", "test_versions_are_there_after_a_restart", base=Files)
class ForgetsTheLastWrite:
    def close(self):
        if self._open:
            for key, _ in self._history.everything():
                last = self._history.chain(key)[-1]
                Path(self._place(key, last)).unlink(missing_ok=True)
        the(self).close()


@breaks("test_deadlines_go_on_over_a_restart", base=Files)
class BeginsAnewEachTime:
    def __init__(self, place, clock):
        the(self).__init__(place, clock)
        for key in list(self.keys()):
            self.put(key, self.get(key), ttl=10)
