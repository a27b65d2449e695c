"""Every rule of the lint fires on what it is about, not on the safe way, and not where it is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from datalayer import DataLayer
from datalayer.errors import MigrationFileError
from datalayer.migrate.lint import RULES, lint
from datalayer.migrate.sqlfiles import MigrationFile, Script

OUTSIDE = "-- datalayer: no-transaction\n"

BAD = {
    "drop-table": "DROP TABLE a",
    "drop-database": "DROP SCHEMA x CASCADE",
    "drop-column": "ALTER TABLE a DROP COLUMN b",
    "truncate": "TRUNCATE a CASCADE",
    "rename": "ALTER TABLE a RENAME COLUMN b TO c",
    "alter-type": "ALTER TABLE a ALTER b TYPE BIGINT",
    "set-not-null": "ALTER TABLE a ALTER COLUMN b SET NOT NULL",
    "adding-required-field": "ALTER TABLE a ADD COLUMN b TEXT NOT NULL",
    "volatile-default": "ALTER TABLE a ADD COLUMN IF NOT EXISTS b UUID DEFAULT gen_random_uuid()",
    "stored-generated": "ALTER TABLE a ADD b BIGINT GENERATED ALWAYS AS (id + 1) STORED",
    "adding-serial": "ALTER TABLE a ADD COLUMN b BIGSERIAL",
    "index-concurrently": "create index i on a (b)",
    "drop-index-concurrently": "DROP INDEX i",
    "foreign-key-not-valid": "ALTER TABLE a ADD CONSTRAINT f FOREIGN KEY (b) REFERENCES c (id)",
    "check-not-valid": "ALTER TABLE a ADD CONSTRAINT k CHECK (b > 0)",
    "unique-using-index": "ALTER TABLE a ADD CONSTRAINT u UNIQUE (b)",
    "exclusion": "ALTER TABLE a ADD CONSTRAINT e EXCLUDE USING gist (b WITH =)",
    "lock-table": "LOCK TABLE a",
    "backfill": "UPDATE a SET b = 1",
    "prefer-jsonb": "CREATE TABLE a (b JSON)",
    "prefer-bigint": "CREATE TABLE a (id SERIAL PRIMARY KEY)",
    "prefer-text": "CREATE TABLE a (b VARCHAR(20))",
    "prefer-timestamptz": "CREATE TABLE a (b TIMESTAMP)",
    "wide-index": OUTSIDE + "CREATE INDEX CONCURRENTLY i ON a (b, c, d, e)",
    "outside-transaction": "CREATE INDEX CONCURRENTLY i ON a (b)",
    "validate-in-same-transaction": "ALTER TABLE a ADD CONSTRAINT k CHECK (b > 0) NOT VALID; "
    "ALTER TABLE a VALIDATE CONSTRAINT k",
}

GOOD = [
    "ALTER TABLE a ADD COLUMN b TEXT",
    "ALTER TABLE a ADD COLUMN b TEXT NOT NULL DEFAULT 'DROP TABLE x'",
    "ALTER TABLE a ADD CONSTRAINT k CHECK (b > 0) NOT VALID",
    "ALTER TABLE a VALIDATE CONSTRAINT k",
    "ALTER TABLE a ADD CONSTRAINT f FOREIGN KEY (b) REFERENCES c (id) NOT VALID",
    "ALTER TABLE a ADD CONSTRAINT u UNIQUE USING INDEX i",
    "ALTER TABLE a DROP CONSTRAINT k",
    "ALTER TABLE a ALTER COLUMN b DROP NOT NULL",
    "CREATE TABLE a (id BIGINT PRIMARY KEY, j JSONB, t TIMESTAMPTZ, u TIMESTAMP WITH TIME ZONE, n TEXT)",
    "CREATE TABLE a (id BIGINT PRIMARY KEY); CREATE INDEX i ON a (id); ALTER TABLE a ADD CHECK (id > 0)",
    "UPDATE a SET b = 1 WHERE id = 7",
    OUTSIDE + "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON a (b)",
    "-- DROP TABLE a\nSELECT 1 /* DROP TABLE b */",
]


def rules_of(text: str) -> list[str]:
    script = Script(text, text.startswith(OUTSIDE), Path("001_a.sql"))
    return [complaint.rule for complaint in lint(MigrationFile(1, "001", "a", script, script))]


@pytest.mark.parametrize("rule", sorted(BAD))
def test_a_rule_finds_what_it_is_about_and_can_be_allowed(rule: str) -> None:
    assert rules_of(BAD[rule]) == [rule]
    head, last = ("", BAD[rule]) if ";" not in BAD[rule] else (BAD[rule].split(";")[0] + ";", BAD[rule].split(";")[1])
    outside, last = (OUTSIDE, last.removeprefix(OUTSIDE)) if last.startswith(OUTSIDE) else ("", last)
    assert rules_of(f"{outside}{head}\n-- datalayer: allow {rule}, other\n{last}") == []


def test_every_rule_has_an_example() -> None:
    assert {rule.id for rule in RULES} <= set(BAD)


@pytest.mark.parametrize("text", GOOD)
def test_the_safe_way_is_not_complained_about(text: str) -> None:
    assert rules_of(text) == []


def test_a_missing_way_down_is_a_warning() -> None:
    file = MigrationFile(1, "001", "a", Script("SELECT 1", False, Path("001_a.sql")), None)
    (complaint,) = lint(file)
    assert str(complaint).startswith("001_a.sql:1: warning missing-down: it cannot be taken back; add")


def test_refuse_stops_before_anything_is_run(pg_url: str, tmp_path: Path) -> None:
    (tmp_path / "001_a.sql").write_text("CREATE TABLE a (id BIGINT);\n-- +down")
    (tmp_path / "001_a.sql").write_text("-- +up\nCREATE TABLE a (id BIGINT);\n-- +down\nDROP TABLE a;")
    (tmp_path / "002_b.sql").write_text("CREATE INDEX i ON a (id);")
    with DataLayer(pg_url) as layer:
        with pytest.raises(MigrationFileError, match=r"002_b\.sql:1: error index-concurrently: writers wait"):
            layer.migrate_from(tmp_path, lint="refuse")
        report = layer.migrate_from(tmp_path)
        assert report.applied == ("001_a", "002_b")
        assert [complaint.rule for complaint in report.complaints] == ["index-concurrently", "missing-down"]
