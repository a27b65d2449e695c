"""How a URL is shown: with everything that a stranger needs to find the server, and nothing to get in."""

from __future__ import annotations

import re
from urllib.parse import unquote

MASK = "***"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+._-]*://[^\s'\"<>]+")
_WORDS = r"pass|pwd|secret|token|credential|api_?key|access_?key|odbc_connect"
_SECRET = re.compile(_WORDS, re.IGNORECASE)
_ASSIGNMENT = re.compile(rf"(\w*(?:{_WORDS})\w*\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&;]+)", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether an option of that name holds something to hide, as ``password`` and ``sslpassword`` do."""
    return _SECRET.search(name) is not None


def redact_url(url: str) -> str:
    """The URL with its password, and every secret among its query parameters, as ``***``.

    Takes SQLAlchemy and Redis URLs (also with several hosts) and ``key=value`` connection strings. Text that is not a
    well-formed URL loses more rather than less: everything before the last ``@`` counts as credentials.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _without_scheme(url)
    credentials, at, rest = rest.rpartition("@")
    user = _shown_user(credentials, scheme) + at if at else ""
    place, mark, query = rest.partition("?")
    return f"{scheme}://{user}{place}{mark}{_shown_query(query)}"


def redact_text(text: str) -> str:
    """The text with every URL in it shown as by :func:`redact_url`."""
    return _URL.sub(lambda match: redact_url(match.group()), text) if "://" in text else text


def _without_scheme(text: str) -> str:
    credentials, at, place = _ASSIGNMENT.sub(rf"\1{MASK}", text).rpartition("@")
    return f"{MASK}@{place}" if at and credentials else at + place


def _shown_user(credentials: str, scheme: str) -> str:
    user, colon, _ = credentials.partition(":")
    if colon:
        return f"{user}:{MASK}"
    # A lone word is the user of a database, but many write the password of a Redis that way.
    return MASK if scheme.startswith(("redis", "unix", "valkey")) else user


def _shown_query(query: str) -> str:
    return "".join(_shown_parameter(part) for part in re.split(r"([&;])", query))


def _shown_parameter(part: str) -> str:
    name, equals, _ = part.partition("=")
    return f"{name}={MASK}" if equals and is_secret_name(unquote(name)) else part
