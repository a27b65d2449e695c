"""What a plan is made of: steps that are safe to take, and differences that are left alone with the reason."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Self

from alembic.operations import ops

OWN_PREFIX = "datalayer_"
OWN_TABLES = ("alembic_version", "schema_migrations")


def is_own(table: str) -> bool:
    """Whether a table belongs to this library or to a tool of migrations, and is no part of any model's schema."""
    return table.startswith(OWN_PREFIX) or table in OWN_TABLES


class Phase(enum.IntEnum):
    """Expand: old and new code both work. Backfill: rows catch up. Validate: what was promised is proven."""

    EXPAND = 0
    CONSTRAIN = 1  # still expanding: what refers to tables and columns that the steps before have made
    BACKFILL = 2
    VALIDATE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """Fills a column where it is NULL, some rows at a time in key order, so that it can be stopped and resumed.

    All are quoted for SQL but ``fullname``, which is the table's name in the models.
    """

    fullname: str
    table: str
    column: str
    value: str
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One additive operation in a short transaction of its own.

    ``concurrently``: outside of any transaction, because PostgreSQL demands it. ``replaces``: the half-made index of an
    earlier run that has this step's name. ``scans``: reads the whole table under a lock that lets writers go on, so it
    may take long. ``batches``: repeated until no row is left; the operation is what offline SQL shows.
    ``undo``: what a downgrade of Alembic does; it takes back the whole group of steps that this one begins.
    ``follows``: it is about the new table of the step before, so that SQL text has both in one transaction.
    """

    text: str
    operation: ops.MigrateOperation
    phase: Phase = Phase.EXPAND
    concurrently: bool = False
    replaces: str | None = None
    scans: bool = False
    batches: Batches | None = None
    undo: ops.MigrateOperation | None = None
    follows: bool = False

    @property
    def atomic(self) -> bool:
        """Whether it is done as a whole or not at all."""
        return not self.concurrently and self.batches is None


class Refusal(str):
    """A difference that is not acted upon. It is its own text: rule, table and column, reason, and the safe steps.

    ``blocking``: the models need what the database does not have; otherwise the database has more than the models.
    """

    rule: str
    table: str
    column: str | None
    reason: str
    steps: tuple[str, ...]
    blocking: bool

    __slots__ = ("blocking", "column", "reason", "rule", "steps", "table")

    @classmethod
    def of(
        cls, rule: str, table: str, item: str | None, reason: str, steps: tuple[str, ...], *, blocking: bool
    ) -> Self:
        where = f"{table}.{item}" if item else table
        safe = "; ".join(f"{number}) {step}" for number, step in enumerate(steps, 1))
        made = cls(f"{rule}: {where}: {reason}. Safe steps: {safe}" if steps else f"{rule}: {where}: {reason}")
        made.rule, made.table, made.column, made.reason = rule, table, item, reason
        made.steps, made.blocking = steps, blocking
        return made

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in ("rule", "table", "column", "reason", "steps", "blocking")}


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps in the order in which they are taken, and what is refused."""

    steps: tuple[Step, ...] = ()
    refused: tuple[Refusal, ...] = ()

    @property
    def blocked(self) -> tuple[Refusal, ...]:
        """What the models need and no safe step can give."""
        return tuple(refusal for refusal in self.refused if refusal.blocking)
