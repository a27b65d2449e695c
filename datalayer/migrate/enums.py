"""PostgreSQL enums: the types that are missing, and the labels that a type has gained in the models."""

from __future__ import annotations

from . import rules
from .names import full, literal
from .operations import execute, outside
from .scope import Judged, Scope
from .steps import Step
from .types import create_type, enums_of


def enum_types(scope: Scope) -> list[Step]:
    """CREATE TYPE for what the database lacks: a new column does not bring its type along."""
    steps: dict[str, Step] = {}
    for _, found in enums_of(list(scope.tables.values()), scope.dialect):
        name = full(str(found.name), found.schema)
        if name not in scope.facts.enums:
            undo = execute(f"DROP TYPE {scope.quoted(found.schema, found.name)}")
            steps[name] = Step(f"create type {name}", execute(create_type(found, scope.dialect)), undo=undo)
    return list(steps.values())


def enum_labels(scope: Scope) -> Judged:
    """ADD VALUE for each new label, at its place; labels that the models no longer have stay."""
    judged: Judged = []
    seen: set[str] = set()
    for _, found in enums_of(list(scope.tables.values()), scope.dialect):
        name = full(str(found.name), found.schema)
        if name in scope.facts.enums and name not in seen:
            seen.add(name)
            quoted = scope.quoted(found.schema, found.name)
            judged += _labels(name, quoted, list(found.enums), scope.facts.enums[name])
    return judged


def _labels(name: str, quoted: str, wanted: list[str], found: list[str]) -> Judged:
    judged: Judged = []
    known = list(found)
    for position, label in enumerate(wanted):
        if label in known:
            continue
        # Everything before it is there by now, for the labels are added in the order of the models.
        place = f" AFTER {literal(wanted[position - 1])}" if position else _before(known)
        sql = f"ALTER TYPE {quoted} ADD VALUE IF NOT EXISTS {literal(label)}{place}"
        judged.append(Step(f"add label {label} to {name}", outside(sql)))
        known.append(label)
    return judged + [rules.drop_enum_label(name, label) for label in found if label not in wanted]


def _before(known: list[str]) -> str:
    return f" BEFORE {literal(known[0])}" if known else ""
