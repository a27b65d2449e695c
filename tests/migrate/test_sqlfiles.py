"""``migrate_from``: files run once, in order, checked before; and down again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from herd import Herd
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from datalayer import DataLayer
from datalayer.errors import (
    ConfigError,
    MigrationDirtyError,
    MigrationEditedError,
    MigrationError,
    MigrationFileError,
    MigrationOrderError,
)

Write = Callable[[str, str], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "sql"
    made.mkdir()
    return made


@pytest.fixture
def write(folder: Path) -> Write:
    def write(name: str, text: str) -> Path:
        path = folder / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def layer(any_url: str):  # type: ignore[no-untyped-def]
    with DataLayer(any_url) as layer:
        yield layer


def tables(layer: DataLayer) -> set[str]:
    return set(sa.inspect(layer.engine).get_table_names()) - {"schema_migrations"}


def states(layer: DataLayer, folder: Path | None = None) -> list[tuple[str, str, str]]:
    return [(r.version, r.name, r.state) for r in layer.migration_status(folder) if r.kind == "sql"]


def test_files_are_run_once_in_the_order_of_their_numbers(layer: DataLayer, folder: Path, write: Write) -> None:
    write("010_last.sql", "INSERT INTO a VALUES (3, '100%:x')")
    write("2_second.up.sql", "ALTER TABLE a ADD COLUMN note TEXT;")
    write("001_first.sql", "BEGIN;\nCREATE TABLE a (id INT);\nINSERT INTO a VALUES (1); COMMIT;")
    write("README.md", "not SQL")
    assert [state for *_, state in states(layer, folder)] == ["pending"] * 3
    assert layer.migrate_from(folder).applied == ("001_first", "2_second", "010_last")
    assert layer.migrate_from(folder).applied == ()
    with layer.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT id, note FROM a ORDER BY 1")).all() == [(1, None), (3, "100%:x")]
    first = layer.migration_status()[0]
    assert (first.kind, first.version, first.name, first.state) == ("sql", "001", "first", "applied")
    assert first.applied_at is not None
    assert first.duration_ms is not None
    assert len(first.checksum) == 64


def test_down_takes_back_the_latest_first_and_works_without_the_directory(
    layer: DataLayer, any_url: str, folder: Path, write: Write
) -> None:
    write("001_a.sql", "-- +up\nCREATE TABLE a (id INT);\n-- +down\nDROP TABLE a;")
    write("002_b.up.sql", "CREATE TABLE b (id INT)")
    write("002_b.down.sql", "DROP TABLE b")
    write("003_c.sql", "-- migrate:up\nCREATE TABLE c (id INT);\n-- migrate:down\nDROP TABLE c;")
    layer.migrate_from(folder)
    assert layer.migrate_down(1).applied == ("3_c",)
    assert tables(layer) == {"a", "b"}
    assert [state for *_, state in states(layer)] == ["applied", "applied", "pending"]
    with DataLayer(engine=layer.engine) as other:
        assert other.migrate_down(5).applied == ("2_b", "1_a")
    assert tables(layer) == set()
    assert layer.migrate_from(folder).applied == ("001_a", "002_b", "003_c")


def test_what_has_no_way_down_stops_before_anything_is_taken_back(layer: DataLayer, folder: Path, write: Write) -> None:
    write("001_a.sql", "CREATE TABLE a (id INT)")
    write("002_b.sql", "-- +up\nCREATE TABLE b (id INT);\n-- +down\nDROP TABLE b;")
    layer.migrate_from(folder)
    with pytest.raises(MigrationFileError, match=r"1_a has no way down; write 1_a\.down\.sql"):
        layer.migrate_down(2)
    assert tables(layer) == {"a", "b"}
    with pytest.raises(ConfigError, match="steps is 0"):
        layer.migrate_down(0)


def test_a_file_that_was_edited_after_is_refused(layer: DataLayer, folder: Path, write: Write) -> None:
    write("001_a.sql", "CREATE TABLE a (id INT);\n")
    layer.migrate_from(folder)
    write("001_a.sql", "CREATE TABLE a (id INT);  \r\n\r\n")
    assert layer.migrate_from(folder).applied == ()
    write("001_a.sql", "CREATE TABLE a (id BIGINT);\n")
    write("002_b.sql", "CREATE TABLE b (id INT);")
    assert states(layer, folder) == [("001", "a", "edited"), ("002", "b", "pending")]
    with pytest.raises(MigrationEditedError, match=r"001_a\.sql was changed after it was applied"):
        layer.migrate_from(folder)
    assert tables(layer) == {"a"}


def test_a_file_that_comes_too_late_is_refused_unless_it_is_meant(layer: DataLayer, folder: Path, write: Write) -> None:
    write("002_b.sql", "CREATE TABLE b (id INT)")
    layer.migrate_from(folder)
    write("001_a.sql", "CREATE TABLE a (id INT)")
    assert states(layer, folder) == [("001", "a", "out-of-order"), ("002", "b", "applied")]
    with pytest.raises(MigrationOrderError, match=r"001_a\.sql was not applied, but number 2 was"):
        layer.migrate_from(folder)
    assert layer.migrate_from(folder, out_of_order=True).applied == ("001_a",)


def test_an_old_release_starts_on_a_newer_database(layer: DataLayer, folder: Path, write: Write) -> None:
    write("001_a.sql", "CREATE TABLE a (id INT)")
    newer = write("002_b.sql", "CREATE TABLE b (id INT)")
    layer.migrate_from(folder)
    newer.unlink()
    assert layer.migrate_from(folder).applied == ()
    assert states(layer, folder) == [("001", "a", "applied"), ("2", "b", "missing")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["001_a.sql", "1_b.sql"], "number 1 is used more than once: 001_a.sql, 1_b.sql"),
        (["001_a.sql", "001_a.up.sql"], "used more than once"),
        (["first.sql"], r"first\.sql: expected a name such as 001_description\.sql"),
        (["001_a.down.sql"], "a way down and none up"),
    ],
)
def test_names_that_cannot_be_meant_are_refused(
    sqlite_url: str, folder: Path, write: Write, names: list[str], message: str
) -> None:
    write("000_zero.sql", "CREATE TABLE zero (id INT)")
    for name in names:
        write(name, "CREATE TABLE a (id INT)")
    with DataLayer(sqlite_url) as layer:
        with pytest.raises(MigrationFileError, match=message):
            layer.migrate_from(folder)
        assert tables(layer) == set()
        with pytest.raises(MigrationFileError, match="there is no such directory"):
            layer.migrate_from(folder / "nowhere")


def test_a_file_that_fails_leaves_nothing_behind(layer: DataLayer, folder: Path, write: Write) -> None:
    write("001_a.sql", "CREATE TABLE a (id INT)")
    write("002_b.sql", "CREATE TABLE b (id INT);\n\nINSERT INTO nowhere VALUES (1);\nCREATE TABLE c (id INT)")
    with pytest.raises(MigrationError, match=r"002_b\.sql, line 3: .* Nothing of the file was kept"):
        layer.migrate_from(folder)
    assert tables(layer) == {"a"}
    assert states(layer, folder) == [("001", "a", "applied"), ("002", "b", "pending")]
    write("002_b.sql", "CREATE TABLE b (id INT)")
    assert layer.migrate_from(folder).applied == ("002_b",)


def test_a_commit_inside_of_a_file_is_refused(layer: DataLayer, folder: Path, write: Write) -> None:
    write("001_a.sql", "CREATE TABLE a (id INT);\nCOMMIT;\nCREATE TABLE b (id INT);")
    with pytest.raises(MigrationFileError, match=r"001_a\.sql, line 2: 'COMMIT' would end the transaction"):
        layer.migrate_from(folder)
    assert tables(layer) == set()


def test_what_fails_outside_of_a_transaction_is_dirty_until_somebody_has_looked(
    layer: DataLayer, folder: Path, write: Write
) -> None:
    text = "-- datalayer: no-transaction\nCREATE TABLE a (id INT);\nINSERT INTO nowhere VALUES (1);"
    write("001_a.sql", text)
    with pytest.raises(MigrationError, match="It is marked dirty"):
        layer.migrate_from(folder)
    assert states(layer) == [("001", "a", "dirty")]
    for attempt in (lambda: layer.migrate_from(folder), layer.migrate_down):
        with pytest.raises(MigrationDirtyError, match="1_a"):
            attempt()
    layer.migrate_repair(1, applied=False)
    with layer.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE a"))
    write("001_a.sql", text.replace("INSERT INTO nowhere VALUES (1);", ""))
    assert layer.migrate_from(folder).applied == ("001_a",)
    assert tables(layer) == {"a"}
    with pytest.raises(MigrationError, match="number 7 was never begun"):
        layer.migrate_repair(7, applied=True)


def test_an_index_is_built_concurrently(pg_url: str, folder: Path, write: Write) -> None:
    write("001_a.sql", "CREATE TABLE a (id INT)")
    write("002_i.sql", "-- datalayer: no-transaction\nCREATE INDEX CONCURRENTLY i ON a (id);\n-- +down\n")
    write(
        "002_i.sql",
        "-- datalayer: no-transaction\n-- +up\nCREATE INDEX CONCURRENTLY i ON a (id);\n"
        "-- +down\nDROP INDEX CONCURRENTLY i;",
    )
    with DataLayer(pg_url) as layer:
        assert layer.migrate_from(folder).applied == ("001_a", "002_i")
        assert sa.inspect(layer.engine).get_indexes("a")[0]["name"] == "i"
    with DataLayer(pg_url) as layer:
        assert layer.migrate_down().applied == ("2_i",)
        assert sa.inspect(layer.engine).get_indexes("a") == []


def test_a_table_of_another_tool_is_not_touched(layer: DataLayer, folder: Path, write: Write) -> None:
    write("001_a.sql", "CREATE TABLE a (id INT)")
    with layer.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE schema_migrations (version BIGINT, dirty BOOLEAN)"))
    with pytest.raises(MigrationError, match=r"another tool keeps .* migrations_table"):
        layer.migrate_from(folder)
    with DataLayer(engine=layer.engine, migrations_table="ours") as other:
        assert other.migrate_from(folder).applied == ("001_a",)


@pytest.mark.parametrize(
    "any_url", ["sqlite-file", pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)
def test_six_processes_run_each_file_once(layer: DataLayer, folder: Path, write: Write) -> None:
    for number in range(1, 6):
        write(f"{number:03}_f.sql", f"CREATE TABLE t{number} (id INT); INSERT INTO t{number} VALUES (1)")
    with Herd(layer.engine.url.render_as_string(hide_password=False)) as herd:
        assert sum(done or 0 for done in herd.migrate(6, files=folder)) == 5
    assert len(layer.migration_status()) == 5


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def test_rows_that_a_file_changed_are_read_anew(any_url: str, folder: Path, write: Write) -> None:
    with DataLayer(any_url, models=Base) as layer:
        layer.migrate()
        with layer.begin() as session:
            session.add(Thing(id=1, name="old"))
        things = layer.repository(Thing)
        assert things.get(1).name == "old"  # type: ignore[union-attr]
        write("001_new.sql", "UPDATE things SET name = 'new' WHERE id = 1")
        layer.migrate_from(folder)
        assert things.get(1).name == "new"  # type: ignore[union-attr]


def test_the_settings_name_the_directory(sqlite_url: str, folder: Path, write: Write) -> None:
    write("001_a.sql", "CREATE TABLE a (id INT)")
    with DataLayer(sqlite_url, migrations_directory=str(folder)) as layer:
        assert layer.migrate_from().applied == ("001_a",)
    with DataLayer(sqlite_url) as layer, pytest.raises(ConfigError, match="needs a directory"):
        layer.migrate_from()


def test_the_status_shows_steps_for_the_models_and_revisions_too(sqlite_url: str) -> None:
    with DataLayer(sqlite_url, models=Base) as layer:
        assert layer.migration_status() == []
        layer.migrate()
        with layer.engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE alembic_version (version_num TEXT)"))
            connection.execute(sa.text("INSERT INTO alembic_version VALUES ('0007')"))
        found = [(r.kind, r.version, r.name, r.state) for r in layer.migration_status()]
        assert found == [
            ("models", "1", "create table things", "applied"),
            ("alembic", "0007", "revision", "applied"),
        ]


def test_drift_tells_what_is_missing_different_extra_and_unknown(any_url: str) -> None:
    with DataLayer(any_url, models=Base) as layer:
        assert layer.drift().missing == ("create table things",)
        layer.migrate()
        assert not layer.drift()
        assert str(layer.drift()) == "the database is what the models say"
        with layer.engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE strangers (id INT)"))
            connection.execute(sa.text("CREATE TABLE datalayer_of_ours (id INT)"))
            connection.execute(sa.text("ALTER TABLE things ADD COLUMN more TEXT"))
        drift = layer.drift()
        assert not drift
        assert drift.strangers == ("strangers",)
        assert [(refusal.rule, refusal.column) for refusal in drift.extra] == [("drop-column", "more")]
