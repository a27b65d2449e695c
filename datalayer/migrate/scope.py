"""What every part of the planner looks at: the models, the database's facts, its dialect, the caller's options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from .facts import Facts
from .names import Names, full
from .options import MigrateOptions
from .steps import Phase, Refusal, Step, is_own

Judged = list[Step | Refusal]


@dataclass(frozen=True, slots=True)
class Scope:
    """Read only. ``tables`` are the models' tables by full name. ``coming``: whether a partitioned table that has
    partitions gets those of the time to come as well."""

    dialect: sa.Dialect
    facts: Facts
    tables: Mapping[str, sa.Table]
    options: MigrateOptions = field(default_factory=MigrateOptions)
    coming: bool = True

    @property
    def postgres(self) -> bool:
        return self.dialect.name == "postgresql"

    @property
    def names(self) -> Names:
        return Names(self.dialect)

    def quoted(self, *parts: str | None) -> str:
        return self.names.quoted(*parts)

    def table_of(self, operation: Any) -> tuple[str, str]:
        """The table of an operation: its full name for people, and quoted for SQL."""
        name = getattr(operation, "table_name", None) or operation.source_table
        schema = getattr(operation, "schema", None) or getattr(operation, "source_schema", None)
        return full(name, schema), self.quoted(schema, name)

    def exists(self, table: str) -> bool:
        return table in self.facts.tables

    def default_of(self, column: sa.Column[Any]) -> str | None:
        """The text of a column's DEFAULT."""
        compiler: Any = self.dialect.ddl_compiler(self.dialect, None)  # type: ignore[arg-type]  # only for DDL objects
        text: str | None = compiler.get_column_default_string(column)
        return text

    def expression(self, clause: Any) -> str:
        """An SQL expression as DDL has it: no table names, no parameters."""
        compiler: Any = self.dialect.ddl_compiler(self.dialect, None)  # type: ignore[arg-type]
        return str(compiler.sql_compiler.process(clause, include_table=False, literal_binds=True))


def in_order(judged: Iterable[Step]) -> tuple[Step, ...]:
    """Steps by phase, otherwise as they came."""
    return tuple(sorted(judged, key=lambda step: Phase(step.phase)))


def managed(table: sa.Table, facts: Facts) -> bool:
    """Whether a table of the models is for us to create and change: not a view, not ours, not opted out of.

    ``Table(..., info={"datalayer": {"migrate": False}})`` opts out.
    """
    wanted = table.info.get("datalayer", {}).get("migrate", True)
    return bool(wanted) and table.fullname not in facts.views and not is_own(table.name)
