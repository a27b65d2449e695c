"""The SQL of our plans, read by a linter that is not ours."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import sqlalchemy as sa
from migrate_support import metadata, migrate, rich, things
from sqlalchemy.orm import DeclarativeBase, registry

import datalayer
from datalayer.migrate.offline import render
from datalayer.migrate.options import MigrateOptions
from datalayer.migrate.runner import plan

ROOT = Path(__file__).parents[2]

# What the models decide and not the migration, and robustness that the plan has by looking first.
EXCLUDED = "prefer-robust-stmts,prefer-text-field,prefer-bigint-over-int,prefer-identity,prefer-timestamp-tz"


def complaints(sql: str, *more: str) -> list[str]:
    program = shutil.which("squawk") or shutil.which("squawk", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("squawk is not installed: pip install squawk-cli")
    done = subprocess.run(
        [
            program,
            "--reporter=json",
            "--pg-version=15",
            f"--exclude={','.join([EXCLUDED, *more])}",
            "--stdin-filepath=plan.sql",
        ],
        input=sql,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    return [
        f"{found['rule_name']} at line {found['line'] + 1}: {found['message']}" for found in json.loads(done.stdout)
    ]


def sql_of(engine: sa.Engine, schemas: Sequence[sa.MetaData]) -> str:
    found = plan(engine, schemas, MigrateOptions(not_null="multistep"))
    assert found.steps
    return render(engine.dialect, found.steps)


def base() -> type[DeclarativeBase]:
    """A base like Model with its own registry: two examples may both have a Team, and no other test sees either."""
    own = registry(metadata=sa.MetaData(naming_convention=datalayer.Model.metadata.naming_convention))
    own.type_annotation_map = datalayer.Model.registry.type_annotation_map
    return type("Model", (DeclarativeBase,), {"registry": own})


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"squawk_{Path(name).stem}", ROOT / "examples" / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with mock.patch.object(datalayer, "Model", base()):
        spec.loader.exec_module(module)
    return module


def test_a_table_with_everything_added_is_fine(pg_engine: sa.Engine) -> None:
    migrate(pg_engine, things())
    sql = sql_of(pg_engine, [rich()])
    for part in ("CONCURRENTLY", "NOT VALID", "VALIDATE CONSTRAINT", "USING INDEX", "SET NOT NULL"):
        assert part in sql
    # The CHECK that proves a NOT NULL is ours, and is taken away once it has.
    assert complaints(sql, "ban-drop-constraint") == [], sql


def test_new_tables_and_partitions_are_fine(pg_engine: sa.Engine) -> None:
    found = rich()
    sa.Table(
        "events",
        found,
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("thing_id", sa.Integer, sa.ForeignKey("things.id"), index=True),
        postgresql_partition_by="RANGE (at)",
    )
    sql = sql_of(pg_engine, [found])
    assert complaints(sql) == [], sql


def test_our_own_tables_and_triggers_are_fine(pg_engine: sa.Engine) -> None:
    migrate(pg_engine, things())
    told = things()
    told.tables["things"].info["datalayer"] = {"external_writes": True}
    found = plan(pg_engine, [told], MigrateOptions(fence_shards=2))
    sql = render(pg_engine.dialect, found.steps)
    for part in ("datalayer_fence", "datalayer_wb_applied", "CREATE TRIGGER", "CREATE OR REPLACE FUNCTION"):
        assert part in sql
    # The state of an epoch is one of three numbers.
    assert complaints(sql, "prefer-bigint-over-smallint") == [], sql


def models() -> list[str]:
    """The examples that have models, by their text: one that cannot be imported fails its own test only."""
    folder = ROOT / "examples"
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*.py") if "__tablename__" in p.read_text())


def test_the_examples_with_models_are_found() -> None:
    assert {"quickstart.py", "flask_app/models.py"} <= set(models())


@pytest.mark.parametrize("name", models())
def test_every_example_is_fine(pg_engine: sa.Engine, name: str) -> None:
    module = example(name)
    classes = [found for found in vars(module).values() if isinstance(found, type) and hasattr(found, "__table__")]
    found = metadata()
    for table in sorted({model.__table__ for model in classes}, key=lambda table: table.name):
        table.to_metadata(found)
    sql = sql_of(pg_engine, [found])
    assert complaints(sql) == [], sql
