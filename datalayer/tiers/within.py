"""Rows by key inside of a transaction: by the driver, on the transaction's own connection.

What an ORM statement costs is mostly SQLAlchemy's own work on it, which is the same every time. It is not saved while
anybody listens to statements, on the engine or on the connection, or has them logged: what runs must be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import sqlalchemy as sa

from ..models.schema import Schema
from .failures import raised_by_driver
from .l3 import Statement, Values


class Within:
    """Runs the statements that read one row by key. Thread-safe. PostgreSQL through psycopg only.

    ``watching`` frees a connection that gets no answer; ``own_listeners`` of the engine's statement listeners are the
    layer's.
    """

    def __init__(
        self,
        engine: sa.Engine,
        watching: Callable[[Any], AbstractContextManager[None]],
        *,
        own_listeners: int,
        make: Callable[..., Statement] | None = None,
    ) -> None:
        self._engine = engine
        self._watching = watching
        self._own_listeners = own_listeners
        self._make = make or Statement
        self._known: dict[Any, Statement] = {}

    def rows(self, connection: sa.Connection, schema: Schema, statement: Any, key: Values) -> list[Values] | None:
        """The rows of one of the schema's statements; None when SQLAlchemy has to run it. Raises what it would."""
        if connection._echo or len(connection.dispatch.before_cursor_execute) > self._own_listeners:
            return None
        known = self._known.get(statement)
        if known is None:
            known = self._known[statement] = self._make(self._engine, schema, statement, schema.parameters)
        driver: Any = connection.connection.dbapi_connection
        try:
            with self._watching(driver):
                return known.run(driver, key)
        except Exception as error:
            failure = raised_by_driver(error, connection)
            if failure is error:
                raise
            raise failure from error
        except BaseException as error:  # interrupted half-way: nobody knows what the connection would say next
            connection.invalidate(error)
            raise
