"""Rows by key from the database, outside of transactions: by the driver itself where that is safe, else by Core.

The driver's way takes the statement and the type conversions from SQLAlchemy once and then talks to psycopg alone, a
sixth of the cost of ``Session.get``. It is not taken while the application listens to the engine's statements (a
tracer, a commenter): what runs must be seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from ..errors import DataLayerError, DecodeError, L3UnavailableError, PoolTimeout
from ..models.schema import Schema
from .watchdog import Watchdog

Values = tuple[Any, ...]

_BATCH = 1000

#: Built-in types whose binary form psycopg turns into the same Python value as the text form.
_BINARY = frozenset((16, 17, 18, 20, 21, 23, 25, 700, 701, 1042, 1043, 1082, 1083, 1114, 1184, 1700, 2950, 114, 3802))


class RowReader(Protocol):
    """Reads committed rows of one shape, in the order of ``schema.full``. Thread-safe."""

    def one(self, key: Values) -> Values | None: ...

    def many(self, keys: Sequence[Values]) -> Mapping[Values, Values]: ...


class Loader:
    """A reader as the ladder wants it: see :class:`datalayer.tiers.ladder.Load`."""

    def __init__(self, reader: RowReader) -> None:
        self.one = reader.one
        self._prove: Callable[[Values, Sequence[str]], tuple[bool, Values | None]] | None
        self._prove = getattr(reader, "proved", None)
        self.proves = self._prove is not None

    def __call__(self, key: Values) -> Values | None:
        return self.one(key)

    def proved(self, key: Values, xids: Sequence[str]) -> tuple[bool, Values | None]:
        if self._prove is None:
            return False, self.one(key)
        return self._prove(key, xids)


class CoreReader:
    """Reads through SQLAlchemy Core: any database, any type, and every listener sees the statement."""

    def __init__(self, engine: sa.Engine, schema: Schema) -> None:
        self._engine = engine
        self._schema = schema
        self._many = _select_many(schema)

    def one(self, key: Values) -> Values | None:
        parameters = dict(zip(self._schema.parameters, key, strict=True))
        rows = self._run(self._schema.statement, parameters)
        return rows[0] if rows else None

    def many(self, keys: Sequence[Values]) -> Mapping[Values, Values]:
        found: dict[Values, Values] = {}
        for at in range(0, len(keys), _BATCH):
            batch = keys[at : at + _BATCH]
            for row in self._run(self._many, {"keys": [k[0] for k in batch] if len(batch[0]) == 1 else list(batch)}):
                found[self._schema.key_of(row)] = row
        return found

    def _run(self, statement: Any, parameters: dict[str, Any]) -> list[Values]:
        try:
            with self._engine.connect() as connection:
                rows = [tuple(row) for row in connection.execute(statement, parameters).all()]
        except sa.exc.SQLAlchemyError as error:
            raise translated(error, self._engine) from error
        return rows if self._schema.open_rows is None else self._schema.open_rows(rows)


class DriverReader:
    """Reads through psycopg on AUTOCOMMIT connections, with prepared statements and binary results."""

    def __init__(
        self, engine: sa.Engine, schema: Schema, watchdog: Watchdog, make: Callable[..., Statement] | None = None
    ) -> None:
        made = make or Statement
        self._engine = engine
        self._schema = schema
        self._watchdog = watchdog
        self._one = made(engine, schema, schema.statement, schema.parameters)
        self._many = made(engine, schema, select_any(schema), ("keys",))
        self._array = array_of(self._many, schema)
        self._proved = made(engine, schema, schema.statement, (*schema.parameters, "datalayer_xids"), around=_PROOF)

    def one(self, key: Values) -> Values | None:
        rows = self._run(self._one, key)
        return rows[0] if rows else None

    def proved(self, key: Values, xids: Sequence[str]) -> tuple[bool, Values | None]:
        """The row and whether all of these transactions had ended, by one statement, which has one snapshot."""
        ((*values, finished),) = self._run(self._proved, (*key, list(xids)))
        row = tuple(values)
        return bool(finished), row if self._schema.key_of(row) == tuple(key) else None

    def many(self, keys: Sequence[Values]) -> Mapping[Values, Values]:
        found: dict[Values, Values] = {}
        key_of = self._schema.key_of
        for at in range(0, len(keys), _BATCH):
            for row in self._run(self._many, (self._array([key[0] for key in keys[at : at + _BATCH]]),)):
                found[key_of(row)] = row
        return found

    def _run(self, statement: Statement, values: Sequence[Any]) -> list[Values]:
        try:
            try:
                return self._attempt(statement, values)
            except _Lost as error:
                if error.hung:
                    raise
                # It had died in the pool, and the others with it, perhaps; a read is safe to repeat.
                # Not dispose(): what is lent would go back to a pool that is gone.
                self._engine.pool._invalidate(None)  # type: ignore[arg-type]
                return self._attempt(statement, values)
        except _Lost as error:
            raise translated(error.cause, self._engine) from error.cause
        except Exception as error:
            raise translated(error, self._engine) from error

    def _attempt(self, statement: Statement, values: Sequence[Any]) -> list[Values]:
        pooled = self._engine.raw_connection()
        connection: Any = pooled.dbapi_connection
        self._watchdog.watch(connection)
        began = time.monotonic()
        try:
            return statement.run(connection, values)
        except Exception as error:
            if connection.closed or connection.broken:
                pooled.invalidate(error)
                limit = self._watchdog.limit
                raise _Lost(error, hung=bool(limit) and time.monotonic() - began >= limit) from error
            raise
        except BaseException as error:  # interrupted half-way: nobody knows what the connection would say next
            pooled.invalidate(error)
            raise
        finally:
            self._watchdog.release(connection)
            pooled.close()


class _Lost(Exception):
    """The connection broke under a statement; ``hung``: only after the watchdog had waited its time out."""

    def __init__(self, cause: Exception, *, hung: bool) -> None:
        self.cause = cause
        self.hung = hung


#: A left join, so that a row that does not exist still yields the proof.
_PROOF = (
    "SELECT r.*, o.fin FROM (SELECT bool_and(pg_visible_in_snapshot(m::xid8, pg_current_snapshot())) AS fin "
    "FROM unnest(%(datalayer_xids)s::text[]) m) o LEFT JOIN ({}) r ON true"
)


class Statement:
    """One SELECT, compiled once: its text, how its parameters are bound and its columns converted. Thread-safe.

    ``names``: its parameters, in the order in which their values come. ``around``: SQL that takes the SELECT, and adds
    parameters of the driver's and columns at the end.
    """

    def __init__(
        self, engine: sa.Engine, schema: Schema, statement: Any, names: Sequence[str], around: str = ""
    ) -> None:
        compiled: Any = statement.compile(dialect=engine.dialect)
        # Lists that the statement itself holds, of subclasses for example, are written out.
        expanded = compiled.construct_expanded_state(dict.fromkeys(names))
        self.text = around.format(expanded.statement) if around else expanded.statement
        self._names = tuple(names)
        self._order: Sequence[str] = expanded.positiontup or self._names
        processors = {**compiled._bind_processors, **expanded.processors}  # the latter are only those of the lists
        constants = {name: value for name, value in expanded.parameters.items() if name not in names}
        self._fixed = {n: processors[n](value) if n in processors else value for n, value in constants.items()}
        self._binders = {name: processors[name] for name in names if name in processors}
        self._dialect = engine.dialect
        self._types = [column.type for column in schema.full.columns]
        self._open_rows = schema.open_rows
        self._converters: list[tuple[int, Callable[[Any], Any]]] = []
        self._binary: bool | None = None

    def run(self, connection: Any, values: Sequence[Any]) -> list[Values]:
        """Run it through psycopg."""
        cursor = connection.execute(self.text, self._bound(values), binary=bool(self._binary))
        if self._binary is None:
            self._learn([column.type_code for column in cursor.description])
        return self._rows(cursor.fetchall())

    def run_plain(self, connection: Any, values: Sequence[Any]) -> list[Values]:
        """Run it through a driver with positional parameters."""
        bound = self._bound(values)
        cursor = connection.execute(self.text, [bound[name] for name in self._order])
        if self._binary is None:
            self._learn([None] * len(self._types))
        return self._rows(cursor.fetchall())

    def binds(self, name: str) -> bool:
        """Whether a parameter's type converts what it is given."""
        return name in self._binders

    def _bound(self, values: Sequence[Any]) -> dict[str, Any]:
        parameters = {**self._fixed, **dict(zip(self._names, values, strict=True))}
        for name, bind in self._binders.items():
            parameters[name] = bind(parameters[name])
        return parameters

    def _rows(self, rows: list[Values]) -> list[Values]:
        if self._converters:
            rows = [self._converted(row) for row in rows]
        return rows if self._open_rows is None else self._open_rows(rows)

    def _learn(self, codes: Sequence[Any]) -> None:
        """Look at what the server really sends: a domain or an extension type would come as bytes if binary."""
        self._converters = [
            (i, convert)
            for i, (kind, code) in enumerate(zip(self._types, codes, strict=False))
            if (convert := kind._cached_result_processor(self._dialect, code)) is not None
        ]
        self._binary = all(code in _BINARY for code in codes)

    def _converted(self, row: Values) -> Values:
        values = list(row)
        try:
            for i, convert in self._converters:
                values[i] = convert(values[i])
        except DecodeError:
            values.clear()  # what was decrypted before must not show in a traceback
            raise
        return tuple(values)


def array_of(statement: Statement, schema: Schema) -> Callable[[Sequence[Any]], Any]:
    """Makes the parameter ``keys`` of a statement of :func:`select_any`.

    Plain keys become the text of an array: the driver looks at every element of a list, which takes longer than finding
    the rows.
    """
    return list if statement.binds("keys") else _ARRAYS.get(schema.key_types[0], list)


def _texts(keys: Sequence[str]) -> Any:
    joined = '","'.join(keys)
    if "\\" in joined or joined.count('"') != 2 * len(keys) - 2:
        return keys
    return f'{{"{joined}"}}'


_ARRAYS: Mapping[type, Callable[[Sequence[Any]], Any]] = {
    int: lambda keys: f"{{{','.join(map(str, keys))}}}",
    str: _texts,
}


class ListeningReader:
    """The driver's way, unless somebody listens to the engine's statements at this moment."""

    def __init__(self, driver: DriverReader, core: RowReader, heard: Callable[[], bool]) -> None:
        self._driver = driver
        self._core = core
        self._heard = heard

    def one(self, key: Values) -> Values | None:
        return (self._core if self._heard() else self._driver).one(key)

    def many(self, keys: Sequence[Values]) -> Mapping[Values, Values]:
        return (self._core if self._heard() else self._driver).many(keys)

    def proved(self, key: Values, xids: Sequence[str]) -> tuple[bool, Values | None]:
        if self._heard():
            return False, self._core.one(key)
        return self._driver.proved(key, xids)


def row_reader(
    schema: Schema,
    *,
    engine: sa.Engine,
    reading: sa.Engine | None,
    watchdog: Watchdog,
    own_listeners: int,
    make: Callable[..., Statement] | None = None,
) -> RowReader:
    """The best reader for a shape. ``own_listeners`` of the engine's statement listeners are the layer's. ``make``
    makes the driver's statements, if they are to be more than :class:`Statement`."""
    core = CoreReader(engine, schema)
    if reading is None or reading.dialect.driver != "psycopg" or len(schema.key_types) != 1:
        return core
    return ListeningReader(
        DriverReader(reading, schema, watchdog, make),
        core,
        lambda: len(engine.dispatch.before_cursor_execute) > own_listeners,
    )


def row_security(engine: sa.Engine, table: sa.Table) -> bool | None:
    """Whether PostgreSQL hides rows of a table by role; None when there is no such table."""
    name = engine.dialect.identifier_preparer.format_table(table)
    try:
        return _row_security(engine, name)
    except Exception as error:
        raise translated(error, engine) from error


def _row_security(engine: sa.Engine, name: str) -> bool | None:
    pooled = engine.raw_connection()
    try:
        cursor = pooled.cursor()
        cursor.execute("SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass(%s)", (name,))
        found = cursor.fetchone()
        cursor.close()
    finally:
        pooled.close()
    return bool(found[0]) if found is not None else None


def _select_many(schema: Schema) -> Any:
    key = schema.mapper.primary_key
    keys: Any = sa.bindparam("keys", expanding=True)
    criterion = key[0].in_(keys) if len(key) == 1 else sa.tuple_(*key).in_(keys)
    return _keyed(schema, criterion)


def select_any(schema: Schema) -> Any:
    """``= ANY(array)``: one prepared statement for every number of keys, and faster to plan than IN."""
    (key,) = schema.mapper.primary_key[:1]
    return _keyed(schema, key == sa.any_(sa.bindparam("keys", type_=ARRAY(key.type))))


def _keyed(schema: Schema, criterion: Any) -> Any:
    statement = schema.statement._clone()
    statement._where_criteria = (criterion,)
    return statement


def translated(error: BaseException, engine: sa.Engine) -> BaseException:
    """A failure of the database tier in this project's terms; the driver's text stays on ``__cause__``."""
    if isinstance(error, DataLayerError):
        return error
    if isinstance(error, sa.exc.TimeoutError):
        return PoolTimeout(
            f"no connection of the pool became free in time (size {getattr(engine.pool, 'size', lambda: '?')()}); "
            "raise pool_size or pool_timeout, or look for sessions that stay open"
        )
    if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
        return L3UnavailableError(
            f"the {engine.dialect.name} database did not answer a read ({type(error.orig).__name__}); "
            "see the chained exception for the driver's words"
        )
    if isinstance(error, sa.exc.SQLAlchemyError):
        return error
    return _driver_error(error)


def _driver_error(error: BaseException) -> BaseException:
    """A psycopg exception as SQLAlchemy would have raised it."""
    import psycopg

    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return L3UnavailableError(f"the database failed a read ({type(error).__name__}); see the chained exception")
    if isinstance(error, psycopg.Error):
        return sa.exc.DBAPIError.instance(None, None, error, psycopg.Error, hide_parameters=True)
    return error
