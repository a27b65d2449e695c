"""Named queries held against a schema: the database prepares each one, and runs none.

PostgreSQL gets Parse and Describe of its extended protocol, and says what types parameters and columns have. SQLite
gets EXPLAIN, and a query that reads is asked for its columns with LIMIT 0; it knows no types.
"""

from __future__ import annotations

import datetime as dt
import decimal
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ..errors import QueryError
from .named import Plan, resolve
from .results import Entities, Generated, Rows, Values, check_columns, row_name
from .rows import generated
from .types import without_none


@dataclass(frozen=True, slots=True)
class CheckedQuery:
    """A query that fits. Types are the database's names for them, empty where it knows none.

    ``not_null``: columns that are certain to hold a value.
    """

    name: str
    kind: str
    file: str
    line: int
    parameters: Mapping[str, str]
    columns: Mapping[str, str]
    not_null: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QueriesReport:
    """The queries that fit, up to the first that does not; ``failure`` says why it does not."""

    checked: list[CheckedQuery] = field(default_factory=list)
    failure: str | None = None

    @property
    def ok(self) -> bool:
        return self.failure is None


def check_plans(engine: sa.Engine, plans: Iterable[Plan], tables: set[str]) -> QueriesReport:
    """Prepare each query, in the order of files, until one does not fit. Writes nothing."""
    report = QueriesReport()
    with engine.connect() as connection:
        for plan in sorted(plans, key=lambda plan: (plan.definition.path.name, plan.definition.line)):
            try:
                report.checked.append(_check(connection, plan, tables))
            except QueryError as error:
                return QueriesReport(report.checked, str(error))
            finally:
                connection.rollback()
    return report


def _check(connection: sa.Connection, plan: Plan, tables: set[str]) -> CheckedQuery:
    definition = plan.definition
    dialect = connection.dialect.name
    columns: Typed | None
    certain: tuple[str, ...] = ()
    if dialect == "postgresql" and connection.dialect.driver == "psycopg":
        parameters, columns, certain = _describe(connection, plan)
    elif dialect == "sqlite":
        parameters, columns = _explain(connection, plan)
    else:
        raise QueryError(f"queries are checked on PostgreSQL with psycopg and on SQLite, not on {dialect}")
    if columns is not None:
        _check_result(plan, columns)
    connection.rollback()
    for write in resolve(definition.written, tables):
        schema, _, name = (write.table or "").rpartition(".")
        if write.table is not None and not sa.inspect(connection).has_table(name, schema or None):
            raise QueryError(f"{definition.place}: there is no table {write.table}, which '-- writes:' names")
    found = dict(columns or ())
    return CheckedQuery(
        definition.name, definition.kind, definition.path.name, definition.line, dict(parameters), found, certain
    )


Typed = list[tuple[str, str]]


# -- PostgreSQL ------------------------------------------------------------------------------------------------------


def _describe(connection: sa.Connection, plan: Plan) -> tuple[Typed, Typed, tuple[str, ...]]:
    from psycopg.pq import ExecStatus  # the driver, only where it is used

    names = list(plan.definition.sql.parameters)
    text = plan.definition.sql.render(lambda p: _listed(p.many, f"${names.index(p.name) + 1}"))
    driver: Any = connection.connection.driver_connection
    prepared = driver.pgconn.prepare(b"", text.encode())
    if prepared.status != ExecStatus.COMMAND_OK:
        raise QueryError(_complaint(prepared, plan, text))
    described = driver.pgconn.describe_prepared(b"")
    if described.status != ExecStatus.COMMAND_OK:
        raise QueryError(_complaint(described, plan, text))
    parameters = [described.param_type(i) for i in range(described.nparams)]
    columns = [(described.fname(i).decode(), described.ftype(i)) for i in range(described.nfields)]
    origins = {(described.ftable(i), described.ftablecol(i)): columns[i][0] for i in range(described.nfields)}
    known = _type_names(connection, {*parameters, *(kind for _, kind in columns)})
    return (
        list(zip(names, (known[kind] for kind in parameters), strict=True)),
        [(name, known[kind]) for name, kind in columns],
        tuple(_not_null(connection, plan, origins)),
    )


# What can make a row without a column's own value.
_OUTER = frozenset({"LEFT", "RIGHT", "FULL", "GROUPING", "ROLLUP", "CUBE", "UNION", "INTERSECT", "EXCEPT"})


def _not_null(connection: sa.Connection, plan: Plan, origins: Mapping[tuple[int, int], str]) -> list[str]:
    """The columns that come straight from a NOT NULL column of a table."""
    known = {origin: name for origin, name in origins.items() if all(origin)}
    if not known or any(token.text.upper() in _OUTER for token in plan.definition.sql.tokens):
        return []
    pairs = ", ".join(f"({int(table)}, {int(column)})" for table, column in known)
    rows = connection.exec_driver_sql(
        "SELECT attrelid::bigint, attnum FROM pg_attribute "
        f"WHERE attnotnull AND (attrelid::bigint, attnum) IN ({pairs})"
    )
    return [known[int(row[0]), int(row[1])] for row in rows]


def _complaint(result: Any, plan: Plan, text: str) -> str:
    from psycopg.pq import DiagnosticField

    message = (result.error_field(DiagnosticField.MESSAGE_PRIMARY) or b"it was refused").decode(errors="replace")
    hint = result.error_field(DiagnosticField.MESSAGE_HINT)
    position = int(result.error_field(DiagnosticField.STATEMENT_POSITION) or 0)
    place = plan.definition.place
    if position:
        line = plan.definition.first + text.count("\n", 0, position - 1)
        place = f"{plan.definition.name} ({plan.definition.path.name}:{line})"
    return f"{place}: {message}" + (f"; {hint.decode(errors='replace')}" if hint else "")


def _type_names(connection: sa.Connection, kinds: set[int]) -> dict[int, str]:
    if not kinds:
        return {}
    listed = ", ".join(str(int(kind)) for kind in sorted(kinds))
    rows = connection.exec_driver_sql(
        f"SELECT oid::bigint, format_type(oid, NULL) FROM pg_type WHERE oid IN ({listed})"
    )
    return {int(row[0]): str(row[1]) for row in rows}


# -- SQLite ----------------------------------------------------------------------------------------------------------

_READS = ("SELECT", "VALUES", "WITH")


def _explain(connection: sa.Connection, plan: Plan) -> tuple[Typed, Typed | None]:
    """The columns are None where only running the statement would show them."""
    definition = plan.definition
    names = list(definition.sql.parameters)
    text = definition.sql.render(lambda p: _listed(p.many, f":{p.name}"))
    values = dict.fromkeys(names)
    driver: Any = connection.connection.driver_connection
    try:
        driver.execute(f"EXPLAIN {text}", values).close()
        if definition.written or definition.sql.tokens[0].text.upper() not in _READS:
            return [(name, "") for name in names], None
        cursor = driver.execute(f"SELECT * FROM (\n{text}\n) LIMIT 0", values)
        columns = [(re.sub(r":\d+$", "", column[0]), "") for column in cursor.description]
        cursor.close()
    except driver.Error as error:
        raise QueryError(f"{definition.place}: {error}") from error
    return [(name, "") for name in names], columns


def _listed(many: bool, place: str) -> str:
    return f"({place})" if many else place


# -- what comes back -------------------------------------------------------------------------------------------------

# What the driver yields, or the type of a column makes of it, for an annotation.
_FAMILIES: dict[type, Sequence[str]] = {
    bool: ("boolean",),
    int: ("smallint", "integer", "bigint", "oid"),
    float: ("real", "double precision", "numeric"),
    decimal.Decimal: ("numeric",),
    str: ("text", "character varying", "character", "name", "citext"),
    bytes: ("bytea",),
    uuid.UUID: ("uuid",),
    dt.datetime: ("timestamp with time zone", "timestamp without time zone"),
    dt.date: ("date",),
    dt.time: ("time without time zone", "time with time zone"),
    dt.timedelta: ("interval",),
}
_BUILT_IN = frozenset(name for names in _FAMILIES.values() for name in names)


def _check_result(plan: Plan, columns: Typed) -> None:
    definition, shape = plan.definition, plan.shape
    if shape is None:
        return
    names = [name for name, _ in columns]
    if not names:
        raise QueryError(f"{definition.place} is :{definition.kind} and its statement returns no rows; use :exec")
    check_columns(names, shape.wanted, definition.place)
    if isinstance(shape, Values):
        if len(names) != 1:
            raise QueryError(f"{definition.place} has {len(names)} columns ({', '.join(names)}); expected one value")
        _check_type(names[0], columns[0][1], shape.annotation, definition.place)
    elif isinstance(shape, Rows):
        types = dict(columns)
        for name, annotation in shape.shape.fields.items():
            _check_type(name, types[name], annotation, definition.place)
    elif isinstance(shape, Entities):
        known = {column.name for column in sa.inspect(shape.model).columns if isinstance(column, sa.Column)}
        strange = [name for name in names if name not in known]
        if strange:
            raise QueryError(
                f"{definition.place} has the column {strange[0]}, which {shape.model.__name__} has not; "
                "leave it out, or return rows of a class of their own"
            )
    elif isinstance(shape, Generated):
        check_columns(names, names, definition.place)
        generated(row_name(definition.name), dict.fromkeys(names, Any))


def _check_type(column: str, found: str, annotation: Any, what: str) -> None:
    """A type of the database that is known to be read as another type of Python is a mistake; others may be right."""
    wanted = _FAMILIES.get(without_none(annotation))
    if wanted is not None and found in _BUILT_IN and found not in wanted:
        raise QueryError(
            f"{what}: column {column} is {found}, declared as {without_none(annotation).__name__}; "
            f"cast it to {wanted[0]}, or declare what it is"
        )
