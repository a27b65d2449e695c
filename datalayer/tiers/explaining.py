"""Has PostgreSQL log the plans of slow statements: loads its ``auto_explain`` module into each new connection.

Loading a module and turning its knobs is the superuser's, unless the server preloads it and the role was granted SET on
its parameters. Where it may not be done the layer says so once and goes on without.
"""

from __future__ import annotations

import logging
from typing import Any

import sqlalchemy as sa

log = logging.getLogger("datalayer.l3")

_LOADED = "SELECT count(*) FROM pg_settings WHERE name = 'auto_explain.log_min_duration'"
_PARAMETERS = "SELECT count(*) FROM pg_settings WHERE name = 'auto_explain.log_parameter_max_length'"


class AutoExplain:
    """Prepares the connections of an engine. ``least`` in seconds: faster statements are not explained.

    Parameters are never logged; literals in a statement's text are, by the server, as it logs them otherwise.
    """

    def __init__(self, engine: sa.Engine, *, least: float, analyze: bool, buffers: bool, timing: bool) -> None:
        self._engine = engine
        self._values = {
            "log_min_duration": f"{least * 1000:.0f}",
            "log_analyze": _flag(analyze),
            "log_buffers": _flag(analyze and buffers),
            "log_timing": _flag(analyze and timing),
        }
        self.refused = ""

    def install(self) -> None:
        """To be called before other pools are made in the image of the engine's."""
        sa.event.listen(self._engine, "connect", self._connected)

    def remove(self) -> None:
        sa.event.remove(self._engine, "connect", self._connected)

    def _connected(self, connection: Any, _record: Any) -> None:
        if self.refused:
            return
        try:
            self._prepare(connection)
        except self._engine.dialect.loaded_dbapi.Error as error:
            connection.rollback()
            self._give_up(str(error).partition("\n")[0])

    def _prepare(self, connection: Any) -> None:
        """Load the module, unless the server has done it, and set it. The driver's error if the role may not."""
        cursor = connection.cursor()
        cursor.execute(_LOADED)
        if not cursor.fetchone()[0]:
            # Without the module the parameters could be set all the same, and do nothing.
            cursor.execute("LOAD 'auto_explain'")
        cursor.execute(_PARAMETERS)
        values = self._values | ({"log_parameter_max_length": "0"} if cursor.fetchone()[0] else {})
        cursor.execute(
            "SELECT " + ", ".join(f"set_config('auto_explain.{k}', '{v}', false)" for k, v in values.items())
        )
        cursor.close()
        connection.commit()

    def _give_up(self, reason: str) -> None:
        self.refused = reason
        log.warning(
            "auto_explain cannot be used, no plans are logged (%s); connect as a superuser, or have the server preload "
            "the module (session_preload_libraries) and grant the role SET on its parameters",
            reason,
        )


def _flag(on: bool) -> str:
    return "on" if on else "off"
