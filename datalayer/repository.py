"""``Repository[T]``: the rows of one model by key, unique value and query, with writes that keep the caches right.

A repository of a session works in that session's transaction, and its instances belong to the session.
``layer.repository(Model)`` gives the same calls, each in a short session of its own, with detached instances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast, overload

import sqlalchemy as sa
from sqlalchemy import inspect
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.exc import StaleDataError

from .config.units import seconds
from .contracts.coherence import WriteSet
from .contracts.levels import Consistency
from .errors import (
    AlreadyExistsError,
    ConfigError,
    ConflictError,
    InvalidModelError,
    MissingPrimaryKeyError,
    NotFoundError,
    QueryError,
)
from .models.columns import utc_now
from .models.hooks import Hooks, run_before_get, run_before_set
from .models.quiet import leaves_no_values
from .models.schema import Schema, schema_of
from .models.sealed import encrypted_attributes, opened
from .query.aggregate import Function, aggregate, count_of, exists_in
from .query.attributes import unknown_attribute
from .query.builder import Q
from .query.compile import is_cacheable, is_query, to_select
from .query.page import Page, keyset
from .session.batches import Batches
from .session.bulk import BulkLoad, OnConflict, Progress
from .session.lists import rows_in_session
from .session.many import get_many
from .session.reader import Reader
from .session.session import Session
from .session.snapshots import Snapshot, make_snapshot, snapshot_class
from .session.unique import unique_sets
from .tiers.ladder import Ladder

T = TypeVar("T")
R = TypeVar("R")

_BATCH = 1000

_GIVEN_VALUES = (
    *("get_by", "search", "search_cached", "count", "page", "warm"),
    *("create_many", "update", "set_many", "bulk_load", "compare_and_set"),
)


@leaves_no_values(*_GIVEN_VALUES)
class Repository(Generic[T]):
    """Reads and writes of one model in one session. As thread-safe as the session: not at all.

    ``Repository[Player](session)``, or a subclass ``class Players(Repository[Player])``. Writes are flushed at once and
    committed by whoever owns the transaction. ``page_secret`` signs cursors.
    """

    model: ClassVar[type[Any]]

    def __class_getitem__(cls, item: Any) -> Any:
        if isinstance(item, TypeVar) or cls.__dict__.get("model") is not None:
            return super().__class_getitem__(item)  # type: ignore[misc]
        return type(
            f"{cls.__name__}[{getattr(item, '__name__', item)}]", (cls,), {"model": item, "__module__": cls.__module__}
        )

    def __init__(self, session: Session, *, consistency: Consistency | None = None) -> None:
        if not isinstance(session, Session):
            raise ConfigError(
                f"{type(self).__name__} got {type(session).__name__!r}; expected a datalayer.Session "
                "(layer.session(), or sessionmaker(class_=datalayer.Session, layer=layer))"
            )
        if getattr(type(self), "model", None) is None:
            raise ConfigError(f"{type(self).__name__} names no model; write Repository[Model](session)")
        self.session = session
        self._consistency = consistency
        self._mapper = mapper_of(self.model)
        self._schema = schema_of(self._mapper)

    # -- reads by key ----------------------------------------------------------------------------------------------

    def get(self, id: Any, *, consistency: Consistency | None = None) -> T | None:
        """The row under ``id`` (composite keys are tuples in mapped order), or None."""
        run_before_get(self._hooks, self.model, id)
        with self.session._at(consistency or self._consistency):
            return self._live(self.session.get(self.model, id))

    def get_one(self, id: Any, *, consistency: Consistency | None = None) -> T:
        """The row under ``id``; NotFoundError when there is none."""
        return found_or_raise(self.get(id, consistency=consistency), self.model, id)

    def get_many(self, ids: Iterable[Any], *, consistency: Consistency | None = None) -> dict[Any, T]:
        """The rows that exist, by id: one batch per tier, at most one statement per 1,000 keys."""
        ids = self._asked_for(ids)
        with self.session._at(consistency or self._consistency):
            found = get_many(self.session, self._schema, dict.fromkeys(ids))
        return {id: live for id, instance in found.items() if (live := self._live(instance)) is not None}

    def get_snapshot(self, id: Any, *, consistency: Consistency | None = None) -> Snapshot | None:
        """The row as an immutable value."""
        instance = self.get(id, consistency=consistency)
        if instance is None:
            return None
        if self._schema.reasons:
            raise InvalidModelError(
                f"{self.model.__name__} has no snapshots: {'; '.join(self._schema.reasons)}; use get()"
            )
        keys = self._schema.full.keys
        return make_snapshot(snapshot_class(self._schema), keys, tuple(getattr(instance, key) for key in keys))

    def get_by(self, *, consistency: Consistency | None = None, **unique: Any) -> T | None:
        """The row with these unique values; QueryError when they are not unique in the table."""
        check_unique(self._schema, unique)
        statement = sa.select(self.model).filter_by(**unique)
        with self.session._at(consistency or self._consistency):
            return self._live(self.session._by_unique(self._schema, unique, statement).scalars().one_or_none())

    def exists(self, id: Any) -> bool:
        """Whether the row is there: L1, then L2, then the database. A query is always put to the database."""
        if is_query(id):
            return bool(self._answer(exists_in(self._select(id, default_limit=False)), id))
        return self.get(id) is not None

    # -- reads by query --------------------------------------------------------------------------------------------

    def count(self, query: Q[Any] | sa.Select[Any] | None = None) -> int:
        """How many rows match; always asks the database, loads none."""
        return int(self._answer(count_of(self._select(query, default_limit=False)), query))

    def sum(self, attribute: Any, query: Q[Any] | sa.Select[Any] | None = None) -> Any:
        """The sum of a column over the rows that match, 0 for none; loads none."""
        return self._aggregate("sum", attribute, query) or 0

    def min(self, attribute: Any, query: Q[Any] | sa.Select[Any] | None = None) -> Any:
        """The least value of a column in the rows that match, None without any; loads none."""
        return self._aggregate("min", attribute, query)

    def max(self, attribute: Any, query: Q[Any] | sa.Select[Any] | None = None) -> Any:
        """The greatest value of a column in the rows that match, None without any; loads none."""
        return self._aggregate("max", attribute, query)

    @overload
    def search(self, query: Q[R]) -> list[R]: ...
    @overload
    def search(self, query: sa.Select[Any] | None = None) -> list[T]: ...
    def search(self, query: Any = None) -> list[Any]:
        """The rows that match, at most 100 of a ``Q`` without a limit: instances, or what ``Q.fields()`` makes."""
        statement = self._select(query)
        with self.session._at(self._level(query)):
            if isinstance(query, Q) and query.shape is not None:
                return [query.shape.make(row) for row in self.session.execute(statement)]
            return list(self.session.scalars(statement).unique().all())

    @overload
    def search_cached(
        self, query: Q[R], *, ttl: float | str | None = None, consistency: Consistency | None = None
    ) -> list[R]: ...
    @overload
    def search_cached(
        self,
        query: sa.Select[Any] | None = None,
        *,
        ttl: float | str | None = None,
        consistency: Consistency | None = None,
    ) -> list[T]: ...
    def search_cached(
        self, query: Any = None, *, ttl: float | str | None = None, consistency: Consistency | None = None
    ) -> list[Any]:
        """As :meth:`search`, from a cached list of keys and one batch of rows through the tiers.

        Never served after a commit that could change it: writes of the tables that the query reads invalidate it, and
        of a query by ``region = 'eu'``, with ``CachePolicy(query_tags=("region",))``, only writes of such rows.
        ``ttl`` bounds its life, in seconds or as text. A query that is more than tables and values (text, ``now()``,
        locks, loader options) is not cached but run.
        """
        life = None if ttl is None else seconds(ttl, name="ttl")
        if not is_cacheable(query):
            return self.search(query)
        statement = self._select(query)
        with self.session._at(consistency or self._consistency):
            found = rows_in_session(self.session, statement, self._schema, life)
        if found is None:
            return self.search(query)
        return [live for row in found if (live := self._live(row)) is not None]

    @overload
    def page(self, query: Q[R], *, after: str | None = None, size: int = 50) -> Page[R]: ...
    @overload
    def page(self, query: sa.Select[Any] | None = None, *, after: str | None = None, size: int = 50) -> Page[T]: ...
    def page(self, query: Any = None, *, after: str | None = None, size: int = 50) -> Page[Any]:
        """One page in the query's order, by keyset: as fast at row 1,000,000 as at row 1.

        ``after`` is the ``next`` of the page before. Rows that were there all the while are shown once, whatever is
        inserted or deleted meanwhile. QueryError for a cursor that was changed or belongs to another query.
        """
        statement = self._select(query, default_limit=False)
        dialect = self.session.get_bind(mapper=self._mapper).dialect.name
        plan = keyset(statement, self.model, size=size, after=after, secret=self._page_secret(), dialect=dialect)
        with self.session._at(self._level(query)):
            found = plan.read(self.session.execute)
        shape = query.shape if isinstance(query, Q) else None
        if shape is not None:
            return Page([shape.make(row) for row in found.items], found.next)
        return Page(list(dict.fromkeys(row[0] for row in found.items)), found.next)

    def _answer(self, statement: sa.Select[Any], query: Any) -> Any:
        with self.session._at(self._level(query)):
            return self.session.scalar(statement)

    def _aggregate(self, function: Function, attribute: Any, query: Any) -> Any:
        statement = self._select(query, default_limit=False)
        return self._answer(aggregate(function, statement, getattr(attribute, "key", attribute)), query)

    def _level(self, query: Any) -> Consistency | None:
        return "database" if isinstance(query, Q) and query.bypass else self._consistency

    def _page_secret(self) -> bytes:
        caches = self.session._caches
        if caches is not None:
            return caches.page_secret()
        url = self.session.get_bind(mapper=self._mapper).engine.url
        return url.render_as_string(hide_password=False).encode()

    def _select(self, query: Any, *, default_limit: bool = True) -> sa.Select[Any]:
        statement = to_select(query, self.model, default_limit=default_limit)
        column = soft_delete_column(self.model)
        return statement if column is None else statement.where(column.is_(None))

    # -- writes ----------------------------------------------------------------------------------------------------

    def create(self, obj: T) -> T:
        """Insert. AlreadyExistsError when the key or a unique value is taken."""
        return self.create_many([obj])[0]

    def create_many(self, objs: Iterable[T]) -> list[T]:
        """Insert all of them in one flush: one statement for each thousand that have the same columns."""
        made = [self._accepted(obj) for obj in objs]
        self.session._hook_runner.ask(made)
        self.session.add_all(made)
        self._flush()
        return made

    def update(self, id: Any, **values: Any) -> T:
        """Change attributes of the row under ``id``, as the database has it. NotFoundError when there is none."""
        check_attributes(self._mapper, values)
        obj = found_or_raise(self._for_write(id), self.model, id)
        for name, value in values.items():
            setattr(obj, name, value)
        try:
            self.session._hook_runner.ask([obj])
        except BaseException:
            self.session.expire(obj)  # nothing is left for a later flush to write
            raise
        self._flush()
        return obj

    def set(self, obj: T) -> T:
        """Insert, or update what ``obj`` has loaded: an upsert that leaves other columns alone."""
        return self.set_many([obj])[0]

    def set_many(self, objs: Iterable[T]) -> list[T]:
        """Upsert all of them: one statement for each thousand that have the same attributes loaded.

        An instance of this session is flushed as it is. Of two with one key the later wins.
        """
        given = [self._accepted(obj) for obj in objs]
        given = [obj if obj in self.session or self._is_flat(obj) else self.session.merge(obj) for obj in given]
        strange = [obj not in self.session for obj in given]
        self._flush()
        stored = iter(self._upserted([obj for obj, is_strange in zip(given, strange, strict=True) if is_strange]))
        return [next(stored) if is_strange else obj for obj, is_strange in zip(given, strange, strict=True)]

    def bulk_load(
        self,
        rows: Iterable[Any],
        batch_size: int = 1000,
        *,
        progress: Progress = None,
        on_conflict: OnConflict = "error",
        columns: Sequence[str] | None = None,
        hooks: bool = True,
    ) -> int:
        """Load any number of rows in this transaction and return how many; memory does not grow with their number.

        ``rows`` is any iterable of instances, mappings, or tuples in the order of the table's columns (or of
        ``columns``). On PostgreSQL each batch is one COPY, elsewhere one INSERT with many parameters. ``on_conflict``:
        a row whose key exists is an AlreadyExistsError (``"error"``), is written over in the columns that are given
        (``"update"``; of two rows with one key the later wins) or left as it is (``"ignore"``, not counted).

        ``progress`` is called with the number of rows after each batch; True draws a bar if standard error is a
        terminal. Columns that are not given get their defaults; encrypted ones are encrypted. ``before_set`` is asked
        for each row (``hooks=False`` leaves it out), ``after_set`` is not called: nobody keeps ten million objects.
        Rows may be read from this very session while they are loaded.
        """
        load = BulkLoad(
            self.session,
            self._schema,
            on_conflict=on_conflict,
            batch_size=batch_size,
            columns=columns,
            hooks=hooks,
            private=self._private,
        )
        try:
            return load.run(rows, progress)
        except sa.exc.IntegrityError as error:
            raise self._taken(error) from error

    def compare_and_set(self, obj: T, *, expected: Any) -> T:
        """Write what ``obj`` has loaded iff the row still is as ``expected``; ConflictError if it is not.

        ``expected`` is the object as it was read, a mapping of attributes to values, or a version number.
        """
        run_before_set(self._hooks, self._accepted(obj))
        key = self._key_of(obj)
        wanted = self._expectation(expected)
        secret = encrypted_attributes(self._mapper)
        values = {name: v for name, v in self._loaded(obj).items() if name not in self._schema_key_names()}
        plain = {name: value for name, value in wanted.items() if name not in secret}
        criteria = [getattr(self.model, name).is_not_distinct_from(value) for name, value in plain.items()]
        if not self._batches().compare_and_set(key, values, [*self._unchanged_secrets(key, wanted), *criteria]):
            raise self._conflict(key, wanted)
        stored = self._reloaded(key)
        self.session._hook_runner.wrote([stored])
        return stored

    def _unchanged_secrets(self, key: tuple[Any, ...], wanted: Mapping[str, Any]) -> list[Any]:
        """Criteria for encrypted attributes: their ciphertext is still that of the text that is expected."""
        secret = {n: c.type for n, c in encrypted_attributes(self._mapper).items() if n in wanted}
        if not secret:
            return []
        stored = [sa.type_coerce(getattr(self.model, name), sa.Text()) for name in secret]
        found = self.session.execute(sa.select(*stored).where(*self._is_key(key))).one_or_none()
        if found is None:
            raise self._conflict(key, secret)
        dialect = self.session.get_bind(mapper=self._mapper).dialect
        texts = [opened(dialect, kind, text, key) for kind, text in zip(secret.values(), found, strict=True)]
        if texts != [wanted[name] for name in secret]:
            raise self._conflict(key, secret)
        return [column.is_not_distinct_from(text) for column, text in zip(stored, found, strict=True)]

    def _conflict(self, key: Sequence[Any], compared: Iterable[str]) -> ConflictError:
        return ConflictError(
            f"{self.model.__name__} {_shown(key)} is not as expected any more ({', '.join(compared) or 'it is gone'}); "
            "read it again and decide anew"
        )

    def delete(self, id: Any, *, hard: bool = False) -> bool:
        """Delete the row; False when there was none. A SoftDelete model is marked instead, unless ``hard``."""
        return self.delete_many([id], hard=hard) == 1

    def delete_many(self, ids: Iterable[Any], *, hard: bool = False) -> int:
        """Delete rows; returns how many there were. One statement a thousand, unless Python cascades to other rows."""
        keys = [_tuple(id) for id in ids]
        column = soft_delete_column(self.model)
        try:
            if column is None or hard:
                return self._batches().delete(keys)
            return self._batches().change(keys, {column.key: utc_now(None)}, column.is_(None))
        except sa.exc.IntegrityError as error:
            raise self._taken(error) from error

    def restore(self, id: Any) -> T:
        """Take back a soft delete."""
        column = soft_delete_column(self.model)
        if column is None:
            raise InvalidModelError(f"{self.model.__name__} is not a SoftDelete model; there is nothing to restore")
        obj = found_or_raise(self._for_write(id), self.model, id)
        setattr(obj, column.key, None)
        self._flush()
        return obj

    # -- cache control ---------------------------------------------------------------------------------------------

    def invalidate(self, id: Any) -> None:
        """Drop one row from every tier of the cache."""
        written = WriteSet()
        written.touch(self._schema.space, _tuple(id), self._schema.tables)
        self._forget(written)

    def invalidate_all(self) -> None:
        """Drop every row of the model from every tier; costs the same for one row and for a million."""
        self._forget(WriteSet(tables=set(self._schema.tables)))

    def invalidate_pattern(self, pattern: str) -> int:
        """Drop rows whose key matches a glob such as ``"user:*"`` from every tier; returns how many were found.

        Scans every Redis server, for a bounded time; where that does not do, the whole model is dropped (-1).
        """
        ladder = self._ladder()
        keys = ladder.matching(pattern) if ladder is not None else frozenset()
        written = WriteSet(tables=set(self._schema.tables) if keys is None else set())
        for key in keys or ():
            written.touch(self._schema.space, key, self._schema.tables)
        self._forget(written)
        return -1 if keys is None else len(keys)

    def warm(
        self,
        limit: int = 0,
        *,
        query: Q[T] | sa.Select[Any] | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Read rows through the tiers so that they are there; 0 is all of them. Returns how many."""
        statement = self._select(query, default_limit=False)
        if limit:
            statement = statement.limit(limit)
        keys = [getattr(self.model, name) for name in self._schema_key_names()]
        ids = [
            row[0] if len(keys) == 1 else tuple(row) for row in self.session.execute(statement.with_only_columns(*keys))
        ]
        warmed = 0
        for at in range(0, len(ids), _BATCH):
            warmed += len(self.get_many(ids[at : at + _BATCH]))
            if progress is not None:
                progress(warmed)
            if self._private:
                self.session.expunge_all()
        return warmed

    _private = False

    # -- pieces ----------------------------------------------------------------------------------------------------

    @property
    def _hooks(self) -> Hooks | None:
        return self._schema.policy.hooks

    def _asked_for(self, ids: Iterable[Any]) -> Iterable[Any]:
        """The ids, after ``before_get`` has agreed to each."""
        hooks = self._hooks
        if hooks is None or hooks.before_get is None:
            return ids
        ids = list(ids)
        for id in ids:
            run_before_get(hooks, self.model, id)
        return ids

    def _live(self, instance: Any) -> T | None:
        column = soft_delete_column(self.model)
        if instance is None or (column is not None and getattr(instance, column.key) is not None):
            return None
        return cast(T, instance)

    def _for_write(self, id: Any) -> T | None:
        with self.session._to_database():
            return cast("T | None", self.session.get(self.model, id))

    def _accepted(self, obj: T) -> T:
        if not isinstance(obj, self.model):
            raise InvalidModelError(
                f"got {type(obj).__name__!r}; this repository stores {self.model.__name__} instances"
            )
        return obj

    def _is_flat(self, obj: T) -> bool:
        """Whether the object is all in the repository's own table, and not of a subclass."""
        return self._mapper.inherits is None and inspect(obj).mapper is self._mapper

    def _batches(self) -> Batches:
        return Batches(self.session, self._schema)

    def _upserted(self, objs: Sequence[T]) -> list[T]:
        """Upsert objects that no session holds, or another one; the session's own instances."""
        if not objs:
            return []
        for obj in objs:
            self._key_of(obj)
            run_before_set(self._hooks, obj)
        try:
            stored = self._batches().upsert([self._loaded(obj) for obj in objs])
        except sa.exc.IntegrityError as error:
            raise self._taken(error) from error
        self.session._hook_runner.wrote(stored)
        return stored

    def _reloaded(self, key: tuple[Any, ...]) -> T:
        with self.session._to_database():
            found = self.session.get(self.model, key, populate_existing=True)
        return found_or_raise(cast("T | None", found), self.model, key)

    def _loaded(self, obj: T) -> dict[str, Any]:
        loaded = inspect(obj).dict
        return {prop.key: loaded[prop.key] for prop in self._mapper.column_attrs if prop.key in loaded}

    def _schema_key_names(self) -> tuple[str, ...]:
        return tuple(self._mapper.get_property_by_column(c).key for c in self._mapper.primary_key)

    def _key_of(self, obj: T) -> tuple[Any, ...]:
        key = tuple(getattr(obj, name) for name in self._schema_key_names())
        if any(value is None for value in key):
            raise MissingPrimaryKeyError(
                f"{self.model.__name__} has no value for its primary key ({', '.join(self._schema_key_names())}); "
                "set() and compare_and_set() need one, create() lets the database choose"
            )
        return key

    def _is_key(self, key: Sequence[Any]) -> list[Any]:
        return [getattr(self.model, name) == v for name, v in zip(self._schema_key_names(), key, strict=True)]

    def _expectation(self, expected: Any) -> dict[str, Any]:
        if isinstance(expected, Mapping):
            wanted = {str(getattr(name, "key", name)): value for name, value in expected.items()}
            check_attributes(self._mapper, wanted)
            return wanted
        if isinstance(expected, self.model):
            return {k: v for k, v in self._loaded(expected).items() if k not in self._schema_key_names()}
        version = self._mapper.version_id_col
        if version is None:
            raise QueryError(
                f"expected= is {expected!r}, but {self.model.__name__} has no version column; "
                "give the object as it was read or a mapping of attributes"
            )
        return {self._mapper.get_property_by_column(version).key: expected}

    def _flush(self) -> None:
        try:
            self.session.flush()
        except sa.exc.IntegrityError as error:
            raise self._taken(error) from error
        except StaleDataError as error:
            raise ConflictError(
                f"a {self.model.__name__} row was changed or deleted since it was read; read it again and decide anew"
            ) from error
        finally:
            self.session._hook_runner.forget_asked()

    def _taken(self, error: sa.exc.IntegrityError) -> Exception:
        if _is_unique_violation(error):
            return AlreadyExistsError(
                f"{self.model.__name__}: a row with this key or unique value exists; use set() to write over it"
            )
        return error

    def _ladder(self) -> Ladder | None:
        caches = self.session._caches
        return caches.ladder(self._schema) if caches is not None else None

    def _forget(self, written: WriteSet) -> None:
        if self.session._caches is not None:
            self.session._caches.forget(written)


def mapper_of(model: Any) -> Mapper[Any]:
    found = inspect(model, raiseerr=False)
    if not isinstance(found, Mapper):
        raise InvalidModelError(
            f"{getattr(model, '__name__', model)!r} is not a mapped class; derive it from datalayer.Model or map it"
        )
    return found


def found_or_raise(found: T | None, model: type[Any], id: Any) -> T:
    if found is None:
        raise NotFoundError(f"{model.__name__} {_shown(id)} does not exist")
    return found


def check_unique(schema: Schema, asked: Mapping[str, Any]) -> None:
    """QueryError unless the attributes are one of the model's unique sets."""
    check_attributes(schema.mapper, asked)
    known = unique_sets(schema)
    if schema.cacheable and frozenset(asked) not in known:
        shown = "; ".join(sorted(", ".join(sorted(names)) for names in known)) or "none"
        raise QueryError(
            f"{', '.join(asked) or 'nothing'} is not unique in {schema.cls.__name__} (unique: {shown}); use search()"
        )


def check_attributes(mapper: Mapper[Any], values: Iterable[str]) -> None:
    for name in values:
        if name not in mapper.column_attrs and name not in mapper.attrs:
            raise unknown_attribute(mapper, name)


def soft_delete_column(model: type[Any]) -> Any:
    name = getattr(model, "__datalayer_soft_delete__", None)
    return getattr(model, name) if name is not None else None


def _tuple(id: Any) -> tuple[Any, ...]:
    return id if isinstance(id, tuple) else (id,)


def _shown(id: Any) -> str:
    return repr(id[0]) if isinstance(id, tuple) and len(id) == 1 else repr(id)


def _is_unique_violation(error: sa.exc.IntegrityError) -> bool:
    origin: Any = error.orig
    if getattr(origin, "sqlstate", None) is not None:
        return bool(origin.sqlstate == "23505")
    return "UNIQUE constraint" in str(origin)


@leaves_no_values(*_GIVEN_VALUES)
class OneShotRepository(Repository[T]):
    """The same calls, each in a session and a transaction of its own; instances come back detached. Thread-safe.

    ``get`` and ``get_snapshot`` of a plain model are the reader's own functions: no session is opened for an L1 hit.
    """

    def __init__(
        self,
        model: type[T],
        reader: Reader,
        open_session: Callable[[], Session],
        consistency: Consistency | None = None,
    ) -> None:
        self.model = model  # type: ignore[misc]  # of the instance here, of the class elsewhere
        self._reader = reader
        self._open = open_session
        self._bound = Repository[model]  # type: ignore[valid-type]
        self._consistency = consistency
        self._mapper = reader.schema.mapper
        self._schema = reader.schema
        self._plain = soft_delete_column(model) is None and not (self._hooks and self._hooks.before_get)
        if self._plain and consistency is None:
            self.get = reader.get  # type: ignore[method-assign]
            self.get_snapshot = reader.get_snapshot  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return f"<repository of {self.model.__name__}>"

    def get(self, id: Any, *, consistency: Consistency | None = None) -> T | None:
        run_before_get(self._hooks, self.model, id)
        return self._live(self._reader.get(id, consistency or self._consistency))

    def get_snapshot(self, id: Any, *, consistency: Consistency | None = None) -> Snapshot | None:
        run_before_get(self._hooks, self.model, id)
        snapshot = self._reader.get_snapshot(id, consistency or self._consistency)
        return cast("Snapshot | None", self._live(snapshot))

    def get_many(self, ids: Iterable[Any], *, consistency: Consistency | None = None) -> dict[Any, T]:
        found = self._reader.get_many(self._asked_for(ids), consistency or self._consistency)
        if self._plain:
            return found
        return {id: instance for id, instance in found.items() if self._live(instance) is not None}

    def exists(self, id: Any) -> bool:
        if is_query(id):
            return self._once("exists", id)  # type: ignore[no-any-return]
        run_before_get(self._hooks, self.model, id)
        found = self._reader.get_snapshot(id) if not self._schema.reasons else self._reader.get(id)
        return self._live(found) is not None

    def get_by(self, *, consistency: Consistency | None = None, **unique: Any) -> T | None:
        return self._once("get_by", consistency=consistency or self._consistency, **unique)  # type: ignore[no-any-return]

    def count(self, query: Q[Any] | sa.Select[Any] | None = None) -> int:
        return self._once("count", query)  # type: ignore[no-any-return]

    def search(self, query: Any = None) -> list[Any]:
        return self._once("search", query)  # type: ignore[no-any-return]

    def search_cached(
        self, query: Any = None, *, ttl: float | str | None = None, consistency: Consistency | None = None
    ) -> list[Any]:
        life = None if ttl is None else seconds(ttl, name="ttl")
        if not is_cacheable(query):
            return self._once("search", query)  # type: ignore[no-any-return]
        found = self._reader.listed(self._select(query), life, consistency or self._consistency)
        if found is None:
            return self._once("search", query)  # type: ignore[no-any-return]
        return [live for row in found if (live := self._live(row)) is not None]

    def page(self, query: Any = None, *, after: str | None = None, size: int = 50) -> Page[Any]:
        return self._once("page", query, after=after, size=size)  # type: ignore[no-any-return]

    def _aggregate(self, function: Function, attribute: Any, query: Any) -> Any:
        return self._once("_aggregate", function, attribute, query)

    def create_many(self, objs: Iterable[T]) -> list[T]:
        return self._once("create_many", objs)  # type: ignore[no-any-return]

    def update(self, id: Any, **values: Any) -> T:
        return self._once("update", id, **values)  # type: ignore[no-any-return]

    def set_many(self, objs: Iterable[T]) -> list[T]:
        return self._once("set_many", objs)  # type: ignore[no-any-return]

    def bulk_load(
        self,
        rows: Iterable[Any],
        batch_size: int = 1000,
        *,
        progress: Progress = None,
        on_conflict: OnConflict = "error",
        columns: Sequence[str] | None = None,
        hooks: bool = True,
    ) -> int:
        return self._once(  # type: ignore[no-any-return]
            "bulk_load",
            rows,
            batch_size,
            progress=progress,
            on_conflict=on_conflict,
            columns=columns,
            hooks=hooks,
        )

    def compare_and_set(self, obj: T, *, expected: Any) -> T:
        return self._once("compare_and_set", obj, expected=expected)  # type: ignore[no-any-return]

    def delete_many(self, ids: Iterable[Any], *, hard: bool = False) -> int:
        return self._once("delete_many", ids, hard=hard)  # type: ignore[no-any-return]

    def restore(self, id: Any) -> T:
        return self._once("restore", id)  # type: ignore[no-any-return]

    def invalidate(self, id: Any) -> None:
        self._once("invalidate", id)

    def invalidate_all(self) -> None:
        self._once("invalidate_all")

    def invalidate_pattern(self, pattern: str) -> int:
        return self._once("invalidate_pattern", pattern)  # type: ignore[no-any-return]

    def warm(
        self,
        limit: int = 0,
        *,
        query: Q[T] | sa.Select[Any] | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        return self._once("warm", limit, query=query, progress=progress)  # type: ignore[no-any-return]

    def _once(self, call: str, *args: Any, **options: Any) -> Any:
        """One call on a repository of a fresh session, committed if it returns."""
        with self._open() as session, session.begin():
            repository = self._bound(session, consistency=self._consistency)
            repository._private = True
            return getattr(repository, call)(*args, **options)
