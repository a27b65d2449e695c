"""The rules: what is never done to a table that has rows, why, and the steps that do it safely by hand."""

from __future__ import annotations

from .steps import Refusal

_IN_FILE = "in a NNN_description.sql file"


def drop_table(table: str, quoted: str) -> Refusal:
    return Refusal.of(
        "drop-table", table, None, "dropping a table loses its rows",
        ("deploy code that no longer uses it", f"{_IN_FILE}: DROP TABLE {quoted}"), blocking=False,
    )  # fmt: skip


def drop_column(table: str, column: str, quoted: str, sql_column: str, *, required: bool) -> Refusal:
    reason = "dropping a column loses its values, and running code may still write it"
    relax = f"{_IN_FILE}: ALTER TABLE {quoted} ALTER COLUMN {sql_column} DROP NOT NULL"
    if required:
        reason += "; it is NOT NULL without a default, so inserts of the new models fail until it is relaxed"
    steps = (
        *((relax,) if required else ()),
        "deploy code that no longer uses it",
        f"{_IN_FILE}: ALTER TABLE {quoted} DROP COLUMN {sql_column}",
    )
    return Refusal.of("drop-column", table, column, reason, steps, blocking=required)


def drop_index(table: str, index: str, quoted_index: str) -> Refusal:
    return Refusal.of(
        "drop-index", table, index, "somebody's queries may need it",
        (f"see that pg_stat_user_indexes.idx_scan stays 0; {_IN_FILE}: DROP INDEX CONCURRENTLY {quoted_index}",),
        blocking=False,
    )  # fmt: skip


def half_made_index(table: str, index: str, quoted_index: str) -> Refusal:
    return Refusal.of(
        "half-made-index", table, index,
        "its build was stopped and no model has it: writes pay for it and no query uses it",
        ("see in pg_stat_activity that nobody is building it", f"DROP INDEX CONCURRENTLY {quoted_index}"),
        blocking=False,
    )  # fmt: skip


def drop_constraint(table: str, name: str, quoted: str, quoted_name: str) -> Refusal:
    return Refusal.of(
        "drop-constraint", table, name, "rows that break it could appear",
        (f"{_IN_FILE}: ALTER TABLE {quoted} DROP CONSTRAINT {quoted_name}",), blocking=False,
    )  # fmt: skip


def required_field(table: str, column: str, quoted: str, spec: str) -> Refusal:
    name = spec.split(" ", 1)[0]
    return Refusal.of(
        "adding-required-field", table, column,
        "it is NOT NULL and has no server default, which rows that exist cannot satisfy and old code cannot insert",
        (
            'give it a server_default, or a scalar default= and migrate(not_null="multistep"), or by hand:',
            f"{_IN_FILE}: ALTER TABLE {quoted} ADD COLUMN {spec}",
            "fill it in batches",
            f"ALTER TABLE {quoted} ADD CONSTRAINT {column}_nn CHECK ({name} IS NOT NULL) NOT VALID",
            f"ALTER TABLE {quoted} VALIDATE CONSTRAINT {column}_nn",
            f"ALTER TABLE {quoted} ALTER COLUMN {name} SET NOT NULL",
        ),
        blocking=True,
    )  # fmt: skip


def set_not_null(table: str, column: str, quoted: str, name: str) -> Refusal:
    return Refusal.of(
        "set-not-null", table, column, "the column allows NULL; forbidding it rejects rows and scans the table locked",
        (
            "give it a server_default or a scalar default= and migrate(not_null=\"multistep\"), or by hand:",
            f"ALTER TABLE {quoted} ADD CONSTRAINT {column}_nn CHECK ({name} IS NOT NULL) NOT VALID",
            f"UPDATE {quoted} SET {name} = ... WHERE {name} IS NULL, in batches",
            f"ALTER TABLE {quoted} VALIDATE CONSTRAINT {column}_nn",
            f"ALTER TABLE {quoted} ALTER COLUMN {name} SET NOT NULL",
        ),
        blocking=True,
    )  # fmt: skip


def drop_not_null(table: str, column: str, quoted: str, name: str) -> Refusal:
    return Refusal.of(
        "drop-not-null", table, column, "the models allow NULL, but running code may not expect one",
        ("deploy code that can read NULL", f"{_IN_FILE}: ALTER TABLE {quoted} ALTER COLUMN {name} DROP NOT NULL"),
        blocking=True,
    )  # fmt: skip


def change_type(table: str, column: str, quoted: str, name: str, found: str, wanted: str) -> Refusal:
    return Refusal.of(
        "change-type", table, column,
        f"its type is {found} and the models say {wanted}; the change rewrites the table under a lock or loses values",
        (
            f"{_IN_FILE}: ALTER TABLE {quoted} ADD COLUMN {column}_new {wanted}",
            "deploy code that writes both columns",
            f"UPDATE {quoted} SET {column}_new = {name} in batches",
            f"deploy code that reads {column}_new only",
            f"{_IN_FILE}: ALTER TABLE {quoted} DROP COLUMN {name}",
        ),
        blocking=True,
    )  # fmt: skip


def drop_trigger(table: str, name: str, quoted: str) -> Refusal:
    return Refusal.of(
        "drop-trigger", table, name, "no policy asks for it, and processes of an older release may listen",
        (f"{_IN_FILE}: DROP TRIGGER {name} ON {quoted}",), blocking=False,
    )  # fmt: skip


def narrower(table: str, column: str, found: str, wanted: str) -> Refusal:
    return Refusal.of(
        "narrower-type", table, column, f"its type is {found}, the models say {wanted}, which holds less",
        ("leave it", "or deploy code that checks what it writes, and add a CHECK of that"), blocking=False,
    )  # fmt: skip


def rename(table: str, item: str | None) -> Refusal:
    return Refusal.of(
        "rename", table, item, "code that runs now uses the old name",
        ("add the new one", "write both", "fill the new one in batches", "read the new one", "drop the old one"),
        blocking=True,
    )  # fmt: skip


def volatile_default(table: str, column: str, quoted: str, name: str, default: str) -> Refusal:
    return Refusal.of(
        "volatile-default", table, column, f"the default {default} is computed for each row: the table is rewritten",
        (
            f"{_IN_FILE}: ALTER TABLE {quoted} ADD COLUMN {name} without the default",
            f"ALTER TABLE {quoted} ALTER COLUMN {name} SET DEFAULT {default}",
            "fill it in batches",
        ),
        blocking=True,
    )  # fmt: skip


def rewriting_column(table: str, column: str, kind: str) -> Refusal:
    return Refusal.of(
        f"add-{kind.replace(' ', '-')}", table, column, f"adding a column that is {kind} rewrites the table",
        ("add a plain nullable column", "fill it in batches", "let the application or a trigger keep it up"),
        blocking=True,
    )  # fmt: skip


def sqlite_default(table: str, column: str, default: str) -> Refusal:
    return Refusal.of(
        "sqlite-non-constant-default", table, column, f"SQLite cannot add a NOT NULL column with the default {default}",
        ("make it nullable, or give it a constant server_default",), blocking=True,
    )  # fmt: skip


def sqlite_rebuild(table: str, item: str | None, what: str) -> Refusal:
    return Refusal.of(
        "sqlite-rebuild", table, item, f"SQLite cannot {what} on a table that exists",
        (
            f"{_IN_FILE}: CREATE TABLE {table}_new with it",
            f"INSERT INTO {table}_new SELECT ... FROM {table}",
            f"DROP TABLE {table}",
            f"ALTER TABLE {table}_new RENAME TO {table}",
        ),
        blocking=True,
    )  # fmt: skip


def differs(rule: str, table: str, name: str, steps: tuple[str, ...]) -> Refusal:
    return Refusal.of(
        rule, table, name, "the database has one with another definition in its place", steps, blocking=True
    )


def index_differs(table: str, name: str) -> Refusal:
    return differs(
        "index-differs", table, name,
        ("give the index in the models a new name and migrate", f"{_IN_FILE}: DROP INDEX CONCURRENTLY {name}"),
    )  # fmt: skip


def constraint_differs(table: str, name: str, quoted: str) -> Refusal:
    return differs(
        "constraint-differs", table, name,
        (
            f"{_IN_FILE}: ALTER TABLE {quoted} ADD CONSTRAINT {name}_new ... NOT VALID",
            f"in the next file: ALTER TABLE {quoted} VALIDATE CONSTRAINT {name}_new",
            f"ALTER TABLE {quoted} DROP CONSTRAINT {name}",
            f"ALTER TABLE {quoted} RENAME CONSTRAINT {name}_new TO {name}",
        ),
    )  # fmt: skip


def on_partitioned(table: str, name: str, what: str) -> Refusal:
    return Refusal.of(
        "partitioned-table", table, name, f"PostgreSQL cannot add {what} to a partitioned table without locking it",
        ("add it to each partition, one at a time", "then to the parent, which finds it there"), blocking=True,
    )  # fmt: skip


def drop_enum_label(name: str, label: str) -> Refusal:
    return Refusal.of(
        "drop-enum-label", name, label, "PostgreSQL cannot take a label from an enum, and rows may have it",
        ("leave it", "or move the column to a new type like any change-type"), blocking=False,
    )  # fmt: skip


def enum_check(table: str, column: str, label: str) -> Refusal:
    return Refusal.of(
        "enum-check", table, column, f"the CHECK in the database does not allow the label {label!r} of the models",
        (
            "add a CHECK with all labels under another name, NOT VALID",
            "VALIDATE it",
            "drop the old one",
        ),
        blocking=True,
    )  # fmt: skip


def unnamed_check(table: str) -> Refusal:
    return Refusal.of(
        "unnamed-check", table, None, "the models have more CHECK constraints without a name than the table has",
        ("name it, or give the MetaData a naming_convention",), blocking=True,
    )  # fmt: skip


def alembic_owns(text: str) -> Refusal:
    return Refusal.of(
        "alembic-versioned", "alembic_version", None, f"Alembic versions this schema, so this is left to it: {text}",
        ("alembic revision --autogenerate", "alembic upgrade head", "or migrate(alongside_alembic=True)"),
        blocking=True,
    )  # fmt: skip


def unknown(table: str, what: str) -> Refusal:
    return Refusal.of(
        "unknown-change", table, None, f"{what} is not known to be additive", (f"do it {_IN_FILE}",), blocking=True
    )
