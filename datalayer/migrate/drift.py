"""How a live schema differs from the models: for monitoring, and for the question why a query fails."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import sqlalchemy as sa

from .additive import plan_of
from .compare import compare, managed_tables, wanted
from .facts import Facts, read_facts
from .names import for_text
from .scope import Scope
from .steps import Refusal, is_own


@dataclass(frozen=True, slots=True)
class Drift:
    """``missing``: what ``migrate()`` would add, partitions of the time to come aside. ``different``: what the models
    need and no safe step gives. ``extra``: what the tables have beyond the models. ``strangers``: tables that no model
    names. False if the models fit; what is extra and who is a stranger does not count.
    """

    missing: tuple[str, ...] = ()
    different: tuple[Refusal, ...] = ()
    extra: tuple[Refusal, ...] = ()
    strangers: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.different)

    def __str__(self) -> str:
        named = (("missing", self.missing), ("different", self.different), ("extra", self.extra))
        lines = [f"{name}: {text}" for name, texts in named for text in texts]
        lines += [f"no model: {name}" for name in self.strangers]
        return "\n".join(lines) or "the database is what the models say"


def find_drift(engine: sa.Engine, metadatas: Iterable[sa.MetaData]) -> Drift:
    """Compare the live schema with the models. Reads only; costs some catalogue queries."""
    metadatas = list(metadatas)
    found = wanted(metadatas)
    schemas = {table.schema for table in found.values()} or {None}
    with engine.connect() as connection:
        # Who adds what is missing, Alembic or migrate(), makes no difference here.
        facts = replace(read_facts(connection, schemas), alembic_version=None)
        tables = managed_tables(found, facts)
        scope = Scope(for_text(connection.dialect), facts, tables, coming=False)
        plan = plan_of(scope, compare(connection, metadatas, facts, tables))
        connection.rollback()
    extra = tuple(refusal for refusal in plan.refused if not refusal.blocking)
    missing = tuple(step.text for step in plan.steps)
    return Drift(missing, plan.blocked, extra, _strangers(facts, found))


def _strangers(facts: Facts, found: dict[str, sa.Table]) -> tuple[str, ...]:
    others = facts.tables - set(found) - set(facts.children)
    return tuple(sorted(name for name in others if not is_own(name.rpartition(".")[2])))
