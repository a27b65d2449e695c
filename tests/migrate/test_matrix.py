"""From every small schema to every other by random additive edits: rows are kept, old code goes on, nothing is left.

DATALAYER_TEST_LONG=1 walks a hundred times, and adds every part to the smallest and to the largest schema.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from migrate_support import rows
from schema_parts import PARTS, closed, row, schema

from datalayer.migrate.drift import find_drift
from datalayer.migrate.options import MigrateOptions
from datalayer.migrate.runner import create_missing

LONG = bool(os.environ.get("DATALAYER_TEST_LONG"))
OPTIONS = MigrateOptions(not_null="multistep", batch_size=2)
ENV = """
from alembic import context
from datalayer.migrate.env import run
run(context, context.config.attributes["metadata"])
"""


class Walk:
    """A database, and every version of the schema that was deployed to it, oldest first."""

    def __init__(self, url: str, folder: Path) -> None:
        self.engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        self._config = Config()
        self._config.set_main_option("script_location", str(folder))
        self._config.set_main_option("sqlalchemy.url", url)
        self._config.set_main_option("path_separator", "os")
        self.restart()

    def restart(self) -> None:
        self.versions: list[sa.MetaData] = []
        self._rows: list[tuple[sa.Table, dict[str, Any]]] = []
        self._number = 0
        with self.engine.begin() as connection:
            if self.engine.dialect.name == "postgresql":
                connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            else:
                for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").all():
                    connection.exec_driver_sql(f'DROP TABLE "{name}"')

    def deploy(self, found: sa.MetaData) -> None:
        """A new version of the code starts; the older ones are still running."""
        report = create_missing(self.engine, [found], OPTIONS)
        assert report.blocked == (), str(report)
        drift = find_drift(self.engine, [found])
        assert not drift, str(drift)
        self._check(found)
        for older in self.versions:
            again = create_missing(self.engine, [older], OPTIONS)
            assert (again.applied, again.blocked) == ((), ())
        self.versions.append(found)
        self._everybody_works()

    def _check(self, found: sa.MetaData) -> None:
        self._config.attributes["metadata"] = found
        with self.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE IF EXISTS alembic_version")
        command.check(self._config)

    def _everybody_works(self) -> None:
        for version in self.versions:
            for table in version.sorted_tables:
                self._write(table)
        with self.engine.connect() as connection:
            for table, values in self._rows:
                found = connection.execute(sa.select(table).where(table.c.id == values["id"])).mappings().one()
                assert {name: found[name] for name in values} == values

    def _write(self, table: sa.Table) -> None:
        """Insert two rows, change and delete one of them."""
        kept, gone = row(table, self._number + 1), row(table, self._number + 2)
        self._number += 2
        with self.engine.begin() as connection:
            connection.execute(sa.insert(table), [kept, gone])
            column = next(c for c in table.columns if not c.primary_key) if len(table.columns) > 2 else None
            if column is not None:
                connection.execute(sa.update(table).where(table.c.id == gone["id"]).values({column: None}))
            connection.execute(sa.delete(table).where(table.c.id == gone["id"]))
        self._rows.append((table, kept))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def walk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Walk]:
    (tmp_path / "env.py").write_text(ENV)
    (tmp_path / "versions").mkdir()
    url = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "pg_url")
    found = Walk(url, tmp_path)
    yield found
    found.engine.dispose()


def addable(walk: Walk) -> list[str]:
    return [name for name, part in PARTS.items() if part.sqlite or walk.engine.dialect.name == "postgresql"]


# Shrinking takes minutes.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, *((Phase.shrink,) if LONG else ()))


@pytest.mark.timeout(900)
@settings(
    max_examples=100 if LONG else 4,
    phases=PHASES,
    report_multiple_bugs=False,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_random_walk(walk: Walk, data: st.DataObject) -> None:
    walk.restart()
    order = data.draw(st.permutations(addable(walk)), label="the order in which parts are added")
    cuts = data.draw(
        st.lists(st.integers(1, len(order)), min_size=2, max_size=4 if LONG else 2, unique=True), label="deployments"
    )
    for cut in sorted(cuts):
        walk.deploy(schema(closed(order[:cut])))


@pytest.mark.timeout(900)
def test_every_part_is_added_to_the_smallest_and_to_the_largest_schema(walk: Walk, rng: random.Random) -> None:
    parts = addable(walk)
    for part in parts if LONG else rng.sample(parts, 2):
        without = [name for name in parts if part not in closed([name])]
        for base in (closed(PARTS[part].needs), closed(without)):
            walk.restart()
            walk.deploy(schema(base))
            walk.deploy(schema(closed([*base, part])))


def test_the_parts_are_all_seen_by_the_planner(walk: Walk) -> None:
    everything = schema(closed(addable(walk)))
    walk.deploy(everything)
    assert {table.name for table in everything.sorted_tables} <= set(sa.inspect(walk.engine).get_table_names())
    assert rows(walk.engine, "SELECT count(*) FROM a")[0][0] > 0
