"""Rules for SQL files: what locks a busy table, rewrites it, loses rows or breaks running code, and what to do instead.

Each rule looks at one statement. ``-- datalayer: allow <rule>`` above a statement says that it is meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .sqlfiles import MigrationFile, Script
from .sqltext import Statement

Severity = Literal["error", "warning"]

_ALLOW = re.compile(r"--\s*datalayer:\s*allow\s+(.+)$", re.I)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: what it finds, why that hurts, and what to do."""

    id: str
    pattern: re.Pattern[str]
    why: str
    fix: str
    severity: Severity = "error"
    old_table: bool = True  # harmless on a table that the same file creates


@dataclass(frozen=True, slots=True)
class Complaint:
    """A rule that a statement breaks."""

    file: str
    line: int
    rule: str
    severity: Severity
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.severity} {self.rule}: {self.why}; {self.fix}"


def _rule(name: str, pattern: str, why: str, fix: str, severity: Severity = "error", *, old_table: bool = True) -> Rule:
    return Rule(name, re.compile(pattern, re.I), why, fix, severity, old_table)


_ADD_COLUMN = r"ALTER TABLE .*\bADD (?:COLUMN )?(?!CONSTRAINT|CHECK|FOREIGN|UNIQUE|PRIMARY|EXCLUDE)(?:IF NOT EXISTS )?"
_IN_STEPS = "add a new column, write both, fill it in batches, read the new one, drop the old one"

RULES: tuple[Rule, ...] = (
    _rule("drop-table", r"DROP TABLE\b", "its rows are lost and running code fails",
          "drop it after no release uses it"),
    _rule("drop-database", r"DROP (DATABASE|SCHEMA)\b", "everything in it is lost", "do it by hand, after a dump"),
    _rule("drop-column", r"ALTER TABLE .*\bDROP (COLUMN )?(?!CONSTRAINT|NOT NULL|DEFAULT|EXPRESSION|IDENTITY)\S+",
          "its values are lost and running code fails", "drop it after no release uses it"),
    _rule("truncate", r"TRUNCATE\b.*\bCASCADE\b", "rows of other tables are lost, too", "name each table"),
    _rule("rename", r"ALTER (TABLE|VIEW|TYPE)\b.*\bRENAME\b(?! CONSTRAINT)", "running code uses the old", _IN_STEPS),
    _rule("alter-type", r"ALTER TABLE .*\bALTER (COLUMN )?\S+ (SET DATA )?TYPE\b", "the table may be rewritten, locked",
          _IN_STEPS),
    _rule("set-not-null", r"ALTER TABLE .*\bALTER (COLUMN )?\S+ SET NOT NULL", "the table is scanned, locked",
          "CHECK (... IS NOT NULL) NOT VALID, VALIDATE in the next file, then SET NOT NULL and allow this rule"),
    _rule("adding-required-field", _ADD_COLUMN + r"(?!.*\b(DEFAULT|GENERATED)\b).*\bNOT NULL\b",
          "rows that exist cannot satisfy it, and old code cannot insert", "give it a DEFAULT"),
    _rule("volatile-default", _ADD_COLUMN + r".*\bDEFAULT\b.*\b(gen_random_uuid|uuidv[47]|uuid_generate_v\d\w*|random|"
          r"clock_timestamp|timeofday|nextval)\s*\(", "the table is rewritten, locked",
          "add it without, SET DEFAULT, fill it in batches"),
    _rule("stored-generated", _ADD_COLUMN + r".*\bGENERATED ALWAYS AS \(.*\bSTORED", "the table is rewritten, locked",
          "use a plain column and fill it"),
    _rule("adding-serial", _ADD_COLUMN + r".*\b((BIG|SMALL)?SERIAL\b|GENERATED \w+( \w+)? AS IDENTITY)",
          "the table is rewritten, locked", "add a plain column, fill it, then attach the sequence"),
    _rule("index-concurrently", r"CREATE (UNIQUE )?INDEX (?!CONCURRENTLY)", "writers wait until the index is built",
          "CREATE INDEX CONCURRENTLY in a file with -- datalayer: no-transaction"),
    _rule("drop-index-concurrently", r"DROP INDEX (?!CONCURRENTLY)", "readers and writers wait for each other",
          "DROP INDEX CONCURRENTLY in a file with -- datalayer: no-transaction", "warning"),
    _rule("foreign-key-not-valid", r"ALTER TABLE .*\bADD\b.*\b(FOREIGN KEY|REFERENCES)\b(?!.*\bNOT VALID\b)",
          "both tables are locked while the rows are checked", "NOT VALID, and VALIDATE CONSTRAINT in the next file"),
    _rule("check-not-valid", r"ALTER TABLE .*\bADD\b.*\bCHECK\b(?!.*\bNOT VALID\b)",
          "the table is locked while its rows are checked", "NOT VALID, and VALIDATE CONSTRAINT in the next file"),
    _rule("unique-using-index", r"ALTER TABLE .*\bADD\b(?!.*\bUSING INDEX\b).*\b(UNIQUE|PRIMARY KEY)\b",
          "the table is locked while the index is built", "CREATE UNIQUE INDEX CONCURRENTLY, then USING INDEX"),
    _rule("exclusion", r"ALTER TABLE .*\bADD\b.*\bEXCLUDE\b", "the table is locked while the index is built",
          "there is no way without; choose a quiet hour"),
    _rule("lock-table", r"LOCK (TABLE )?\S+|ALTER TABLE .*\b(CLUSTER ON|SET (UN)?LOGGED)\b|CLUSTER\b|VACUUM FULL",
          "the table is locked", "leave it out"),
    _rule("backfill", r"(UPDATE|DELETE FROM) (?!.*\bWHERE\b)", "every row is locked until the transaction ends",
          "do it in batches, outside of the migration"),
    _rule("prefer-jsonb", r"(CREATE|ALTER) TABLE .*\bJSON\b(?!B)", "json has no equality and no index", "use JSONB",
          "warning", old_table=False),
    _rule("prefer-bigint", r"(CREATE|ALTER) TABLE .*\b(INT|INTEGER|INT4|SERIAL|SMALLSERIAL)\b[^,]*\bPRIMARY KEY\b",
          "32 bits run out, and changing it later rewrites the table", "use BIGINT", "warning", old_table=False),
    _rule("prefer-text", r"(CREATE|ALTER) TABLE .*\b(CHAR|CHARACTER|VARCHAR|CHARACTER VARYING) ?\(\d+\)",
          "changing the length later locks the table", "use TEXT, with a CHECK if need be", "warning", old_table=False),
    _rule("prefer-timestamptz", r"(CREATE|ALTER) TABLE .*\b(TIMESTAMP\b(?! WITH TIME ZONE)(?! ?\(\d\) WITH TIME ZONE))",
          "what it means depends on the session's time zone", "use TIMESTAMPTZ", "warning", old_table=False),
    _rule("wide-index", r"CREATE (UNIQUE )?INDEX .*\((\s*[^,()]+,){3,}",
          "an index on more than three columns is seldom used by all of them", "see what the queries need", "warning",
          old_table=False),
)  # fmt: skip


def lint(file: MigrationFile) -> Iterator[Complaint]:
    """What the rules say about a file's way up."""
    yield from _script(file.up)
    if file.down is None:
        fix = f"add a section -- +down, or {file.digits}_{file.name}.down.sql"
        yield Complaint(file.up.path.name, 1, "missing-down", "warning", "it cannot be taken back", fix)


def _script(script: Script) -> Iterator[Complaint]:
    new: set[str] = set()
    promised: set[str] = set()
    for statement in script.statements():
        allowed = _allowed(statement)
        new |= _created(statement)
        for complaint in _statement(script, statement, new, promised):
            if complaint.rule not in allowed:
                yield complaint
        promised |= {found[1].lower() for found in _PROMISED.finditer(statement.bare)}


_PROMISED = re.compile(r"\bADD CONSTRAINT (\S+) .*\bNOT VALID", re.I)
_VALIDATE = re.compile(r"\bVALIDATE CONSTRAINT (\S+)", re.I)
_CREATED = re.compile(r"CREATE (?:UNLOGGED |TEMP |TEMPORARY )?TABLE (?:IF NOT EXISTS )?([\w.\"]+)", re.I)
_TARGET = re.compile(r"(?:ALTER TABLE (?:IF EXISTS )?(?:ONLY )?|\bON (?:ONLY )?|UPDATE |DELETE FROM )([\w.\"]+)", re.I)
_CONCURRENTLY = re.compile(r"\bCONCURRENTLY\b|^VACUUM\b|^ALTER SYSTEM\b", re.I)


def _created(statement: Statement) -> set[str]:
    found = _CREATED.match(statement.bare)
    return {found[1].lower()} if found else set()


def _allowed(statement: Statement) -> set[str]:
    lines = (found[1] for comment in statement.comments if (found := _ALLOW.match(comment.strip())))
    return {rule for line in lines for rule in re.split(r"[,\s]+", line.strip())}


def _statement(script: Script, statement: Statement, new: set[str], promised: set[str]) -> Iterator[Complaint]:
    def complain(rule: str, severity: Severity, why: str, fix: str) -> Complaint:
        return Complaint(script.path.name, statement.line, rule, severity, why, fix)

    target = _TARGET.search(statement.bare)
    is_new = target is not None and target[1].lower() in new
    for rule in RULES:
        if rule.pattern.match(statement.bare) and not (is_new and rule.old_table):
            yield complain(rule.id, rule.severity, rule.why, rule.fix)
    if _CONCURRENTLY.search(statement.bare) and not script.outside:
        fix = "put it in a file of its own with -- datalayer: no-transaction"
        yield complain("outside-transaction", "error", "it cannot run inside of a transaction", fix)
    validated = _VALIDATE.search(statement.bare)
    if validated and validated[1].lower() in promised and not script.outside:
        fix = "validate it in the next file"
        why = "adding and validating in one transaction keeps the table locked all the while"
        yield complain("validate-in-same-transaction", "error", why, fix)
