"""Writes of several models that are collected first and committed together: all of them, or none.

::

    layer.transaction().set(order).set(item).delete(Cart, cart_id).commit()

Nothing is sent before ``commit()``, so that no lock is held while the application decides, and the whole can be run
again when it was not to be serialized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self, TypeVar

from .errors import InvalidModelError, TransactionFailed, TransactionOutcomeUnknown
from .session.session import Session

T = TypeVar("T")


class Rows(Protocol):
    """What a staged transaction needs of a repository."""

    def set_many(self, objs: list[Any]) -> list[Any]: ...

    def create_many(self, objs: list[Any]) -> list[Any]: ...

    def update(self, id: Any, **values: Any) -> Any: ...

    def delete(self, id: Any, *, hard: bool = False) -> bool: ...


#: One write: the model, and what to do with its repository. Consecutive sets of a model become one statement.
Step = tuple[type[Any], str, Any, dict[str, Any]]


class Transaction:
    """Collects writes; :meth:`commit` does them in order. Not thread-safe; commits once.

    ``run`` calls a function in a transaction, again when that may be; ``rows`` makes the repository of a model in a
    session, and raises SchemaNotFoundError for a class that the layer does not know.
    """

    def __init__(
        self, run: Callable[[Callable[[Session], list[Any]]], list[Any]], rows: Callable[[Session, type[Any]], Rows]
    ) -> None:
        self._run = run
        self._rows = rows
        self._steps: list[Step] = []
        self._over: str | None = None

    def set(self, obj: Any) -> Self:
        """Insert the object, or update the row that has its key in what the object has loaded when it is committed."""
        return self._add(type(obj), "set", _mapped(obj), {})

    def create(self, obj: Any) -> Self:
        """Insert the object; AlreadyExistsError, for all, if its key or a unique value is taken."""
        return self._add(type(obj), "create", _mapped(obj), {})

    def update(self, model: type[Any], id: Any, **values: Any) -> Self:
        """Change attributes of the row under ``id``; NotFoundError, for all, if there is none."""
        return self._add(model, "update", id, values)

    def delete(self, model: type[Any], id: Any, *, hard: bool = False) -> Self:
        """Delete the row under ``id``, if there is one."""
        return self._add(model, "delete", id, {"hard": hard})

    def _add(self, model: type[Any], what: str, subject: Any, options: dict[str, Any]) -> Self:
        self._check_open()
        self._steps.append((model, what, subject, options))
        return self

    def commit(self) -> list[Any]:
        """Do it all and return what each call alone would have: the stored instance, or whether a row was deleted.

        Raises what the writes raise, and TransactionFailed, TransactionTimeout or TransactionOutcomeUnknown. After a
        failure nothing has changed and it may be called again; not so after TransactionOutcomeUnknown.
        """
        self._check_open()
        try:
            results = self._run(self._write)
        except TransactionOutcomeUnknown:
            self._over = "has an unknown outcome"
            raise
        self._over = "was committed"
        return results

    def discard(self) -> None:
        """Forget what was collected. Nothing has been sent."""
        self._steps.clear()

    def _write(self, session: Session) -> list[Any]:
        results: list[Any] = []
        for model, what, steps in _grouped(self._steps):
            rows = self._rows(session, model)
            if what == "set":
                results += rows.set_many([subject for _, _, subject, _ in steps])
            elif what == "create":
                results += rows.create_many([_fresh(subject) for _, _, subject, _ in steps])
            else:
                results += [getattr(rows, what)(subject, **options) for _, _, subject, options in steps]
        return results

    def _check_open(self) -> None:
        if self._over is not None:
            raise TransactionFailed(f"this transaction {self._over}; begin another one with layer.transaction()")

    def __len__(self) -> int:
        """How many writes are collected."""
        return len(self._steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Commit when the block ended well, else forget."""
        if kind is not None:
            self.discard()
        elif self._over is None:
            self.commit()

    def __repr__(self) -> str:
        return f"<Transaction of {len(self)} writes{f', {self._over}' if self._over else ''}>"


def _grouped(steps: list[Step]) -> Iterator[tuple[type[Any], str, list[Step]]]:
    group: list[Step] = []
    for step in steps:
        if group and step[:2] != group[0][:2]:
            yield group[0][0], group[0][1], group
            group = []
        group.append(step)
    if group:
        yield group[0][0], group[0][1], group


def _mapped(obj: Any) -> Any:
    if not hasattr(obj, "_sa_instance_state"):
        raise InvalidModelError(f"got {type(obj).__name__!r}, expected an instance of a mapped class")
    return obj


def _fresh(obj: Any) -> Any:
    """A copy to be inserted: the attempt that failed has left its marks on the one before."""
    state = obj._sa_instance_state
    values = {prop.key: state.dict[prop.key] for prop in state.mapper.column_attrs if prop.key in state.dict}
    return type(obj)(**values)
