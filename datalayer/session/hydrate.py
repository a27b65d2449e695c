"""From a cached row to an instance, in two ways that give the same object.

*In a session* the ORM's own row processor is fed with the tuple, as if a SELECT had just returned it: events, mutable
tracking, composites and polymorphic identities are SQLAlchemy's business. It is compiled once per session and mapper.

*Outside a session* a class that nobody listens to gets its ``__dict__`` filled and its ``InstanceState`` made when
SQLAlchemy first asks for it. Only two of SQLAlchemy's private names carry that: the state attribute and the class's
manager; a self-test at first use decides whether the short way may be taken.
"""

from __future__ import annotations

import inspect
import logging
import operator
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from sqlalchemy.orm import Session, loading
from sqlalchemy.orm import context as orm_context
from sqlalchemy.orm.state import InstanceState
from sqlalchemy.util import EMPTY_DICT

from ..models.copying import own
from ..models.schema import Projection, Schema

log = logging.getLogger("datalayer.session")

_STATE = "_sa_instance_state"
_TAKES_USER_QUERY = "user_passed_query" in inspect.signature(orm_context.QueryContext.__init__).parameters


# -- in a session --------------------------------------------------------------------------------------------------


class _Cursor:
    """Stands in for the CursorResult: says where in the tuple each column is; an absent column reads as expired."""

    __slots__ = ("_index", "rows")

    context = SimpleNamespace(_is_server_side=False)

    def __init__(self, projection: Projection, rows: list[tuple[Any, ...]] | None = None) -> None:
        self._index = projection.index
        self.rows = rows or []

    def _getter(self, key: Any, raiseerr: bool = True) -> Callable[[Any], Any] | None:
        at = self._index.get(key)
        if at is None:
            if raiseerr:
                raise KeyError(key)
            return None
        return operator.itemgetter(at)

    def _tuple_getter(self, keys: Any) -> Callable[[Any], tuple[Any, ...]]:
        at = [self._index[key] for key in keys]
        if len(at) == 1:
            only = at[0]
            return lambda row: (row[only],)
        return operator.itemgetter(*at)

    def _has_key(self, key: Any) -> bool:
        return key in self._index

    def _raw_all_tuples(self) -> list[tuple[Any, ...]]:
        return self.rows

    _raw_all_rows = fetchall = _raw_all_tuples

    def close(self) -> None:
        """Nothing to release."""

    def _soft_close(self, **_: Any) -> None:
        """Nothing to release here either."""


def query_context(session: Session, schema: Schema, projection: Projection) -> Any:
    query = (schema.statement, schema.statement) if _TAKES_USER_QUERY else (schema.statement,)
    make: Any = orm_context.QueryContext  # its signature differs between releases
    return make(
        projection.compile_state,
        *query,
        {},
        session,
        orm_context.QueryContext.default_load_options,
        EMPTY_DICT,
        EMPTY_DICT,
    )


def result_of(session: Session, schema: Schema, projection: Projection, rows: list[tuple[Any, ...]]) -> Any:
    """A Result as ``session.execute(select(E))`` returns it, over rows that are already here."""
    return loading.instances(_Cursor(projection, rows), query_context(session, schema, projection))  # type: ignore[arg-type]


class Hydrator:
    """Row processors of one session. Not thread-safe, like the session."""

    __slots__ = ("_processors", "_session")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._processors: dict[tuple[Schema, Projection], tuple[Any, Any, Callable[[Any], Any]]] = {}

    def instance(self, schema: Schema, projection: Projection, values: tuple[Any, ...]) -> Any:
        """The session's instance for a row, or None when the row is of another class than was asked for."""
        session = self._session
        # A processor reads these when it is made: close() replaces the identity map, listeners come and go.
        heard = (bool(schema.mapper.class_manager.dispatch.load), bool(session.dispatch.loaded_as_persistent))
        slot = (schema, projection)
        made = self._processors.get(slot)
        if made is None or made[0] is not session.identity_map or made[1] != heard or schema.polymorphic:
            made = self._processors[slot] = (session.identity_map, heard, self._compile(schema, projection))
        return made[2](values)

    def _compile(self, schema: Schema, projection: Projection) -> Callable[[Any], Any]:
        context = query_context(self._session, schema, projection)
        context.runid = loading._new_runid()
        context.post_load_paths = {}
        context.partials = {}
        process: Callable[[Any], Any] = projection.compile_state._entities[0].row_processor(
            context, _Cursor(projection)
        )[0]
        return process


# -- outside a session ---------------------------------------------------------------------------------------------


class _LazyState:
    """Makes the ``InstanceState`` of an instance that was made by filling its ``__dict__``.

    A non-data descriptor: Python asks it only when the instance has no state of its own, which is the case for our
    instances until SQLAlchemy looks, and for half-made ones, which have no key yet.
    """

    __slots__ = ("columns", "key_names", "root")

    def __init__(self, schema: Schema) -> None:
        self.root = schema.root
        self.key_names = schema.key_names
        self.columns = frozenset(schema.full.keys)

    def __get__(self, instance: Any, owner: Any) -> Any:
        if instance is None:
            return self
        values = instance.__dict__
        try:
            key = tuple([values[name] for name in self.key_names])
        except KeyError:
            raise AttributeError(_STATE) from None
        state: Any = InstanceState(instance, owner._sa_class_manager)
        state.key = (self.root, key, None)
        if not self.columns <= values.keys():
            state.expired_attributes.update(self.columns - values.keys())
        return values.setdefault(_STATE, state)  # atomic: two threads agree on one state


def install_lazy_state(schema: Schema) -> bool:
    """Prepare a class for instances without state; False when it must be hydrated by the ORM instead."""
    if not schema.flat:
        return False
    if isinstance(vars(schema.cls).get(_STATE), _LazyState):
        return True
    type.__setattr__(schema.cls, _STATE, _LazyState(schema))
    if _self_test(schema):
        return True
    type.__delattr__(schema.cls, _STATE)
    log.warning("%s is hydrated by the ORM's loader: the fast way failed its self-test", schema.cls.__qualname__)
    return False


def _self_test(schema: Schema) -> bool:
    """Whether SQLAlchemy takes a filled instance for a detached one with the right identity and no changes."""
    try:
        instance = maker(schema.cls)(schema.cls)
        instance.__dict__.update(dict.fromkeys(schema.full.keys) | dict.fromkeys(schema.key_names, 1))
        state: Any = getattr(instance, _STATE)
        same = getattr(instance, _STATE) is state
        return bool(same and state.detached and state.identity and not state.modified and not state.expired_attributes)
    except Exception:
        return False


def compile_from_template(schema: Schema) -> Callable[[Mapping[str, Any]], Any]:
    """A function from a template of ``__dict__`` to an instance that its caller owns. About 0.3 microseconds."""
    copies = "".join(f"    d[{key!r}] = own(d[{key!r}])\n" for key in schema.mutable if key in schema.local.keys)
    source = f"def hydrate(template):\n    o = new(cls)\n    o.__dict__ = d = template.copy()\n{copies}    return o\n"
    return _made(source, "hydrate", {"cls": schema.cls, "new": maker(schema.cls), "own": own})


def compile_from_row(schema: Schema, projection: Projection) -> Callable[[tuple[Any, ...]], Any]:
    """A function from a row to an instance that its caller owns."""
    names = [f"v{i}" for i in range(len(projection.keys))]
    filled = ", ".join(
        f"{key!r}: own({name})" if key in schema.mutable else f"{key!r}: {name}"
        for key, name in zip(projection.keys, names, strict=True)
    )
    unpacked = ", ".join(names)
    source = (
        f"def hydrate(row):\n    ({unpacked},) = row\n    o = new(cls)\n    o.__dict__ = {{{filled}}}\n    return o\n"
    )
    return _made(source, "hydrate", {"cls": schema.cls, "new": maker(schema.cls), "own": own})


def maker(cls: Any) -> Any:
    return cls.__new__


def _made(source: str, name: str, names: dict[str, Any]) -> Callable[[Any], Any]:
    exec(compile(source, f"<datalayer {name}>", "exec"), names)  # the source holds attribute names only, as literals
    made: Callable[[Any], Any] = names[name]
    return made
