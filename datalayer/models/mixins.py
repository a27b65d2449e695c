"""Columns that many models share: timestamps, soft deletion, an optimistic lock.

They can be combined in any order, with Model or any other declarative base, and with MappedAsDataclass (where their
columns are no fields of the dataclass: nobody passes them to the constructor)::

    class Player(Timestamps, SoftDelete, Versioned, Model): ...
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, cast

from sqlalchemy import BigInteger, ColumnElement, Index, Table, event, func, text
from sqlalchemy.orm import Mapper, declared_attr
from sqlalchemy.schema import conv

from datalayer.errors import ConfigError
from datalayer.models.base import UTCDateTime
from datalayer.models.columns import column

# Beyond the model's own columns, which have 0: the shared ones come last in the table.
_LAST = 100
# SQL defaults, so that a migration can add the columns to a table that has rows.
_NOW: dict[str, Any] = {"nullable": False, "server_default": func.now()}


def _shared(*args: Any, **options: Any) -> declared_attr[Any]:
    # A function without annotations: an annotated declared_attr of a plain mixin may not enter a mapped dataclass.
    return declared_attr(lambda cls: column(*args, sort_order=_LAST, **options))


class Timestamps:
    """``created_at``, set by the first insert, and ``updated_at``, set by every write. Both UTC."""

    created_at = cast("declared_attr[datetime]", _shared(auto_now_add=True, **_NOW))
    updated_at = cast("declared_attr[datetime]", _shared(auto_now=True, **_NOW))


class SoftDelete:
    """``deleted_at``: a row with a value there counts as deleted. Live rows have a partial index on their key.

    Only repositories leave deleted rows out by themselves; a plain SELECT adds ``.where(Player.live())``.
    """

    __datalayer_soft_delete__: ClassVar[str] = "deleted_at"

    deleted_at = cast("declared_attr[datetime | None]", _shared(UTCDateTime, nullable=True))

    @property
    def is_deleted(self) -> bool:
        """Of this object as it was read."""
        return self.deleted_at is not None

    @classmethod
    def live(cls) -> ColumnElement[bool]:
        """The criterion of the rows that are not deleted."""
        return cls.deleted_at.is_(None)


class Versioned:
    """``version``: an optimistic lock. A write of an object that somebody else wrote since it was read is refused."""

    version = cast("declared_attr[int]", _shared(BigInteger, nullable=False, server_default=text("1")))

    @declared_attr.directive
    def __mapper_args__(cls) -> dict[str, Any]:
        found = cls.__table__.columns.get("version")  # type: ignore[attr-defined]  # set by the declarative base
        return {} if found is None else {"version_id_col": found}


@event.listens_for(SoftDelete, "after_mapper_constructed", propagate=True)
def _index_live_rows(mapper: Mapper[Any], cls: type[SoftDelete]) -> None:
    # By event and not in __table_args__, where a model's own __table_args__ would silently replace it.
    table = mapper.local_table
    deleted_at = table.columns.get("deleted_at")
    if not isinstance(table, Table) or deleted_at is None:
        return
    name = conv(f"ix_{table.name}_live")
    if all(index.name != name for index in table.indexes):
        live = deleted_at.is_(None)
        Index(name, *table.primary_key.columns, postgresql_where=live, sqlite_where=live)


@event.listens_for(Versioned, "after_mapper_constructed", propagate=True)
def _require_version(mapper: Mapper[Any], cls: type[Versioned]) -> None:
    # A model's own __mapper_args__ replaces that of the mixin, and the lock would be gone without a word.
    if mapper.version_id_col is None:
        raise ConfigError(
            f"{cls.__name__}: its own __mapper_args__ switches the lock of Versioned off; write it as "
            '@declared_attr.directive def __mapper_args__(cls): return {"version_id_col": cls.__table__.c.version, ...}'
        )
