"""The repository of a model that is written behind: a write returns once the journal has it.

It is the only door for writes of such a model: what a session wrote could be undone by what is queued, so sessions
refuse. Reads by key see the newest acknowledged write; queries see what the database has, see ``layer.flush()``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from .contracts.coherence import Absent
from .contracts.levels import Consistency
from .errors import AlreadyExistsError, InvalidModelError
from .models.columns import utc_now
from .models.hooks import run_before_set
from .models.quiet import leaves_no_values
from .repository import OneShotRepository, check_attributes, found_or_raise, soft_delete_column
from .session.reader import Reader
from .session.session import Session
from .tiers.needs import Row
from .writes.behind import Behind
from .writes.rows import whole_row

T = TypeVar("T")


@leaves_no_values("set", "set_many", "create", "create_many", "update", "increment", "restore")
class QueuedRepository(OneShotRepository[T]):
    """As ``layer.repository(Model)`` of any model, with writes that are queued. Thread-safe.

    A queued row is a whole row: what an instance has not loaded is taken from the newest one. Two processes that set
    different columns of one row at the same moment: the later of the two wins with all of them. ``increment`` has no
    such trouble. What only the database can decide (``compare_and_set``) is refused with InvalidModelError.
    """

    def __init__(
        self,
        model: type[T],
        reader: Reader,
        open_session: Callable[[], Session],
        behind: Behind,
        consistency: Consistency | None = None,
    ) -> None:
        super().__init__(model, reader, open_session, consistency)
        self._behind = behind
        behind.start()

    @property
    def _shape(self) -> Any:
        # Looked up again: a class that is mapped later may have changed what is known of this one.
        shape = next((s for s in self._behind.shapes.all() if s.schema.cls is self.model), None)
        assert shape is not None
        return shape

    # -- writes ----------------------------------------------------------------------------------------------------

    def set(self, obj: T) -> T:
        return self.set_many([obj])[0]

    def set_many(self, objs: Iterable[T]) -> list[T]:
        """Queue each as a whole row; all are acknowledged when this returns. If it raises, some may have been."""
        shape, rows = self._shape, []
        accepted = [self._accepted(obj) for obj in objs]
        for obj in accepted:
            run_before_set(self._hooks, obj)
        for obj in accepted:
            key, loaded = self._key_of(obj), self._loaded(obj)
            if len(accepted) == 1 and len(loaded) < len(self._schema.full.keys):
                with self._behind.locked(shape, key):
                    values = self._whole(key, loaded)
                    self._behind.set(shape, [(key, values)])
                    return [self._made(values)]
            rows.append((key, self._whole(key, loaded)))
        self._behind.set(shape, rows)
        return [self._made(values) for _, values in rows]

    def create(self, obj: T) -> T:
        return self.create_many([obj])[0]

    def create_many(self, objs: Iterable[T]) -> list[T]:
        """As ``set_many`` for rows that are not there. AlreadyExistsError for one that is, as far as can be seen now:
        two processes that create one row at the same moment both succeed, and the later of the two stays."""
        made = [self._accepted(obj) for obj in objs]
        for obj in made:
            key = self._key_of(obj)
            if isinstance(self._newest(key), Row):
                raise AlreadyExistsError(
                    f"{self.model.__name__}: a row with this key exists; use set() to write over it"
                )
        return self.set_many(made)

    def update(self, id: Any, **values: Any) -> T:
        """Queue the newest row with some attributes changed. NotFoundError when there is none."""
        check_attributes(self._mapper, values)
        return self._change(id, values, live=True)

    def increment(self, id: Any, **amounts: Any) -> None:
        """Queue an addition to number columns of a row, each applied exactly once, in any process, in any order.

        The next read of the row waits until it is applied. An addition to a row that is not there is tried again like
        any refused write, and becomes a dead letter. TransactionOutcomeUnknown if nobody can say whether it will count.
        """
        check_attributes(self._mapper, amounts)
        self._behind.add(self._shape, self._tuple(id), amounts)

    def delete(self, id: Any, *, hard: bool = False) -> bool:
        return self.delete_many([id], hard=hard) == 1

    def delete_many(self, ids: Iterable[Any], *, hard: bool = False) -> int:
        gone = 0
        column = soft_delete_column(self.model)
        for id in ids:
            key = self._tuple(id)
            with self._behind.locked(self._shape, key):
                found = self._newest(key)
                if isinstance(found, Absent) or (column is not None and not hard and self._live_row(found) is None):
                    continue
                gone += 1
                if column is not None and not hard:
                    self._change(id, {column.key: utc_now(None)}, live=True)
                else:
                    self._behind.delete(self._shape, [key])
        return gone

    def restore(self, id: Any) -> T:
        column = soft_delete_column(self.model)
        if column is None:
            raise InvalidModelError(f"{self.model.__name__} is not a SoftDelete model; there is nothing to restore")
        return self._change(id, {column.key: None}, live=False)

    def bulk_load(self, rows: Iterable[Any], *_: Any, **__: Any) -> int:
        raise InvalidModelError(
            f"{self.model.__name__} is written behind, and bulk_load would pass what is queued; use set_many(), "
            "or flush, close, and load with a layer that writes the model through"
        )

    def compare_and_set(self, obj: T, *, expected: Any) -> T:
        raise InvalidModelError(
            f"{self.model.__name__} is written behind: only the database could compare; write the model through, "
            "or use increment()"
        )

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _change(self, id: Any, values: dict[str, Any], *, live: bool) -> T:
        key = self._tuple(id)
        with self._behind.locked(self._shape, key):
            found = self._newest(key)
            there = None if isinstance(found, Absent) else self._reader.owned(found)
            obj: Any = found_or_raise(self._live(there) if live else there, self.model, id)
            for name, value in values.items():
                setattr(obj, name, value)
            run_before_set(self._hooks, obj)
            row = self._whole(self._key_of(obj), self._loaded(obj))
            self._behind.set(self._shape, [(key, row)])
            return self._made(row)

    def _newest(self, key: tuple[Any, ...]) -> Row | Absent:
        return self._reader.newest(key)

    def _live_row(self, row: Row | Absent) -> T | None:
        return None if isinstance(row, Absent) else self._live(self._reader.owned(row))

    def _whole(self, key: tuple[Any, ...], loaded: dict[str, Any]) -> tuple[Any, ...]:
        return whole_row(self._schema, loaded, lambda: self._newest(key))

    def _made(self, values: tuple[Any, ...]) -> T:
        made: T = self._reader.owned(Row(values, self._schema.full, "queued"))
        return made

    @staticmethod
    def _tuple(id: Any) -> tuple[Any, ...]:
        return id if isinstance(id, tuple) else (id,)


__all__ = ["QueuedRepository"]
