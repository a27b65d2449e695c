"""The process of a rolling deploy that still runs the old release: one column less."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Mapped

from datalayer import DataLayer, Model, column
from datalayer.testing.faults import die_with_parent


def old_model() -> type[Any]:
    """The model as it was."""

    class Account(Model):
        __tablename__ = "rolling_accounts"
        id: Mapped[int] = column(primary_key=True)
        name: Mapped[str]
        level: Mapped[int]

    return Account


def main(url: str, redis: str, prefix: str, orders: Any) -> None:
    """Do what the pipe says until it says None; answer with what the old release sees."""
    die_with_parent()
    model = old_model()
    with DataLayer(url, redis=redis, key_prefix=prefix, models=[model]) as layer:
        rows = layer.repository(model)
        while (order := orders.recv()) is not None:
            what, id, value = order
            if what == "get":
                row = rows.get(id, consistency=value)
                orders.send(row and (row.name, row.level))
            elif what == "many":
                found = rows.get_many(id, consistency=value)
                orders.send({i: (row.name, row.level) for i, row in found.items()})
            elif what == "update":
                rows.update(id, name=value)
                orders.send(None)
            elif what == "delete":
                orders.send(rows.delete(id))
            elif what == "create":
                rows.create(model(id=id, name=value, level=0))
                orders.send(None)
            else:
                (ladder,) = layer.caches.ladders()
                orders.send({"l3_reads": ladder.counts["l3_reads"]})
