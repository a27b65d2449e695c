"""The interface of named queries, written from what PostgreSQL says of them: a class for type checkers, as source.

A column may be None unless it is a NOT NULL column of a table and nothing in the statement can make rows without one.
Types that are not known become ``Any``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from .check import CheckedQuery
from .named import Plan
from .results import Entities, Generated, Rows, row_name

_TYPES = {
    "boolean": "bool",
    **dict.fromkeys(("smallint", "integer", "bigint", "oid"), "int"),
    **dict.fromkeys(("real", "double precision"), "float"),
    "numeric": "Decimal",
    **dict.fromkeys(("text", "character varying", "character", "name", "citext"), "str"),
    "bytea": "bytes",
    "uuid": "UUID",
    **dict.fromkeys(("timestamp with time zone", "timestamp without time zone"), "datetime"),
    "date": "date",
    **dict.fromkeys(("time without time zone", "time with time zone"), "time"),
    "interval": "timedelta",
    **dict.fromkeys(("json", "jsonb"), "Any"),
}
_MODULES = {
    "Any": "typing", "NamedTuple": "typing", "Protocol": "typing", "Sequence": "collections.abc", "Decimal": "decimal",
    "UUID": "uuid", "datetime": "datetime", "date": "datetime", "time": "datetime", "timedelta": "datetime",
    "Queries": "datalayer",
}  # fmt: skip


def interface_source(name: str, checked: Iterable[CheckedQuery], plans: Mapping[str, Plan]) -> str:
    """The source of a module with one class for each kind of row, and the class that declares the queries."""
    rows, methods = list[str](), list[str]()
    modules = dict(_MODULES)
    for query in checked:
        plan = plans[query.name]
        if isinstance(plan.shape, Entities):
            modules[plan.shape.model.__name__] = plan.shape.model.__module__
        elif isinstance(plan.shape, Rows | Generated):
            rows.append(_row_class(query))
        methods.append(_method(query, plan))
    body = "\n\n\n".join([*rows, f"class {name}(Queries, Protocol):\n" + "\n".join(methods)])
    head = '"""Made by ``datalayer queries interface`` from .sql files; make it anew instead of editing it."""'
    return f"{head}\n\nfrom __future__ import annotations\n\n{_imports(body, modules)}\n\n\n{body}\n"


def python_type(found: str) -> str:
    """``bigint`` -> ``int``, ``text[]`` -> ``Sequence[str]``, what is not known -> ``Any``."""
    if found.endswith("[]"):
        return f"Sequence[{python_type(found.removesuffix('[]'))}]"
    return _TYPES.get(found, "Any")


def _row_class(query: CheckedQuery) -> str:
    fields = (f"    {column}: {_column(query, column)}" for column in query.columns)
    return f"class {row_name(query.name)}(NamedTuple):\n" + "\n".join(fields)


def _column(query: CheckedQuery, column: str) -> str:
    kind = python_type(query.columns[column])
    return kind if column in query.not_null or kind == "Any" else f"{kind} | None"


def _method(query: CheckedQuery, plan: Plan) -> str:
    listed = {name for name, parameter in plan.definition.sql.parameters.items() if parameter.many}
    types = {name: python_type(found) for name, found in query.parameters.items()}
    given = [f"{name}: {f'Sequence[{kind}]' if name in listed else kind}" for name, kind in types.items()]
    parameters = ", ".join(["self", *(["*"] if given else []), *given])
    return f"    def {query.name}({parameters}) -> {_result(query, plan)}: ..."


def _result(query: CheckedQuery, plan: Plan) -> str:
    if query.kind == "exec":
        return "int"
    if isinstance(plan.shape, Entities):
        row = plan.shape.model.__name__
    elif isinstance(plan.shape, Rows | Generated):
        row = row_name(query.name)
    else:
        row = _column(query, next(iter(query.columns), ""))
    if query.kind == "many":
        return f"list[{row}]"
    return row if row == "Any" or row.endswith("| None") else f"{row} | None"


def _imports(body: str, modules: Mapping[str, str]) -> str:
    used = set(re.findall(r"\w+", body))
    by_module: dict[str, list[str]] = {}
    for name, module in modules.items():
        if name in used:
            by_module.setdefault(module, []).append(name)
    own = [m for m in by_module if m not in set(_MODULES.values()) or m == "datalayer"]
    standard = [m for m in by_module if m not in own]
    return "\n\n".join("\n".join(_import(by_module, block)) for block in (sorted(standard), sorted(own)) if block)


def _import(by_module: Mapping[str, list[str]], modules: Iterable[str]) -> Iterator[str]:
    for module in modules:
        yield f"from {module} import {', '.join(sorted(by_module[module]))}"
