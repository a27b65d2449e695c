"""Named queries as an object: one method for each, in a transaction of its own or in a session of yours."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..contracts.suggest import did_you_mean
from ..errors import NotFoundError, QueryError
from .effects import Written, same_table
from .files import Definition
from .interface import Declared
from .results import Entities, Shape
from .text import check_names

OpenSession = Callable[[], Session]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is known of one query before it is called."""

    definition: Definition
    shape: Shape | None
    signature: inspect.Signature
    required: bool = False

    @classmethod
    def of(cls, definition: Definition, shape: Shape | None, declared: Declared | None) -> Plan:
        if declared is not None:
            return cls(definition, declared.shape, declared.signature, declared.required)
        by_name = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in definition.sql.parameters]
        return cls(definition, shape, inspect.Signature(by_name))

    def values(self, args: tuple[Any, ...], given: Mapping[str, Any]) -> Mapping[str, Any]:
        if not args and len(given) == len(self.signature.parameters):
            return given
        try:
            bound = self.signature.bind(*args, **given)
        except TypeError as error:
            check_names(self.definition.sql.parameters, given, self.definition.place)
            raise QueryError(f"{self.definition.place}: {error}; it has {self.signature}") from error
        bound.apply_defaults()
        return bound.arguments


class NamedQueries:
    """The queries of a directory. Thread-safe; each call has a short session of its own and commits.

    ``queries.list_recent(since=..., n=10)``: parameters by name, those of the SQL. :meth:`in_session` has the same
    methods in a session of yours. Instances that are returned belong to their caller; nothing is read from a cache.
    """

    def __init__(
        self,
        plans: Mapping[str, Plan],
        open_session: OpenSession,
        tables: Callable[[], set[str]],
        session: Session | None = None,
    ) -> None:
        self._plans = plans
        self._open = open_session
        self._tables = tables
        self._session = session
        for name, plan in plans.items():
            setattr(self, name, NamedQuery(plan, self._session_for_call, tables, own=session is None))

    def in_session(self, session: Session) -> NamedQueries:
        """The same queries in a session: they see what it has written, and are committed or rolled back with it."""
        return NamedQueries(self._plans, self._open, self._tables, session)

    @property
    def definitions(self) -> Mapping[str, Definition]:
        """The queries as they were read."""
        return {name: plan.definition for name, plan in self._plans.items()}

    @contextmanager
    def _session_for_call(self) -> Iterator[Session]:
        if self._session is not None:
            yield self._session
            return
        with self._open() as session, session.begin():
            yield session

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(f"there is no query {name!r}{did_you_mean(name, self.__dict__.get('_plans', ()))}")

    def __repr__(self) -> str:
        return f"<queries {', '.join(sorted(self._plans))}>"


class NamedQuery:
    """One query, called with its parameters. ``inspect.signature`` and ``help`` know them."""

    def __init__(self, plan: Plan, session: Callable[[], Any], tables: Callable[[], set[str]], *, own: bool) -> None:
        self._plan = plan
        self._session = session
        self._tables = tables
        self._own = own
        self.__name__ = plan.definition.name
        self.__doc__ = plan.definition.doc or None
        self.__signature__ = plan.signature

    def __call__(self, /, *args: Any, **given: Any) -> Any:
        plan = self._plan
        definition = plan.definition
        clause = definition.sql.bound(plan.values(args, given), definition.place)
        with self._session() as session, _errors(definition):
            if not self._own and session.autoflush:
                session.flush()
            written = tuple(resolve(definition.written, self._tables())) if definition.written else ()
            if written and not self._own:
                _expire(session, written)
            return self._read(session, clause, written)

    def _read(self, session: Session, clause: sa.TextClause, written: tuple[Written, ...]) -> Any:
        definition, shape = self._plan.definition, self._plan.shape
        options = {"datalayer_writes": written}
        if shape is None:
            done: Any = session.execute(clause, execution_options=options)
            done.close()
            return done.rowcount
        result: Any = session.execute(shape.statement(clause), execution_options=options)
        if not isinstance(shape, Entities) and not result.returns_rows:
            raise QueryError(f"{definition.place} is :{definition.kind} and its statement returns no rows; use :exec")
        make = shape.rows(result, definition.place)
        if definition.kind == "many":
            return [make(row) for row in result.all()]
        rows = result.fetchmany(2)
        result.close()
        if len(rows) > 1:
            raise QueryError(
                f"{definition.place} is :{definition.kind} and has more rows than one; use :many or LIMIT 1"
            )
        if not rows and self._plan.required:
            raise NotFoundError(f"{definition.place} has no row")
        return make(rows[0]) if rows else None

    def __repr__(self) -> str:
        return f"<query {self._plan.definition.place}{self._plan.signature}>"


def resolve(written: tuple[Written, ...], tables: set[str]) -> Iterator[Written]:
    """The same with the names that the models have; a table that no model has stays as it is."""
    for write in written:
        name = write.table
        known = [table for table in tables if same_table(table, name)] if name is not None else []
        yield from (write._replace(table=table) for table in known) if known else [write]


def _expire(session: Session, written: tuple[Written, ...]) -> None:
    """What the session has loaded of these tables is read again, unless it has changes that are not flushed."""
    tables = {write.table for write in written}
    for instance in list(session.identity_map.values()):
        state: Any = sa.inspect(instance)
        mapped = {getattr(table, "fullname", None) for table in state.mapper.tables}
        if (None in tables or mapped & tables) and not state.modified:
            session.expire(instance)


@contextmanager
def _errors(definition: Definition) -> Iterator[None]:
    """A statement that does not fit the database says which one it is; its text stays on the cause."""
    try:
        yield
    except sa.exc.NoSuchColumnError as error:
        raise QueryError(f"{definition.place} lacks the primary key of the class that it returns") from error
    except sa.exc.DBAPIError as error:
        if isinstance(error, sa.exc.ProgrammingError | sa.exc.NotSupportedError) or _is_wrong_sql(error):
            raise QueryError(
                f"{definition.place} does not fit the database; 'datalayer queries check' says why before it is run"
            ) from error
        raise


def _is_wrong_sql(error: sa.exc.DBAPIError) -> bool:
    return getattr(error.orig, "sqlite_errorname", None) == "SQLITE_ERROR"
