"""What is added, on both databases, with the rows kept and nothing left to do afterwards."""

from __future__ import annotations

import datetime as dt
import enum
from typing import Any

import pytest
import sqlalchemy as sa
from migrate_support import metadata, migrate, rows, run, things, valid
from sqlalchemy.dialects import postgresql

from datalayer.errors import MigrationError
from datalayer.migrate.options import MigrateOptions
from datalayer.migrate.runner import create_coming, create_missing


def rules(report: Any) -> list[str]:
    return [f"{refusal.rule} {refusal.table}.{refusal.column}" for refusal in report.refused]


def two_tables(**options: Any) -> sa.MetaData:
    found = things()
    sa.Table(
        "owners",
        found,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("thing_id", sa.Integer, sa.ForeignKey("things.id", **options), index=True),
    )
    return found


# -- both databases --------------------------------------------------------------------------------------------------


def test_tables_come_with_their_indexes_and_keys(engine: sa.Engine) -> None:
    report = migrate(engine, two_tables(ondelete="CASCADE"))
    assert report.refused == ()
    inspector = sa.inspect(engine)
    assert inspector.get_foreign_keys("owners")[0]["options"] == {"ondelete": "CASCADE"}
    assert [index["name"] for index in inspector.get_indexes("owners")] == ["ix_owners_thing_id"]


def test_tables_that_refer_to_each_other_are_created(engine: sa.Engine) -> None:
    found = metadata()
    for name, other in (("eggs", "hens"), ("hens", "eggs")):
        sa.Table(
            name,
            found,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("other", sa.Integer, sa.ForeignKey(f"{other}.id")),
        )
    assert migrate(engine, found).refused == ()
    assert all(len(sa.inspect(engine).get_foreign_keys(name)) == 1 for name in ("eggs", "hens"))


def test_a_unique_column_is_added(engine: sa.Engine) -> None:
    migrate(engine, things())
    run(engine, "INSERT INTO things (id, name) VALUES (1, 'kept')")
    report = migrate(engine, things(sa.Column("code", sa.Text, unique=True)))
    assert report.refused == ()
    run(engine, "INSERT INTO things (id, code) VALUES (2, 'a')")
    with pytest.raises(sa.exc.IntegrityError):
        run(engine, "INSERT INTO things (id, code) VALUES (3, 'a')")
    assert rows(engine, "SELECT id, name, code FROM things ORDER BY id") == [(1, "kept", None), (2, None, "a")]


def test_a_column_is_added_with_its_foreign_key_and_its_check(engine: sa.Engine) -> None:
    migrate(engine, two_tables())
    run(engine, "INSERT INTO things (id) VALUES (1)")
    found = things(
        sa.Column("owner_id", sa.Integer, sa.ForeignKey("owners.id", ondelete="SET NULL")),
        sa.Column("level", sa.Integer, sa.CheckConstraint("level >= 0", name="level")),
    )
    sa.Table("owners", found, sa.Column("id", sa.Integer, primary_key=True), sa.Column("thing_id", sa.Integer))
    report = migrate(engine, found)
    assert [r.rule for r in report.blocked] == []
    for wrong in ("owner_id) VALUES (2, 77)", "level) VALUES (2, -1)"):
        with pytest.raises(sa.exc.IntegrityError):
            run(engine, f"INSERT INTO things (id, {wrong}")
    run(engine, "INSERT INTO things (id, level) VALUES (2, 0)")


def test_old_code_keeps_working_on_the_new_schema(engine: sa.Engine) -> None:
    old = things()
    migrate(engine, old)
    migrate(engine, things(sa.Column("level", sa.Integer, nullable=False, server_default="7"), sa.Column("x", sa.Text)))
    with engine.begin() as connection:
        connection.execute(sa.insert(old.tables["things"]), [{"id": 1, "name": "old"}])
        assert connection.execute(sa.select(old.tables["things"])).all() == [(1, "old")]
    assert rows(engine, "SELECT level, x FROM things") == [(7, None)]


def test_what_is_refused_says_rule_place_reason_and_safe_steps(engine: sa.Engine) -> None:
    migrate(engine, things(sa.Column("gone", sa.Text), sa.Column("size", sa.BigInteger), sa.Column("opt", sa.Text)))
    report = migrate(
        engine,
        things(
            sa.Column("must", sa.Text, nullable=False),
            sa.Column("size", sa.Text),
            sa.Column("opt", sa.Text, nullable=False),
        ),
    )
    assert sorted(rules(report)) == sorted(
        ["adding-required-field things.must", "drop-column things.gone"]
        + (
            ["change-type things.size", "set-not-null things.opt"]
            if engine.dialect.name == "postgresql"
            else ["sqlite-rebuild things.size", "sqlite-rebuild things.opt"]
        )
    )
    assert all(refusal.steps and "Safe steps: 1)" in refusal for refusal in report.refused)
    assert [refusal.rule for refusal in report.refused if not refusal.blocking] == ["drop-column"]


def test_a_column_whose_absence_breaks_inserts_is_no_mere_leftover(engine: sa.Engine) -> None:
    migrate(engine, things(sa.Column("gone", sa.Text, nullable=False)))
    (refusal,) = migrate(engine, things()).refused
    assert refusal.rule == "drop-column"
    assert refusal.blocking
    assert "DROP NOT NULL" in refusal


def test_an_index_whose_definition_changed_is_refused(engine: sa.Engine) -> None:
    migrate(engine, things(sa.Index("by", "name")))
    report = migrate(engine, things(sa.Index("by", "name", "id")))
    assert rules(report) == ["index-differs things.by"]


def test_views_strangers_and_what_opted_out_are_left_alone(engine: sa.Engine) -> None:
    run(engine, "CREATE TABLE strangers (id int)", "CREATE VIEW seen AS SELECT id FROM strangers")
    found = things()
    sa.Table("seen", found, sa.Column("id", sa.Integer, primary_key=True), sa.Column("other", sa.Text))
    sa.Table("theirs", found, sa.Column("id", sa.Integer), info={"datalayer": {"migrate": False}})
    report = migrate(engine, found)
    assert report.applied == ("create table things",)
    assert report.refused == ()
    assert not sa.inspect(engine).has_table("theirs")


def test_text_that_looks_like_a_parameter_arrives_as_it_is(engine: sa.Engine) -> None:
    migrate(engine, things())
    default = "100%:now 'quoted'"
    migrate(engine, things(sa.Column("note", sa.Text, nullable=False, server_default=default)))
    run(engine, "INSERT INTO things (id) VALUES (1)")
    assert rows(engine, "SELECT note FROM things") == [(default,)]


def test_a_percent_sign_in_a_check_stays_one(engine: sa.Engine) -> None:
    migrate(engine, things())
    check = sa.CheckConstraint(r"code LIKE 'a%' OR code = '100%\:x'", name="code")
    migrate(engine, things(sa.Column("code", sa.Text, check), sa.Column("pct%", sa.Text, unique=True)))
    run(engine, "INSERT INTO things (id, code) VALUES (1, 'ab'), (2, '100%\\:x')")
    with pytest.raises(sa.exc.IntegrityError):
        run(engine, "INSERT INTO things (id, code) VALUES (3, '100%%\\:x')")


def test_two_schemas_with_one_metadata_each_are_migrated(engine: sa.Engine) -> None:
    other = metadata()
    sa.Table("others", other, sa.Column("id", sa.Integer, primary_key=True))
    assert migrate(engine, things(), other).applied == ("create table things", "create table others")


class Colour(enum.Enum):
    red = 1
    blue = 2


def test_every_type_of_the_zoo_is_no_difference_to_itself(engine: sa.Engine) -> None:
    found = things(
        sa.Column("a", sa.BigInteger),
        sa.Column("b", sa.Double),
        sa.Column("c", sa.DateTime(timezone=True)),
        sa.Column("d", sa.JSON().with_variant(postgresql.JSONB(), "postgresql")),
        sa.Column("e", sa.Numeric(10, 2)),
        sa.Column("f", sa.Uuid),
        sa.Column("g", sa.LargeBinary),
        sa.Column("h", sa.Enum(Colour)),
        sa.Column("i", sa.Interval),
        sa.Column("j", sa.String(20)),
        sa.Column("k", sa.Boolean),
        sa.Column("l", sa.Enum(Colour, native_enum=False, create_constraint=True, name="l")),
        sa.Column("m", sa.SmallInteger),
        sa.Column("n", sa.Float),
        sa.Column("o", sa.Time),
    )
    migrate(engine, things())
    assert migrate(engine, found).blocked == ()
    assert migrate(engine, found).refused == ()


# -- SQLite ----------------------------------------------------------------------------------------------------------


def test_what_sqlite_cannot_add_is_refused(sqlite_url: str) -> None:
    engine = sa.create_engine(sqlite_url)
    migrate(engine, two_tables())
    found = things(
        sa.Column("at", sa.DateTime, nullable=False, server_default=sa.func.current_timestamp()),
        sa.Column("maybe", sa.DateTime, server_default=sa.func.current_timestamp()),
        sa.CheckConstraint("name <> ''", name="name"),
    )
    report = migrate(engine, found)
    assert rules(report) == ["sqlite-non-constant-default things.at", "sqlite-rebuild things.name"]
    assert report.applied == ("add column things.maybe",)
    engine.dispose()


def test_a_migration_of_sqlite_is_all_or_nothing(sqlite_url: str) -> None:
    engine = sa.create_engine(sqlite_url)
    migrate(engine, things())
    run(engine, "INSERT INTO things VALUES (1, 'a'), (2, 'a')")
    with pytest.raises(MigrationError, match="create unique index uq_things_name"):
        create_missing(engine, [things(sa.Column("x", sa.Text), sa.UniqueConstraint("name"))])
    assert [column["name"] for column in sa.inspect(engine).get_columns("things")] == ["id", "name"]
    engine.dispose()


# -- PostgreSQL ------------------------------------------------------------------------------------------------------


def test_constraints_on_tables_with_rows_are_promised_then_proven(pg_engine: sa.Engine) -> None:
    found = things()
    owner = [sa.Column("id", sa.Integer, primary_key=True), sa.Column("thing_id", sa.Integer)]
    sa.Table("owners", found, *owner)
    migrate(pg_engine, found)
    richer = things(sa.CheckConstraint("id > 0", name="positive"), sa.UniqueConstraint("name"))
    column = sa.Column("thing_id", sa.Integer, sa.ForeignKey("things.id"))
    sa.Table("owners", richer, sa.Column("id", sa.Integer, primary_key=True), column)
    assert migrate(pg_engine, richer).applied == (
        "create unique index uq_things_name on things",
        "add foreign key fk_owners_thing_id_things on owners",
        "add check positive on things",
        "add unique constraint uq_things_name on things",
        "validate constraint fk_owners_thing_id_things on owners",
        "validate constraint positive on things",
    ) or migrate(pg_engine, richer)
    unproven = rows(pg_engine, "SELECT conname FROM pg_constraint WHERE NOT convalidated")
    assert unproven == []


def test_what_was_promised_and_not_proven_is_proven_by_the_next_run(pg_engine: sa.Engine) -> None:
    migrate(pg_engine, things())
    run(pg_engine, "ALTER TABLE things ADD CONSTRAINT positive CHECK (id > 0) NOT VALID")
    report = migrate(pg_engine, things(sa.CheckConstraint("id > 0", name="positive")))
    assert report.applied == ("validate constraint positive on things",)


def test_an_index_that_was_built_for_a_constraint_is_taken_over(pg_engine: sa.Engine) -> None:
    migrate(pg_engine, things())
    run(pg_engine, "CREATE UNIQUE INDEX uq_things_name ON things (name)")
    report = migrate(pg_engine, things(sa.UniqueConstraint("name")))
    assert report.applied == ("add unique constraint uq_things_name on things",)


def break_index(engine: sa.Engine, sql: str) -> None:
    """Leave an invalid index behind, as a kill does."""
    run(engine, "INSERT INTO things VALUES (1, 'a'), (2, 'a')")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        with pytest.raises(sa.exc.IntegrityError):
            connection.exec_driver_sql(sql)
        connection.exec_driver_sql("DELETE FROM things WHERE id = 2")


@pytest.mark.parametrize("kind", ["constraint", "index"])
def test_a_half_made_index_is_made_again(pg_engine: sa.Engine, kind: str) -> None:
    migrate(pg_engine, things())
    break_index(pg_engine, "CREATE UNIQUE INDEX CONCURRENTLY it ON things (name)")
    wanted = sa.UniqueConstraint("name", name="it") if kind == "constraint" else sa.Index("it", "name", unique=True)
    report = migrate(pg_engine, things(wanted))
    assert report.applied[0].startswith("create ")
    assert valid(pg_engine, "it")
    assert len(sa.inspect(pg_engine).get_unique_constraints("things")) == (kind == "constraint")


def test_enum_types_and_labels_come_before_the_columns_that_use_them(pg_engine: sa.Engine) -> None:
    def schema(*labels: str) -> sa.MetaData:
        kind = sa.Enum(*labels, name="mood")
        column = sa.Column("mood", kind, nullable=False, server_default=labels[0])
        more = sa.Column("moods", postgresql.ARRAY(kind))
        found = things(column, more)
        sa.Table("more", found, sa.Column("id", sa.Integer, primary_key=True), sa.Column("mood", kind))
        return found

    migrate(pg_engine, things())
    run(pg_engine, "INSERT INTO things (id) VALUES (1)")
    assert migrate(pg_engine, schema("good", "bad")).refused == ()
    report = migrate(pg_engine, schema("best", "good", "so-so", "bad"))
    assert report.applied == ("add label best to mood", "add label so-so to mood")
    assert rows(pg_engine, "SELECT unnest(enum_range(NULL::mood))::text") == [
        ("best",),
        ("good",),
        ("so-so",),
        ("bad",),
    ]
    assert rules(migrate(pg_engine, schema("best", "good"))) == [
        "drop-enum-label mood.so-so",
        "drop-enum-label mood.bad",
    ]


def test_a_type_is_widened_where_no_row_is_read(pg_engine: sa.Engine) -> None:
    migrate(pg_engine, things(sa.Column("a", sa.String(10)), sa.Column("b", sa.Numeric(5, 2)), sa.Column("c", sa.Text)))
    report = migrate(
        pg_engine, things(sa.Column("a", sa.Text), sa.Column("b", sa.Numeric(9, 2)), sa.Column("c", sa.String(5)))
    )
    assert report.applied == ("widen column things.a to TEXT", "widen column things.b to NUMERIC(9, 2)")
    assert rules(report) == ["narrower-type things.c"]
    assert report.blocked == ()  # as it is while an old release runs on a newer database


def test_what_would_rewrite_the_table_is_refused(pg_engine: sa.Engine) -> None:
    migrate(pg_engine, things())
    report = migrate(
        pg_engine,
        things(
            sa.Column("a", sa.Uuid, server_default=sa.text("gen_random_uuid()")),
            sa.Column("b", sa.Integer, sa.Identity()),
            sa.Column("c", sa.Integer, sa.Computed("id + 1", persisted=True)),
            sa.Column("d", sa.DateTime, server_default=sa.func.now()),
        ),
    )
    assert rules(report) == ["volatile-default things.a", "add-an-identity things.b", "add-stored-generated things.c"]
    assert report.applied == ("add column things.d",)


def test_not_null_in_many_steps_keeps_old_writers_going(pg_engine: sa.Engine) -> None:
    migrate(pg_engine, things(sa.Column("opt", sa.Text)))
    run(
        pg_engine,
        "INSERT INTO things (id, opt) SELECT i, CASE WHEN i % 2 = 0 THEN 'x' END FROM generate_series(1, 25) i",
    )
    seen: list[tuple[str, int, int]] = []
    found = things(
        sa.Column("level", sa.Integer, nullable=False, default=3),
        sa.Column("opt", sa.Text, nullable=False, default="a:b"),
    )
    report = migrate(pg_engine, found, not_null="multistep", batch_size=10, progress=lambda *given: seen.append(given))
    assert report.refused == ()
    assert report.rewritten == ("things",)
    assert [done for text, done, _ in seen if text == "fill things.level"] == [10, 20, 25]
    assert rows(pg_engine, "SELECT level, opt, count(*) FROM things GROUP BY 1, 2 ORDER BY 2") == [
        (3, "a:b", 13),
        (3, "x", 12),
    ]
    run(pg_engine, "INSERT INTO things (id) VALUES (99)")
    assert rows(pg_engine, "SELECT level, opt FROM things WHERE id = 99") == [(3, "a:b")]
    assert [c["nullable"] for c in sa.inspect(pg_engine).get_columns("things")] == [False, True, False, False]
    assert sa.inspect(pg_engine).get_check_constraints("things") == []


def test_extensions_and_schemas_come_first(pg_engine: sa.Engine) -> None:
    found = metadata()
    sa.Table(
        "t", found, sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Text, index=True), schema="deep"
    )
    report = migrate(pg_engine, found, extensions=("plpgsql",))
    assert report.applied == ("create schema deep", "create table deep.t", "create index ix_t_n on deep.t")
    sa.Table("t", found, sa.Column("m", sa.Text, unique=True), schema="deep", extend_existing=True)
    assert migrate(pg_engine, found).refused == ()


def test_extensions_that_types_and_indexes_belong_to_come_by_themselves(pg_engine: sa.Engine) -> None:
    migrate(pg_engine, things())
    report = migrate(
        pg_engine,
        things(
            sa.Column("email", postgresql.CITEXT),
            sa.Index("ix_trigrams", "name", postgresql_using="gin", postgresql_ops={"name": "gin_trgm_ops"}),
        ),
    )
    assert report.applied == (
        "create extension citext",
        "create extension pg_trgm",
        "add column things.email",
        "create index ix_trigrams on things",
    )
    assert valid(pg_engine, "ix_trigrams")


def test_a_schema_that_alembic_versions_is_left_to_alembic(engine: sa.Engine) -> None:
    run(engine, "CREATE TABLE alembic_version (version_num varchar(32))", "INSERT INTO alembic_version VALUES ('0001')")
    report = create_missing(engine, [things()])
    assert report.applied == ()
    assert rules(report) == ["alembic-versioned alembic_version.None"]
    assert migrate(engine, things(), alongside_alembic=True).applied == ("create table things",)
    assert create_missing(engine, [things()]).refused == ()


def test_today_is_the_databases(pg_engine: sa.Engine) -> None:
    found = metadata()
    sa.Table(
        "events",
        found,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("name", sa.Text),
        postgresql_partition_by="RANGE (at)",
    )
    report = migrate(pg_engine, found, partitions_ahead=1)
    assert len(report.applied) == 4
    now = dt.datetime.now(dt.UTC)
    with pg_engine.begin() as connection:
        connection.execute(
            sa.insert(found.tables["events"]), [{"id": 1, "at": now}, {"id": 2, "at": now.replace(year=1990)}]
        )
    assert rows(pg_engine, "SELECT id FROM events_default") == [(2,)]
    richer = metadata()
    table = found.tables["events"].to_metadata(richer)
    sa.Index("ix_events_name", table.c.name)
    report = migrate(pg_engine, richer, partitions_ahead=1)
    assert report.refused == ()
    assert valid(pg_engine, "ix_events_name")
    assert len(migrate(pg_engine, richer, partitions_ahead=3).applied) == 2


def events(**options: Any) -> sa.MetaData:
    found = metadata()
    sa.Table(
        "events",
        found,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), primary_key=True),
        postgresql_partition_by="RANGE (at)",
        **options,
    )
    return found


def test_coming_partitions_are_created_where_alembic_versions_the_schema(pg_engine: sa.Engine) -> None:
    migrate(pg_engine, events(info={"datalayer": {"partition_interval": "day"}}), partitions_ahead=0)
    run(
        pg_engine,
        "CREATE TABLE alembic_version (version_num varchar(32))",
        "INSERT INTO alembic_version VALUES ('1')",
    )
    found = events(info={"datalayer": {"partition_interval": "day"}})
    more = things(into=found)
    report = create_coming(pg_engine, [more], MigrateOptions(partitions_ahead=2))
    assert [text.split()[:2] for text in report.applied] == [["create", "partition"]] * 2
    assert create_coming(pg_engine, [more], MigrateOptions(partitions_ahead=2)).applied == ()
    assert len(rows(pg_engine, "SELECT 1 FROM pg_class WHERE relispartition AND relkind = 'r'")) == 4


def test_triggers_are_on_partitioned_tables_and_in_other_schemas(pg_engine: sa.Engine) -> None:
    found = events(info={"datalayer": {"external_writes": True}}, schema="deep")
    assert migrate(pg_engine, found, partitions_ahead=0).refused == ()
    run(pg_engine, "INSERT INTO deep.events VALUES (1, now())", "TRUNCATE deep.events")
