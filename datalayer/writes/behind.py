"""``Behind``: writes that are acknowledged once a journal has them, and follow to the database in batches.

A write gets a number, goes to the journal, becomes visible to readers, and is acknowledged. The flusher applies the
journal in order, with its offset in the same transaction, then takes the write out of the readers' sight, and last out
of the journal. Whoever dies on the way leaves something that the next flusher finds: an entry that is applied or not
(the offset says which), a journal without an owner, or a write that is still shown although the database has it.

What cannot be queued (a full journal, a Redis that is away, a row that is too large) is written through by the same
call, with a number that makes it the newest. Where Redis is away its epoch is ended first: nothing that is numbered
under it can come later and win.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ..coherence.ending import ended, usable
from ..coherence.strict import Strict
from ..contracts.coherence import ABSENT, Absent
from ..contracts.fence import Refusal
from ..contracts.journal import Appending, Draft, Entry, Journal, JournalFailed, pack_seq, unpack_seq
from ..contracts.pauses import point
from ..errors import ConfigError, TransactionOutcomeUnknown, UnavailableError, WriteBehindExhausted
from ..models.behind import SEQUENCE_COLUMN
from ..models.hooks import run_after_set, run_on_write_error
from ..models.schema import Schema
from .checks import problems_of
from .failures import is_transient, pause_after
from .file import Directory, FileJournal
from .flusher import start_flusher
from .letters import DeadLetters
from .memory import MemoryJournal
from .options import BehindOptions
from .own import Held, Own
from .reports import FlushReport, QueueStatus
from .routes import Answer, Filed, Local, Queued, Route, Stream, Unqueued
from .sequence import OwnSequence, SharedSequence, adopt_layout
from .shapes import Shape, Shapes
from .sink import Batch, Sink
from .tables import make_tables

if TYPE_CHECKING:
    from ..tiers.l2.overlay import RedisOverlay

log = logging.getLogger("datalayer.writes")

_BATCH = 1000
_STRIPES = 64
_TRIES = 3
_SETTLE_SECONDS = 2.0
_LOOK_AGAIN = 1.0
_ADOPT_EVERY = 5.0

Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """A write of one row on its way. ``row`` is what it leaves, None for additions; ``draft`` None: too large."""

    shape: Shape
    key: Values
    draft: Draft | None
    row: Values | Absent | None


class Behind:
    """The write-behind of one layer. Thread-safe. Starts with its first use: then it makes its tables, chooses its
    journal, adopts journals without an owner, and starts the flusher.

    ``owned``: the engine's connections are its own to close. ``instance`` is given by the layer: it makes an instance
    of a row, for hooks. Starting raises ConfigError where no
    journal is safe, and with ``refusal``.
    """

    def __init__(
        self,
        engine: sa.Engine,
        sink: Sink,
        shapes: Shapes,
        options: BehindOptions,
        *,
        authority: Strict | None = None,
        overlay: RedisOverlay | None = None,
        owned: bool = False,
        refusal: str | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.lost: list[str] = []
        self.shapes = shapes
        self.options = options
        self._engine = engine
        self._sink = sink
        self._authority = authority
        self._overlay = overlay
        self.instance: Callable[[Schema, Values], Any] | None = None
        self._owned = owned
        self._refusal = refusal
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Nothing that the parent queued is ours to flush, and none of its threads is here."""
        route, adopted = getattr(self, "_route", None), getattr(self, "_adopted", [])
        for journal in [*(route.journals() if route is not None else []), *adopted]:
            if isinstance(journal, FileJournal):
                journal.abandon()
        if route is not None and self._owned:
            self._engine.dispose(close=False)
        self._lock = threading.RLock()
        self._turning = threading.RLock()
        self._stripes = [threading.RLock() for _ in range(_STRIPES)]
        self._own = Own()
        self._route: Route | None = None
        self._base = 0
        self._adopted: list[FileJournal] = []
        self._ready: set[str] = set()
        self._epochs: dict[int, bytes] = {}
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._started = False
        self._closed = False
        self._looked = self._adopted_at = -inf

    # -- writing ---------------------------------------------------------------------------------------------------

    def locked(self, shape: Shape, key: Values) -> threading.RLock:
        """Held while a row is read, changed and queued, so that this process loses none of its own changes."""
        return self._stripes[hash((shape.space, key)) % _STRIPES]

    def set(self, shape: Shape, rows: Sequence[tuple[Values, Values]]) -> None:
        """Queue whole rows (key, values in the order of ``schema.full``); returns when all are acknowledged."""
        self.write([Write(shape, key, shape.draft_set(key, values), values) for key, values in rows])

    def delete(self, shape: Shape, keys: Iterable[Values]) -> None:
        self.write([Write(shape, key, shape.draft_delete(key), ABSENT) for key in keys])

    def add(self, shape: Shape, key: Values, amounts: dict[str, Any]) -> None:
        """Queue an addition. TransactionOutcomeUnknown if nobody can say whether it will count."""
        shape.check_amounts(amounts)
        self.write([Write(shape, key, shape.draft_add(key, amounts), None)])

    def write(self, writes: Sequence[Write]) -> None:
        route = self._running(writes)
        tickets = [write.shape.ladder.guard.ticket(_name(write.key)) for write in writes]
        with self._own.sending():
            answers = self._sent(route, writes)
            for answer, write in zip(answers, writes, strict=True):
                if isinstance(answer, Queued):
                    entry, address = answer.entry, f"{answer.entry.space}:{answer.entry.name}"
                    self._own.add(Held(entry, address, answer.shard, answer.epoch, write.row))
        for write, ticket, answer in zip(writes, tickets, answers, strict=True):
            if isinstance(answer, Queued):
                self._queued(write, ticket, answer)
            else:
                self._through(write, answer)
        if len(self._own) >= self.options.threshold:
            self._wake.set()

    def _sent(self, route: Route | None, writes: Sequence[Write]) -> list[Answer]:
        """What became of each; those that cannot be queued are not sent."""
        answers: list[Answer] = [Unqueued("the row is larger than entries may be")] * len(writes)
        at = [i for i, write in enumerate(writes) if write.draft is not None]
        if route is None or len(self._own) + len(at) > self.options.backlog:
            return [Unqueued("Redis cannot be asked" if route is None else "the journal is full")] * len(writes)
        for i, answer in zip(at, route.send([writes[i].draft for i in at]), strict=True):  # type: ignore[misc]
            answers[i] = answer
        return answers

    def _queued(self, write: Write, ticket: Any, answer: Queued) -> None:
        point("wb.after_overlay")
        ladder = write.shape.ladder
        if not answer.shown:
            self._must_flush()
        if write.row is None or not answer.shown:
            ladder.guard.drop_key(_name(write.key))
        else:
            ladder.near.keep_written(write.shape.schema, write.key, ticket, write.row)
        self.counts["acknowledged"] += 1

    def _must_flush(self) -> None:
        """An entry that readers cannot see is acknowledged once the database has it."""
        try:
            while self.turn(wait=True):
                continue
        except Exception as error:
            raise TransactionOutcomeUnknown(
                "a queued write is in the journal but neither Redis nor the database could be told now; it will be "
                "applied when the database answers"
            ) from error

    def newest(self, address: str, *, vouched: bool) -> Values | Absent | None:
        held = self._own.newest(address)
        if held is None or (vouched and self._route is not None and self._route.vouches(held)):
            return None
        if held.row is None:
            self.settle(address)
        return held.row

    # -- writing through -------------------------------------------------------------------------------------------

    def _through(self, write: Write, answer: Unqueued) -> None:
        """Write one row to the database now, as the newest write of it."""
        if write.row is None and not answer.certain:
            raise TransactionOutcomeUnknown(f"{answer.reason}: nobody can say whether this addition will count")
        if write.row is None:
            self.flush(_SETTLE_SECONDS)  # what was queued before must be there to be added to
        draft = write.draft or self._bare(write)
        self.counts["through"] += 1
        log.debug("a write of %s goes to the database directly: %s", write.shape.table.fullname, answer.reason)
        entry = self._numbered(draft)
        if entry is None:
            seq = self._past_redis(draft)
        else:
            seq = entry.seq
            self._sink.write([entry])
            if self._route is not None:
                self._route.clear([entry])
        if write.row is not None:
            self._own.overtaken(draft.address, seq)
        write.shape.ladder.guard.drop_key(_name(write.key))
        self._after_set([entry or Entry(0, 0, *draft)])

    def _bare(self, write: Write) -> Draft:
        assert isinstance(write.row, tuple)
        small = write.shape.draft_delete(write.key)
        if small is None:
            raise ConfigError(f"a key of {write.shape.table.fullname} cannot be encoded; write the model through")
        body = write.shape.ladder.packing.pack_bare(write.shape.schema, write.row)
        return small._replace(kind="set", body=body)

    def _numbered(self, draft: Draft) -> Entry | None:
        """The draft with a number of its own, larger than those of all writes before; None if Redis gives none."""
        if self._authority is None or self._overlay is None:
            return Entry(0, self._sequence.next(1)[0], *draft)
        shard = self._overlay.shard_of(draft.address)
        for _ in range(_TRIES):
            stand = usable(self._authority, shard)
            if stand is None:
                return None
            counts = self._overlay.next(shard, stand, 1)
            if not isinstance(counts, Refusal):
                return Entry(0, pack_seq(self._base + stand.number, counts[0]), *draft)
        return None

    def _past_redis(self, draft: Draft) -> int:
        """Write where Redis takes nothing: its epoch ends, then the database alone gives the order."""
        assert self._authority is not None
        assert self._overlay is not None
        shard = self._overlay.shard_of(draft.address)
        off = ended(self._authority, shard, may_revoke=self.options.may_revoke)
        floor = pack_seq(self._base + off.number, 0)
        self._sink.write_next(Entry(0, 0, *draft), floor)
        return floor

    # -- flushing --------------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> FlushReport:
        """Apply what is queued, now, and return when it is done or ``timeout`` seconds are over."""
        self.start()
        began, before, failures = time.monotonic(), self.counts["flushed"], 0
        deadline = None if timeout is None else began + timeout
        error: str | None = None
        while True:
            try:
                self.turn(wait=True, until=deadline if deadline is not None else inf)
                error, failures = None, 0
            except Exception as problem:
                error, failures = type(problem).__name__, failures + 1
                if not is_transient(problem):
                    log.exception("a flush failed")
            left = self._left() if error is None else max(1, len(self._own))
            waiting = self._sink.waiting_letters() if error is None else 0
            late = deadline is not None and time.monotonic() >= deadline
            if late or (error is None and not left and not waiting) or (error and timeout is None and failures > 5):
                break
            rest = 1.0 if deadline is None else max(0.0, deadline - time.monotonic())
            self._stop.wait(min(rest, pause_after(failures) if error or waiting else 0.001))
        return self._report(self.counts["flushed"] - before, time.monotonic() - began, error)

    def _report(self, flushed: int, seconds: float, error: str | None) -> FlushReport:
        if error is not None:
            return FlushReport(flushed, len(self._own), seconds=seconds, error=error)
        dead = len(self._letter_box())
        return FlushReport(flushed, self._left(), self._sink.waiting_letters(), dead, seconds)

    def turn(self, *, wait: bool = False, until: float = inf) -> int:
        """One look at everything that this process may flush; how many entries that were.

        ``wait`` for another process that flushes the same journal. No batch begins after ``until``.
        """
        with self._turning:
            route = self._route
            self._adopt()
            passed, failed = 0, None
            for journal in [*(route.journals() if route is not None else []), *self._adopted]:
                try:
                    passed += self._drain(journal, wait, until)
                except JournalFailed as error:  # the others have nothing to do with it
                    failed = error
            self._dismiss()
            if isinstance(route, Stream):
                self._look_after(route)
            self._letters()
            if failed is not None:
                raise failed
            return passed

    def _dismiss(self) -> None:
        """Adopted journals that are empty are gone for good."""
        for journal in [journal for journal in self._adopted if not len(journal)]:
            self._adopted.remove(journal)
            journal.close()
            self._sink.forget(journal.id)

    def _drain(self, journal: Journal, wait: bool, until: float) -> int:
        passed = 0
        while True:
            batch = self._sink.flush(journal, _BATCH, wait=wait)
            passed += len(batch.passed)
            self._flushed(batch)
            if batch.busy or not (batch.passed or batch.leftovers) or not self._clear(journal, batch):
                return passed
            more = len(batch.passed) == _BATCH or len(batch.leftovers) == _BATCH
            if not more or time.monotonic() >= until:
                return passed

    def _clear(self, journal: Journal, batch: Batch) -> bool:
        """Take applied writes out of sight, then out of the journal; what is not confirmed is done again next time."""
        if self._route is not None and not self._route.clear(batch.over):
            return False
        point("wb.after_clear")
        journal.remove(batch.upto if len(batch.leftovers) < _BATCH else batch.leftovers[-1].id)
        return True

    def _flushed(self, batch: Batch) -> None:
        self._own.drop(batch.settled)
        self.counts["flushed"] += len(batch.passed)
        self.counts["rows"] += len(batch.written)
        self._after_set(batch.written)
        self._died(batch)

    def _after_set(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            shape = self.shapes.get(entry.space)
            if shape is None or self.instance is None or entry.kind != "set":
                continue
            if shape.hooks is not None and shape.hooks.after_set is not None:
                run_after_set(shape.hooks, self.instance(shape.schema, shape.values_of(entry)))

    def _died(self, batch: Batch) -> None:
        self._own.drop(entry.seq for entry, _ in batch.dead)
        for entry, reason in batch.dead:
            self.counts["dead"] += 1
            shape = self.shapes.get(entry.space)
            name = shape.table.fullname if shape is not None else entry.space
            log.error("a queued %s of %s is a dead letter: %s", entry.kind, name, reason)
            if shape is not None:
                key = shape.key_of(entry)
                error = WriteBehindExhausted(
                    f"{name} {entry.name}: the queued write was refused too often ({reason}); "
                    "see layer.dead_letters(), then retry() or drop() it"
                )
                run_on_write_error(shape.hooks, _name(key), error, model=shape.schema.cls.__name__)

    def _letters(self) -> None:
        batch, done = self._sink.try_letters(_BATCH)
        self._own.drop(entry.seq for entry in batch.written)
        self._after_set(batch.written)
        self._died(batch)
        if batch.over and self._route is not None and not self._route.clear(batch.over):
            return
        if done:
            self._sink.forget_letters(done)

    def settle(self, address: str) -> None:
        """Wait, a moment at most, until the database has what is queued for a row."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        self.start()
        while True:
            try:
                self.turn(wait=True)
            except Exception as error:
                log.warning("queued writes cannot be flushed for a reader (%s)", type(error).__name__)
                return
            others = isinstance(self._route, Filed) and self._overlay is not None and self._overlay.queued(address)
            if not others or time.monotonic() > deadline:
                return
            time.sleep(0.02)

    # -- journals of others, and lost ones -------------------------------------------------------------------------

    def _adopt(self) -> None:
        now = time.monotonic()
        if self.options.path is None or now - self._adopted_at < _ADOPT_EVERY:
            return
        self._adopted_at = now
        self._adopted += Directory(self.options.path).orphans()

    def _look_after(self, route: Stream) -> None:
        """See what others have flushed, and whether Redis has lost anything."""
        for stream in route.streams:
            if not self._own.held(stream.shard) and stream.shard in self._epochs:
                continue
            upto = self._sink.applied_upto(stream.id)
            assert self._authority is not None
            stand = usable(self._authority, stream.shard)
            if stand is None:
                continue
            if self._epochs.get(stream.shard) != stand.epoch:
                if not self._verified(route, stream.shard, upto, pack_seq(route.epoch_of(stand), 0)):
                    continue
                self._epochs[stream.shard] = stand.epoch
            self._own.done(stream.shard, pack_seq(unpack_seq(upto)[0], 0), upto)

    def _verified(self, route: Stream, shard: int, upto: int, floor: int) -> bool:
        """A new epoch: what Redis lost of this process's own writes is written again. False if Redis cannot tell."""
        stream = route.streams[shard]
        last = stream.last()
        if last is None:
            return False
        if last < upto:
            self._lost(f"the journal of shard {shard} is gone or older than the database: queued writes may be lost")
        older = [held for held in self._own.held(shard) if held.entry.seq < floor]
        missing = [held.entry for held in older if held.entry.seq > upto and not stream.has(held.entry)]
        # Between the two looks somebody may have applied and trimmed them.
        upto = self._sink.applied_upto(stream.id)
        doubtful = [h.entry for h in older if h.entry.seq <= upto and unpack_seq(h.entry.seq)[0] < unpack_seq(upto)[0]]
        missing = [entry for entry in missing if entry.seq > upto]
        self._restore(shard, missing, doubtful)
        return True

    def _restore(self, shard: int, missing: list[Entry], doubtful: list[Entry]) -> None:
        if missing:
            self._lost(f"the journal of shard {shard} lost {len(missing)} acknowledged writes of this process")
        again = [entry for entry in (*missing, *doubtful) if entry.kind != "add"]
        if again:  # whole rows may be written twice: the number decides
            self._flushed(self._sink.recover(again))
            self.counts["restored"] += len(missing)
        adds = [entry for entry in missing if entry.kind == "add"]
        if adds:
            self._sink.bury(adds, "lost with the journal before it was applied")
        self._own.drop(entry.seq for entry in (*missing, *doubtful))

    def _lost(self, what: str) -> None:
        self.lost.append(what)
        self.counts["lost"] += 1
        log.error("%s", what)

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, once. Database errors come through; ConfigError where no journal is safe."""
        if self._closed:
            raise UnavailableError("the layer is closed; open a new DataLayer")
        if self._started:
            return
        with self._lock:
            if self._started:
                return
            if self._refusal is not None:
                raise ConfigError(self._refusal)
            make_tables(self._engine)
            self._choose()
            self._stop.clear()
            self._thread = start_flusher(self, self.options.interval, self._wake, self._stop)
            self._started = True

    def _running(self, writes: Sequence[Write]) -> Route | None:
        self.start()
        for write in writes:
            if write.shape.space not in self._ready:
                self._prepare(write.shape)
        if self._route is None and time.monotonic() - self._looked > _LOOK_AGAIN:
            with self._lock:
                self._choose()
        return self._route

    def _prepare(self, shape: Shape) -> None:
        with self._engine.connect() as connection:
            columns = {
                column["name"] for column in sa.inspect(connection).get_columns(shape.table.name, shape.table.schema)
            }
        if SEQUENCE_COLUMN not in columns:
            raise ConfigError(
                f"table {shape.table.fullname} has no column {SEQUENCE_COLUMN}, which write-behind needs; "
                "run layer.migrate()"
            )
        self._ready.add(shape.space)

    def _choose(self) -> None:
        """Settle on a journal; none while a Redis that has to be looked at is away."""
        if self._route is not None:
            return
        self._looked = time.monotonic()
        options, overlay = self.options, self._overlay
        if overlay is not None and options.journal in (None, "redis"):
            server = overlay.server(0)
            if server is None:
                if options.journal == "redis" or options.path is None:
                    return
            elif not (problems := problems_of(server)) or options.allow_unsafe:
                self._use_stream(overlay)
                return
            elif options.journal == "redis" or options.path is None:
                raise ConfigError(_unsafe(problems))
        if overlay is None:
            adopt_layout(self._engine, "local")
        journal = self._own_journal()
        if overlay is not None and self._authority is not None:
            self._base = adopt_layout(self._engine, f"redis:{overlay.shards}")
            self._route = Filed(journal, overlay, self._authority, self._base)
        else:
            self._route = Local(journal, self._sequence)
        log.info("write-behind with the journal %s (%s)", type(journal).__name__, journal.durability)

    def _use_stream(self, overlay: RedisOverlay) -> None:
        assert self._authority is not None
        self._base = adopt_layout(self._engine, f"redis:{overlay.shards}")
        options = self.options
        self._route = Stream(overlay, self._authority, self._base, prefix=options.prefix, most=options.backlog)
        log.info("write-behind with the journal redis (%s)", self._route.durability)

    def _own_journal(self) -> Appending:
        if self.options.journal == "memory":
            log.warning("the write-behind journal is in memory: queued writes are lost when this process ends")
            if self._overlay is None:
                self._sequence: OwnSequence | SharedSequence = OwnSequence(self._engine)
            return MemoryJournal()
        if self.options.path is None:
            raise ConfigError(
                "write-behind has nowhere to keep queued writes: give journal_path (a directory that stays), a Redis "
                "with an append-only file, or journal='memory' if losing them is all right"
            )
        directory = Directory(self.options.path)
        if self._overlay is None:
            self._sequence = SharedSequence(self._engine, directory.path)
        return directory.create()

    def dead_letters(self) -> DeadLetters:
        """What was refused for good, whoever queued it."""
        make_tables(self._engine)
        return self._letter_box()

    def _letter_box(self) -> DeadLetters:
        return DeadLetters(self._engine, self._table_of, self._wake.set)

    def _table_of(self, space: str) -> str:
        shape = self.shapes.get(space)
        return shape.table.fullname if shape is not None else space

    def status(self) -> QueueStatus:
        """What waits, in all journals that can be seen from here. Starts nothing and flushes nothing."""
        if self._refusal is not None:
            raise ConfigError(self._refusal)
        make_tables(self._engine)
        found: dict[str, int] = {}
        for shard in range(self._overlay.shards if self._overlay is not None else 0):
            found[f"redis:{shard}"] = (self._overlay.length(shard) if self._overlay is not None else None) or 0
        if self.options.path is not None and self.options.path.is_dir():
            found |= Directory(self.options.path).census()
        waiting, dead = self._sink.waiting_letters(), len(self._letter_box())
        return QueueStatus(found, waiting, dead, self.durability, tuple(self.lost))

    def dirty(self) -> int:
        """Queued writes that the database does not have, as far as this process can tell."""
        try:
            return max(self._left(), len(self._own)) if self._started else 0
        except Exception:
            return len(self._own)

    def _left(self) -> int:
        journals = self._route.journals() if self._route is not None else []
        return sum(len(journal) for journal in (*journals, *self._adopted))

    @property
    def running(self) -> bool:
        return self._started and not self._closed

    @property
    def durability(self) -> str:
        """What the journal in use survives."""
        return self._route.durability if self._route is not None else "no journal in use: writes go through"

    def close(self, timeout: float) -> FlushReport | None:
        """Flush for at most ``timeout`` seconds, stop the flusher, and say what is left; None if nothing was queued."""
        with self._lock:
            if self._closed or not self._started:
                self._closed = True
                if self._owned:
                    self._engine.dispose()
                return None
        report = self.flush(timeout)
        with self._lock:
            self._closed = True
        self._stop.set()
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5.0)
        with self._turning:
            for journal in self._adopted:
                journal.close()
            if self._route is not None:
                self._route.close()
        if self._owned:
            self._engine.dispose()
        if not report.ok:
            log.error("closed with %d queued writes left and %d to be tried again", report.left, report.waiting)
        return report


def _name(key: Values) -> Any:
    return key[0] if len(key) == 1 else key


def _unsafe(problems: Sequence[str]) -> str:
    return (
        f"this Redis cannot be the write-behind journal: {'; '.join(problems)}. Or give journal_path for the journal "
        "'file', or journal_allow_unsafe=True to take the risk"
    )
