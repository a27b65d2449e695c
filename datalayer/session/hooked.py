"""The application's hooks around the writes of one session: before a flush, and after the COMMIT that makes it true.

``before_set`` runs before the first statement of a flush, so that nothing was written when it raises. ``after_set``
waits for the COMMIT of the outermost transaction; what a savepoint took back is not told. Models without hooks cost one
look at their class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from ..models.hooks import Hooks, run_after_set, run_before_set
from ..models.policy import CachePolicy

if TYPE_CHECKING:
    from .session import Session


def hooks_of(cls: type[Any]) -> Hooks | None:
    """The hooks of a mapped class, own or inherited."""
    policy = getattr(cls, "__cache__", None)
    return policy.hooks if isinstance(policy, CachePolicy) else None


class HookRunner:
    """What one session still has to tell its models' hooks. Not thread-safe, like the session."""

    __slots__ = ("_asked", "_failures", "_session", "_waiting")

    def __init__(self, session: Session, failures: Counter[str]) -> None:
        self._session = session
        self._failures = failures
        #: Objects whose ``before_set`` has run for the flush to come.
        self._asked: dict[int, Any] = {}
        #: Objects that were written, each with the transaction or savepoint that it was written in.
        self._waiting: list[tuple[Any, Any]] = []

    def ask(self, objs: Iterable[Any]) -> None:
        """Run ``before_set`` now for objects that will be flushed; the flush does not ask again."""
        for obj in objs:
            hooks = hooks_of(type(obj))
            if hooks is not None and id(obj) not in self._asked:
                run_before_set(hooks, obj)
                self._asked[id(obj)] = obj

    def forget_asked(self) -> None:
        """What was asked for was flushed, or never will be."""
        self._asked = {}

    def before_flush(self) -> list[Any]:
        """Ask for everything that a flush would write; the objects, for :meth:`flushed`."""
        try:
            found = list(self._unasked())
            while found:
                self.ask(found)
                found = list(self._unasked())  # a hook may add objects and change others
            return list(self._asked.values())
        finally:
            self.forget_asked()

    def _unasked(self) -> Iterator[Any]:
        session = self._session
        for state in list(session._new):
            obj = state.obj()
            if obj is not None and id(obj) not in self._asked and hooks_of(type(obj)) is not None:
                yield obj
        for state in list(session.identity_map._modified):
            obj = state.obj()
            if obj is None or id(obj) in self._asked or hooks_of(type(obj)) is None or state in session._deleted:
                continue
            if session.is_modified(obj):
                yield obj

    def wrote(self, objs: Iterable[Any]) -> None:
        """These were written in the current transaction: ``after_set`` runs when it is committed."""
        for obj in objs:
            hooks = hooks_of(type(obj))
            if hooks is not None and hooks.after_set is not None:
                if not self._waiting:
                    self._listen()
                self._waiting.append((self._session._transaction, obj))

    def _listen(self) -> None:
        session = self._session
        if not event.contains(session, "after_commit", self._committed):
            event.listen(session, "after_commit", self._committed)
            event.listen(session, "after_soft_rollback", self._rolled_back)
            event.listen(session, "after_transaction_end", self._ended)

    def _committed(self, session: Any) -> None:
        if session.in_nested_transaction():
            return
        waiting, self._waiting = self._waiting, []
        for obj in {id(obj): obj for _, obj in waiting}.values():
            run_after_set(hooks_of(type(obj)), obj, on_error=self._count)

    def _count(self, _failure: Exception) -> None:
        self._failures["hook"] += 1

    def _rolled_back(self, _session: Any, transaction: Any) -> None:
        self._waiting = [(t, obj) for t, obj in self._waiting if transaction not in _lineage(t)]

    def _ended(self, _session: Any, transaction: Any) -> None:
        if transaction.parent is None:  # closed without a word: nothing was committed
            self._waiting.clear()


def _lineage(transaction: Any) -> Iterator[Any]:
    while transaction is not None:
        yield transaction
        transaction = transaction.parent
