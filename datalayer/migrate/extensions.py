"""PostgreSQL extensions that the models need, which no comparison of tables would find before a statement fails."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex

from .operations import execute
from .scope import Scope
from .steps import Step
from .types import ddl

_OF_TYPES = {
    "CITEXT": "citext",
    "CUBE": "cube",
    "GEOGRAPHY": "postgis",
    "GEOMETRY": "postgis",
    "HALFVEC": "vector",
    "HSTORE": "hstore",
    "LTREE": "ltree",
    "SPARSEVEC": "vector",
    "VECTOR": "vector",
}
_OF_INDEXES = {"gin_trgm_ops": "pg_trgm", "gist_trgm_ops": "pg_trgm"}
_WORD = re.compile(r"\w+")


def missing_extensions(scope: Scope) -> list[Step]:
    """CREATE EXTENSION for those that the caller named and those that column types and indexes belong to."""
    wanted = dict.fromkeys([*scope.options.extensions, *sorted(_needed(scope))])
    names = [name for name in wanted if name not in scope.facts.extensions]
    return [Step(f"create extension {n}", execute(f'CREATE EXTENSION IF NOT EXISTS "{n}"')) for n in names]


def _needed(scope: Scope) -> set[str]:
    tables = scope.tables.values()
    types = (column.type for table in tables for column in table.columns)
    texts = (ddl(kind, scope.dialect) for kind in types if not isinstance(kind, sa.types.NullType))
    return {*_known(texts, _OF_TYPES), *_known(_index_texts(scope, tables), _OF_INDEXES)}


def _index_texts(scope: Scope, tables: Iterable[sa.Table]) -> Iterator[str]:
    for table in tables:
        for index in table.indexes:
            if index.dialect_kwargs.get("postgresql_ops"):
                yield str(CreateIndex(index).compile(dialect=scope.dialect))


def _known(texts: Iterable[str], names: dict[str, str]) -> Iterator[str]:
    for text in texts:
        yield from (names[word] for word in _WORD.findall(text) if word in names)
