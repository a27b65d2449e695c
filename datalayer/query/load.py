"""From files to callable plans: what can be said about named queries without a database is said here, once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import QueryError
from .effects import same_table
from .files import Definition, read_queries
from .interface import declared
from .named import Plan
from .results import shape_from_header


def load_plans(
    directory: str | Path,
    interface: Callable[..., Any] | None,
    *,
    models: Mapping[str, Any],
    sealed: Mapping[str, Collection[str]],
) -> dict[str, Plan]:
    """The queries of a directory by name. QueryError for the first that cannot be right.

    ``models``: mapped classes by name. ``sealed``: tables with encrypted columns, and the names of those.
    """
    definitions = read_queries(directory)
    methods = declared(interface, definitions) if interface is not None else {}
    plans = {}
    for name, definition in definitions.items():
        _check_sealed(definition, sealed)
        shape = None
        if definition.kind != "exec" and name not in methods:
            shape = shape_from_header(definition.returns, definition.kind, name, models, definition.place)
        plans[name] = Plan.of(definition, shape, methods.get(name))
    return plans


def by_name(models: Iterable[type[Any]]) -> dict[str, type[Any]]:
    """Classes by their names, without names that several have."""
    found = dict[str, type[Any]]()
    twice = set[str]()
    for model in models:
        if found.setdefault(model.__name__, model) is not model:
            twice.add(model.__name__)
    return {name: model for name, model in found.items() if name not in twice}


def _check_sealed(definition: Definition, sealed: Mapping[str, Collection[str]]) -> None:
    """Text is not encrypted on its way to the database, so it may not write into an encrypted column."""
    for write in definition.written:
        for table, columns in sealed.items():
            if write.table is None or write.change == "delete" or not same_table(table, write.table):
                continue
            words = {t.text.strip('"`').casefold() for t in definition.sql.tokens if t.kind in ("word", "name")}
            named = [column for column in columns if column.casefold() in words]
            if named or (write.change == "insert" and not _lists_columns(definition)):
                raise QueryError(
                    f"{definition.place} writes {table}, whose {', '.join(named or columns)} is encrypted: text would "
                    "store it readable; use a Repository"
                )


def _lists_columns(definition: Definition) -> bool:
    """Whether no INSERT of the statement leaves out which columns it gives."""
    tokens = definition.sql.tokens
    for i, token in enumerate(tokens):
        if token.text.upper() == "INTO":
            following = [t.text for t in tokens[i + 1 : i + 7]]
            before = following[: following.index("(")] if "(" in following else ["VALUES"]
            if {"VALUES", "SELECT", "DEFAULT"} & {text.upper() for text in before}:
                return False
    return True
