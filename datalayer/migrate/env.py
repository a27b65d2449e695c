"""What an Alembic environment script does, so that ``migrations/env.py`` is a few lines."""

from __future__ import annotations

import os
from typing import Any

import sqlalchemy as sa

from ..crypto.column import BlindIndex, EncryptedText
from ..models.base import UTCDateTime
from .plan import OWN_TABLES

_DEFAULT_URL = "sqlite:///datalayer.db"


def run(context: Any, metadata: Any) -> None:
    """Run migrations online or offline. The URL is that of ``-x url=``, DATALAYER_URL, or ``alembic.ini``."""
    url = _url(context)
    options = {
        "target_metadata": metadata,
        "include_object": _ours,
        "compare_type": not url.startswith("sqlite"),
        "render_as_batch": url.startswith("sqlite"),
        "render_item": _rendered,
    }
    if context.is_offline_mode():
        context.configure(url=url, literal_binds=True, dialect_opts={"paramstyle": "named"}, **options)
        with context.begin_transaction():
            context.run_migrations()
        return
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool, hide_parameters=True)
    with engine.connect() as connection:
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()


def _url(context: Any) -> str:
    given = context.get_x_argument(as_dictionary=True).get("url") or os.environ.get("DATALAYER_URL")
    return str(given or context.config.get_main_option("sqlalchemy.url") or _DEFAULT_URL)


def _ours(_item: Any, name: str | None, kind: str, _reflected: bool, _other: Any) -> bool:
    return not (kind == "table" and name in OWN_TABLES)


def _rendered(kind: str, item: Any, context: Any) -> str | bool:
    """Our own column types as plain SQLAlchemy, so that old revisions never depend on this package."""
    if kind != "type":
        return False
    if isinstance(item, EncryptedText | BlindIndex):
        return "sa.Text()"
    if isinstance(item, UTCDateTime):
        return "sa.DateTime(timezone=True)"
    if isinstance(item, sa.JSON) and "postgresql" in item._variant_mapping:
        context.imports.add("from sqlalchemy.dialects import postgresql")
        return "sa.JSON().with_variant(postgresql.JSONB(), 'postgresql')"
    return False
