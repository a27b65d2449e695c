"""A SQLAlchemy session whose reads by key may come from a cache, and whose writes keep the caches right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm.base import PassiveFlag
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.util import EMPTY_DICT

from ..contracts.causal import Token, format_token, merged
from ..contracts.coherence import WriteSet
from ..contracts.levels import Consistency, check_level
from ..errors import ConfigError
from ..models.policy import policy_of
from ..models.schema import Schema
from ..models.tagged import tagged_columns, written_values
from .caches import Caches
from .hooked import HookRunner
from .hydrate import Hydrator, result_of
from .reads import (
    NO_SUCH_ROW,
    connection_of,
    is_plain_get,
    lazy_load_bypasses,
    listens,
    locked_row,
    locks_row,
    may_use_tiers,
    read_identity,
)
from .unique import recognise, unique_rows
from .writes import flushing

if TYPE_CHECKING:
    from sqlalchemy.orm import Mapper
    from sqlalchemy.orm.state import InstanceState

_NEEDED = PassiveFlag.SQL_OK | PassiveFlag.RELATED_OBJECT_OK


class HasCaches(Protocol):
    """A layer, as far as a session is concerned."""

    @property
    def caches(self) -> Caches: ...


class Session(orm.Session):
    """``sqlalchemy.orm.Session`` with the layer's tiers under ``get``, many-to-one loads and unique look-ups.

    ``layer`` is a :class:`datalayer.DataLayer`; without one this is the plain session. ``consistency`` is the level of
    every read of this session that does not say otherwise. Everything else is SQLAlchemy's. Not thread-safe, as ever.

    ``causal_token`` is what this session has committed, for ``layer.after(token)`` in another process, which then sees
    these writes: letters, digits, dots and underscores, for a cookie or a header; empty if nothing was committed.
    """

    def __init__(
        self,
        bind: Any = None,
        *,
        layer: HasCaches | None = None,
        consistency: Consistency | None = None,
        **options: Any,
    ) -> None:
        if layer is not None and not hasattr(layer, "caches"):
            raise ConfigError(f"layer is {type(layer).__name__!r}; expected a DataLayer")
        self._caches: Caches | None = layer.caches if layer is not None else None
        self._level = check_level(consistency) if consistency is not None else None
        self._bypass = 0
        self._tokens: list[Token] = []
        self._hydrator = Hydrator(self)
        self._hook_runner = HookRunner(self, self._caches.failures if self._caches is not None else Counter())
        super().__init__(bind, **options)

    if TYPE_CHECKING:
        causal_token: str
    else:

        def __getattr__(self, name: str) -> str:
            # No property: scoped_session, which proxies every public one, would not be complete any more.
            if name != "causal_token":
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self._tokens[:] = (merged(self._tokens),)
            return format_token(self._tokens[0])

    # -- reads -----------------------------------------------------------------------------------------------------

    # Names begin with an underscore so that scoped_session, which proxies every public one, stays complete.

    def _consistency(self) -> Consistency:
        """The consistency that a read of this session has now."""
        return "database" if self._caches is None else self._caches.levels.resolve(self._level)

    @contextmanager
    def _at(self, level: Consistency | None) -> Iterator[None]:
        """Reads of this session have this level inside the block; None changes nothing."""
        before, self._level = self._level, check_level(level) if level is not None else self._level
        try:
            yield
        finally:
            self._level = before

    @contextmanager
    def _to_database(self) -> Iterator[None]:
        self._bypass += 1
        try:
            yield
        finally:
            self._bypass -= 1

    def _get_impl(self, entity: Any, primary_key_identity: Any, db_load_fn: Any, **options: Any) -> Any:
        if self._caches is None or is_plain_get(options, db_load_fn):
            return super()._get_impl(entity, primary_key_identity, db_load_fn, **options)
        mapper: Any = sa.inspect(entity, raiseerr=False)
        if locks_row(options, db_load_fn) and getattr(mapper, "is_mapper", False):
            found = locked_row(self, mapper, primary_key_identity)
            if found is not None:
                return None if found is NO_SUCH_ROW else found
        # _identity_lookup does not see loader options: they are honoured by not answering there.
        with self._to_database():
            return super()._get_impl(entity, primary_key_identity, db_load_fn, **options)

    def _identity_lookup(
        self,
        mapper: Mapper[Any],
        primary_key_identity: Any,
        identity_token: Any = None,
        passive: PassiveFlag = PassiveFlag.PASSIVE_OFF,
        lazy_loaded_from: InstanceState[Any] | None = None,
        execution_options: Any = EMPTY_DICT,
        bind_arguments: Any = None,
        **more: Any,
    ) -> Any:
        found = super()._identity_lookup(
            mapper,
            primary_key_identity,
            identity_token=identity_token,
            passive=passive,
            lazy_loaded_from=lazy_loaded_from,
            execution_options=execution_options,
            bind_arguments=bind_arguments,
            **more,
        )
        if found is not None or self._caches is None or self._bypass or self._flushing:
            return found
        if identity_token is not None or bind_arguments or more or passive & _NEEDED != _NEEDED:
            return None
        if listens(self) or getattr(self, "execution_options", None):
            return None
        if lazy_loaded_from is not None and lazy_load_bypasses(lazy_loaded_from):
            return None
        return read_identity(self, mapper, tuple(primary_key_identity), passive, lazy_loaded_from)

    def _in_identity_map(self, mapper: Mapper[Any], key: Any, passive: PassiveFlag, parent: Any) -> Any:
        return super()._identity_lookup(mapper, key, passive=passive, lazy_loaded_from=parent)

    def _execute_internal(self, statement: Any, params: Any = None, **options: Any) -> Any:
        if self._caches is not None and not params and not any(options.values()):
            lookup = recognise(statement)
            if lookup is not None:
                result = self._from_unique(lookup.schema, {lookup.name: lookup.value}, statement)
                if result is not None:
                    return result
        try:
            return super()._execute_internal(statement, params, **options)
        except BaseException:
            del params  # values of encrypted columns, perhaps, which error reporters would collect
            raise

    def _by_unique(self, schema: Schema, asked: Mapping[str, Any], statement: Any) -> Any:
        """The Result of ``statement``, which selects the row with these unique values."""
        result = self._from_unique(schema, asked, statement)
        return self.execute(statement) if result is None else result

    def _from_unique(self, schema: Schema, asked: Mapping[str, Any], statement: Any) -> Any:
        """A Result by way of the tiers, or None when the statement must run as it is."""
        if self._caches is None or self._bypass or self._flushing or listens(self):
            return None
        ladder = self._caches.ladder(schema)
        if ladder is None or self._consistency() == "database" or getattr(self, "execution_options", None):
            return None
        self._autobegin_t()
        if self._new or self._deleted or self.identity_map._modified:
            self._autoflush()
        if not may_use_tiers(self, schema):
            return None
        projection, rows = unique_rows(self, ladder, schema, asked, statement)
        return result_of(self, schema, projection, rows)

    # -- writes ----------------------------------------------------------------------------------------------------

    def _flush(self, objects: Any = None) -> None:
        asked = self._hook_runner.before_flush()
        before = getattr(flushing, "session", None)
        flushing.session, flushing.caches = self, None
        try:
            super()._flush(objects)
        except StaleDataError:
            self._forget_stale()
            raise
        finally:
            flushing.session, flushing.caches = before, None
        if asked:
            self._hook_runner.wrote(asked)

    def _register_persistent(self, states: set[InstanceState[Any]]) -> None:
        self._note(states, "sets")
        super()._register_persistent(states)

    def _remove_newly_deleted(self, states: Iterable[InstanceState[Any]]) -> None:
        states = list(states)
        self._note(states, "deletes")
        super()._remove_newly_deleted(states)

    def _note(self, states: Collection[InstanceState[Any]], kind: str) -> None:
        """Enter the keys of flushed states. Touches no attribute: an expired one would emit SQL inside the flush."""
        if self._caches is None:
            return
        connection = connection_of(self, self._caches.engine)
        if connection is not None:
            self._caches.tracker.counts[kind] += len(states)
            written = self._caches.tracker.open(connection)
            for state in states:
                _enter(written, state)

    def _forget_stale(self) -> None:
        """A stale version came from a cache, perhaps: the retry must not read it there again."""
        if self._caches is not None:
            written = WriteSet()
            for state in self.identity_map.all_states():
                _enter(written, state)
            self._caches.forget(written)

    def merge(self, *args: Any, **options: Any) -> Any:
        # A diff against a stale base would be empty, and the UPDATE silently lost.
        with self._to_database():
            return super().merge(*args, **options)

    def merge_all(self, *args: Any, **options: Any) -> Any:
        with self._to_database():
            return super().merge_all(*args, **options)


@sa.event.listens_for(Session, "after_begin", propagate=True)
def _joined(session: Session, _transaction: Any, connection: sa.Connection) -> None:
    """What is committed on this connection counts to the session's causal token."""
    if session._caches is not None and connection.engine.pool is session._caches.engine.pool:
        session._caches.tracker.join(connection, session._tokens)


def _enter(written: WriteSet, state: InstanceState[Any]) -> None:
    mapper: Any = state.manager.mapper
    tables = [t.fullname for t in mapper.tables if isinstance(t, sa.Table)]
    base = mapper.base_mapper.local_table
    if not isinstance(base, sa.Table):
        written.tables.update(tables)
        return
    vague = not _values_known(written, state, mapper)
    old = tuple(state.key[1]) if state.key is not None else None
    if old is not None:
        written.touch(base.fullname, old, tables, vague=vague)
    values = state.dict
    if all(prop.key in values for prop in mapper._identity_key_props):
        new = tuple(values[prop.key] for prop in mapper._identity_key_props)
        written.touch(base.fullname, new, tables, vague=vague)
        if old is not None and old != new:
            written.rekeyed.update(tables)


def _values_known(written: WriteSet, state: InstanceState[Any], mapper: Any) -> bool:
    """Enter the old and new values of the columns that cached queries ask by; False when one is not known."""
    columns = tagged_columns(mapper, policy_of(mapper.class_).query_tags)
    values = list(written_values(state, columns))
    written.values.update(value for value in values if value is not None)
    return None not in values
