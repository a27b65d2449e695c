"""A layer's own cache_scope makes tenants separate caches of every model."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from datalayer import CachePolicy, ConfigError, DataLayer, Model, Session, WriteMode, column
from datalayer.testing.counting import Statements

tenant: list[str | None] = [None]


class Rented(Model):
    __tablename__ = "scope_rented"
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


class Own(Model):
    __tablename__ = "scope_own"
    __cache__ = CachePolicy(cache_scope=lambda: "one for all")
    id: Mapped[int] = column(primary_key=True)
    name: Mapped[str]


class Late(Model):
    __tablename__ = "scope_late"
    __cache__ = CachePolicy(write_mode=WriteMode.BEHIND)
    id: Mapped[int] = column(primary_key=True)


@pytest.fixture
def layer(any_url: str) -> Iterator[DataLayer]:
    tenant[0] = None
    with DataLayer(any_url, models=[Rented, Own], cache_scope=lambda: tenant[0]) as layer:
        Model.metadata.create_all(layer.engine, tables=[Rented.__table__, Own.__table__])  # type: ignore[list-item]
        for model in (Rented, Own):
            with layer.engine.begin() as connection:
                connection.execute(sa.insert(model).values(id=1, name="t"))
        yield layer


def test_tenants_never_share_an_entry_and_a_write_reaches_all(layer: DataLayer) -> None:
    rows = layer.repository(Rented)
    with Statements(layer.engine) as statements:
        for scope, expected in (("a", 1), ("a", 0), ("b", 1), (None, 1), ("b", 0)):
            tenant[0] = scope
            assert rows.get_one(1).name == "t"
            with layer.session() as session:
                assert session.get_one(Rented, 1).name == "t"
            assert statements.taken() == expected
    rows.update(1, name="changed")
    for scope in ("a", "b", None):
        tenant[0] = scope
        assert rows.get_one(1).name == "changed"


def test_a_models_own_scope_counts_more(layer: DataLayer) -> None:
    rows = layer.repository(Own)
    with Statements(layer.engine) as statements:
        for scope in ("a", "b", None):
            tenant[0] = scope
            assert rows.get_one(1).name == "t"
        assert statements.taken() == 1


@pytest.mark.postgres
def test_a_table_with_row_level_security_is_cached_for_each_scope(pg_url: str) -> None:
    tenant[0] = "a"
    with DataLayer(pg_url, models=[Rented], cache_scope=lambda: tenant[0]) as layer:
        Model.metadata.create_all(layer.engine, tables=[Rented.__table__])  # type: ignore[list-item]
        with layer.engine.begin() as connection:
            connection.execute(sa.insert(Rented).values(id=1, name="t"))
            connection.execute(sa.text("ALTER TABLE scope_rented ENABLE ROW LEVEL SECURITY"))
        assert layer.explain(Rented) == "Rented is cached"
        rows = layer.repository(Rented)
        rows.get(1)
        with Statements(layer.engine) as statements:
            rows.get(1)
            assert statements.taken() == 0
            tenant[0] = "b"
            rows.get(1)
            assert statements.taken() == 1


@pytest.fixture
def tenant_url(pg_url: str) -> Iterator[str]:
    """The database as a role sees it that only sees rows of the tenant which its transaction names."""
    role = f"app_{secrets.token_hex(4)}"
    admin = sa.create_engine(pg_url)
    Model.metadata.create_all(admin, tables=[Rented.__table__])  # type: ignore[list-item]
    with admin.begin() as connection:
        for text in (
            f"CREATE ROLE {role} LOGIN",
            f"GRANT ALL ON scope_rented TO {role}",
            "ALTER TABLE scope_rented ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY own ON scope_rented USING (name = current_setting('app.tenant', true))",
            "INSERT INTO scope_rented VALUES (1, 'a'), (2, 'b')",
        ):
            connection.execute(sa.text(text))
    yield sa.make_url(pg_url).set(username=role).render_as_string(hide_password=False)
    with admin.begin() as connection:
        connection.execute(sa.text(f"DROP OWNED BY {role}"))
        connection.execute(sa.text(f"DROP ROLE {role}"))
    admin.dispose()


def name_tenant(_session: Session, _transaction: object, connection: sa.Connection) -> None:
    connection.execute(sa.text("SELECT set_config('app.tenant', :name, true)"), {"name": tenant[0]})


@pytest.mark.postgres
@pytest.mark.parametrize("scoped", [True, False])
def test_a_role_never_reads_what_a_policy_hides_from_its_tenant(tenant_url: str, scoped: bool) -> None:
    options: dict[str, Any] = {"cache_scope": lambda: tenant[0]} if scoped else {}
    sa.event.listen(Session, "after_begin", name_tenant)
    try:
        with DataLayer(tenant_url, models=[Rented], **options) as layer:
            rows = layer.repository(Rented)
            for tenant[0] in ("a", "b", "a", "b"):
                mine, others = (1, 2) if tenant[0] == "a" else (2, 1)
                for _ in range(2):
                    assert rows.get_one(mine).name == tenant[0]
                    assert rows.get(others) is None
                    assert rows.get(others, consistency="database") is None
                    assert list(rows.get_many([1, 2])) == [mine]
                    assert [row.id for row in rows.search()] == [mine]
                    assert [row.id for row in rows.search_cached()] == [mine]
                    with layer.session() as session:
                        assert session.get_one(Rented, mine, with_for_update=True).name == tenant[0]
                        assert session.get(Rented, others) is None
                        assert session.get(Rented, others, with_for_update=True) is None
    finally:
        sa.event.remove(Session, "after_begin", name_tenant)


def test_scopes_and_write_behind_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="write_mode: found 'behind' with cache_scope"):
        DataLayer("sqlite://", models=[Rented], cache_scope=lambda: "a", write_mode="behind")
    with pytest.raises(ConfigError, match="Late cannot be written behind: the layer has a cache_scope"):
        DataLayer("sqlite://", models=[Late], cache_scope=lambda: "a")
