"""URLs that are shown without what lets somebody in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL

from datalayer.observe.logs import redact_text, redact_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://user:pw@host:5432/db", "postgresql+psycopg://user:***@host:5432/db"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        (
            "postgresql://host/db?user=u&password=pw&sslmode=require",
            "postgresql://host/db?user=u&password=***&sslmode=require",
        ),
        ("postgresql://h/db?sslpassword=pw;PASSWORD=pw", "postgresql://h/db?sslpassword=***;PASSWORD=***"),
        ("postgresql://h/db?p%61ssword=pw", "postgresql://h/db?p%61ssword=***"),
        ("postgresql://user:p@w/x?y@host/db", "postgresql://user:***@host/db"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Dpw", "mssql+pyodbc:///?odbc_connect=***"),
        ("sqlite:///app.db", "sqlite:///app.db"),
        ("sqlite://", "sqlite://"),
        ("redis://:pw@cache:6379/0", "redis://:***@cache:6379/0"),
        ("rediss://user:pw@cache", "rediss://user:***@cache"),
        ("redis://pw@cache", "redis://***@cache"),
        ("unix://:pw@/run/redis.sock?db=1&password=pw", "unix://:***@/run/redis.sock?db=1&password=***"),
        (
            "redis+sentinel://:pw@a:1,b:2/m?sentinel_password=pw",
            "redis+sentinel://:***@a:1,b:2/m?sentinel_password=***",
        ),
        ("host=h user=u password=pw dbname=d", "host=h user=u password=*** dbname=d"),
        ("host=h password='p w\\' x' dbname=d", "host=h password=*** dbname=d"),
        ("user:pw@host", "***@host"),
        ("localhost:6379", "localhost:6379"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str):
    assert redact_url(url) == shown


_SECRETS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1).map(lambda text: f"§{text}§")


@given(_SECRETS)
def test_no_password_that_sqlalchemy_renders_is_shown(password: str):
    url = URL.create("postgresql+psycopg", "user", password, "host", 5432, "db", query={"password": password})
    rendered = url.render_as_string(hide_password=False)
    shown = redact_url(rendered)
    assert shown == "postgresql+psycopg://user:***@host:5432/db?password=***"


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_password_that_nobody_encoded_is_not_shown_either(password: str):
    assert redact_url(f"redis://user:<{password}>@host:6379") == "redis://user:***@host:6379"


def test_urls_within_a_text_are_redacted_and_the_rest_stays():
    text = "cannot reach 'redis://:pw@a:1/0', nor postgresql://u:pw@b/d; see https://example.org/x?a=b"
    shown = "cannot reach 'redis://:***@a:1/0', nor postgresql://u:***@b/d; see https://example.org/x?a=b"
    assert redact_text(text) == shown
    assert redact_text("100 % fine") == "100 % fine"
