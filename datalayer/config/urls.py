"""What a connection URL must look like before anybody tries to connect to it. No error quotes a URL."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from ..errors import ConfigError

REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+._-]*)://")
_PSYCOPG = re.compile(r"(postgres|postgresql)://")
_DATABASE = "a database URL such as postgresql+psycopg://user:password@host/name or sqlite:///app.db"
_REDIS = "a Redis URL such as redis://localhost:6379/0"


def database_url(value: object, *, name: str) -> str:
    """The URL as text, from text or SQLAlchemy's object. Without a driver, ``postgresql://`` gets psycopg 3."""
    render = getattr(value, "render_as_string", None)
    text = render(hide_password=False) if callable(render) else value
    _scheme(text, name, _DATABASE)
    return _PSYCOPG.sub("postgresql+psycopg://", str(text), count=1)


def redis_url(value: object, *, name: str) -> str:
    """The URL, if its scheme is one that the layer speaks and its port is a number."""
    scheme = _scheme(value, name, _REDIS)
    if scheme not in REDIS_SCHEMES:
        raise ConfigError(
            f"{name}: found a URL that begins with {scheme}://, expected one of {', '.join(REDIS_SCHEMES)}"
        )
    text = str(value)
    if scheme in ("redis", "rediss"):
        _check_port(text, name)
    return text


def with_password(url: str, password: str) -> str:
    """The Redis URL with that password in place of its own."""
    head, credentials, place = _split(url)
    return f"{head}{credentials.partition(':')[0]}:{quote(password, safe='')}@{place}"


def with_database(url: str, number: int, *, name: str) -> str:
    """The Redis URL with that logical database in place of its own, as ``?db=``, which every scheme understands."""
    if url.startswith("redis+cluster:") and number:
        raise ConfigError(f"{name}: found {number}, expected 0: a Redis Cluster has no other database")
    base, _, query = url.partition("?")
    kept = [part for part in query.split("&") if part and not part.startswith("db=")]
    return f"{base}?{'&'.join([*kept, f'db={number}'])}"


def _scheme(value: object, name: str, expected: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name}: found a {type(value).__name__}, expected {expected}")
    match = _SCHEME.match(value)
    if match is None:
        raise ConfigError(f"{name}: found text that does not begin with a scheme and ://, expected {expected}")
    return match[1].lower()


def _check_port(url: str, name: str) -> None:
    if not _has_port(url):
        raise ConfigError(
            f"{name}: found a URL whose host and port cannot be told, expected {_REDIS}; "
            "in a password, '/', '?', '#' and '@' are written as %2F, %3F, %23 and %40"
        )


def _has_port(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # An @ in the path is what a slash in a password leaves behind. Reading the port is what checks it.
        return "@" not in parts.path and parts.port != 0
    except ValueError:
        return False


def _split(url: str) -> tuple[str, str, str]:
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    credentials, _, hosts = authority.rpartition("@")
    return f"{scheme}://", credentials, hosts + rest[len(authority) :]
