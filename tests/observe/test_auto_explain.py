"""PostgreSQL logs plans where the layer may ask for it, and the layer works where it may not."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Mapped

from datalayer import DataLayer, Model, column


class Explained(Model):
    __tablename__ = "explained"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


def plans(layer: DataLayer, statement: str, **values: Any) -> list[str]:
    """What the server tells the connection that it logs while a statement runs."""
    said: list[str] = []
    with layer.engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        connection.execute(sa.text("SET client_min_messages = log"))
        driver.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
        connection.execute(sa.text(statement), values)
        connection.rollback()
        connection.invalidate()
    return [text for text in said if text.startswith("duration:")]


def setting(connection: Any, name: str) -> str:
    (value,) = connection.execute(f"SHOW auto_explain.{name}").fetchone()
    return str(value)


@pytest.fixture
def powerless(pg_url: str) -> Iterator[str]:
    """The database's URL for a role that may load nothing."""
    role, word = f"r{secrets.token_hex(4)}", secrets.token_hex(8)
    plain = make_url(pg_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{word}'")
        connection.execute(f"GRANT ALL ON SCHEMA public TO {role}")
    yield make_url(pg_url).set(username=role, password=word).render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"DROP OWNED BY {role}")
        connection.execute(f"DROP ROLE {role}")


def test_plans_of_slow_statements_are_logged_with_what_was_asked_for_and_no_parameters(pg_url: str) -> None:
    options = {"auto_explain_min_duration": "20ms", "auto_explain_timing": False}
    with DataLayer(pg_url, models=[Explained], auto_explain=True, **options) as layer:
        (plan,) = plans(layer, "SELECT pg_sleep(0.03) WHERE :n <> 'x'", n="Tr0ub4dor")
        assert "Result" in plan
        assert "actual rows=" in plan
        assert "actual time=" not in plan
        assert plans(layer, "SELECT 1") == []
        with layer.engine.connect() as connection:
            driver = connection.connection.dbapi_connection
            assert setting(driver, "log_min_duration") == "20ms"
            assert (setting(driver, "log_analyze"), setting(driver, "log_buffers")) == ("on", "on")
            if connection.dialect.server_version_info >= (16,):  # type: ignore[operator]
                assert setting(driver, "log_parameter_max_length") == "0"


def test_connections_of_the_fast_reads_are_prepared_as_well(pg_url: str) -> None:
    with DataLayer(pg_url, models=[Explained], auto_explain=True, auto_explain_analyze=False) as layer:
        assert layer._parts.reading is not None
        pooled = layer._parts.reading.raw_connection()
        assert setting(pooled.dbapi_connection, "log_min_duration") == "100ms"
        assert setting(pooled.dbapi_connection, "log_analyze") == "off"
        pooled.close()


def test_a_role_that_may_not_load_it_is_warned_once_and_served(
    powerless: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), DataLayer(powerless, models=[Explained], auto_explain=True) as layer:
        Model.metadata.create_all(layer.engine, tables=[Explained.__table__])  # type: ignore[list-item]
        layer.repository(Explained).create(Explained(id=1, name="a"))
        with layer.engine.connect(), layer.engine.connect() as second:
            assert second.execute(sa.text("SELECT name FROM explained")).scalar() == "a"
    told = [record.getMessage() for record in caplog.records if "auto_explain" in record.getMessage()]
    assert len(told) == 1
    assert "session_preload_libraries" in told[0]
    assert make_url(powerless).password not in caplog.text


def test_without_the_option_nothing_is_loaded(pg_url: str) -> None:
    with DataLayer(pg_url, models=[Explained]) as layer, layer.engine.connect() as connection:
        found = connection.execute(sa.text("SELECT count(*) FROM pg_settings WHERE name LIKE 'auto_explain.%'"))
        assert found.scalar() == 0


def test_another_database_is_used_without_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), DataLayer("sqlite://", models=[Explained], auto_explain=True) as layer:
        assert layer.ping() >= 0
    assert "auto_explain is set and does nothing" in caplog.text
