"""Log lines under ``datalayer.*``: one per change of state, with structured fields and without secrets."""

from __future__ import annotations

import logging
import threading
from typing import Any

from ..contracts.urls import MASK, is_secret_name, redact_text, redact_url

__all__ = ["StateLog", "get_logger", "log_event", "redact_text", "redact_url"]

Logger = logging.Logger | logging.LoggerAdapter[Any]


def get_logger(name: str = "", *, root: Logger | None = None) -> Logger:
    """The logger of a part, ``datalayer.<name>``; with ``root`` (the application's choice) that one, for all parts."""
    return root or logging.getLogger(f"datalayer.{name}" if name else "datalayer")


def log_event(logger: Logger, level: int, event: str, message: str, /, **fields: Any) -> None:
    """Log ``message`` and the fields in one line, and give formatters the same as attributes of the record.

    ``record.event`` is the stable name of what happened, ``record.datalayer`` the fields as a dict. URLs are redacted,
    fields whose name says secret are masked, bytes appear as their number.
    """
    if not logger.isEnabledFor(level):
        return
    shown = {name: _shown(name, value) for name, value in fields.items()}
    details = ", ".join(f"{name}={value}" for name, value in shown.items())
    line = redact_text(message) + (f" ({details})" if details else "")
    # As an argument: a per cent sign in the text is then no format. Line breaks would forge a second entry.
    logger.log(level, "%s", line.replace("\r", "\\r").replace("\n", "\\n"), extra={"event": event, "datalayer": shown})


class StateLog:
    """Logs a subject's state when it changes, and nothing while it stays. Thread-safe; logs outside its lock."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._states: dict[str, str] = {}

    def change(self, subject: str, state: str, message: str, /, *, level: int = logging.INFO, **fields: Any) -> bool:
        """Whether ``state`` is news for ``subject``; if so it was logged as the event ``<subject>.<state>``."""
        with self._lock:
            previous = self._states.get(subject)
            self._states[subject] = state
        if previous == state:
            return False
        known = {"subject": subject, "state": state, "previous": previous}
        log_event(self._logger, level, f"{subject}.{state}", message, **{**fields, **known})
        return True

    def known(self, subject: str) -> bool:
        """Whether anything was said of the subject."""
        return subject in self._states

    def assume(self, subject: str, state: str) -> None:
        """Take a state as known without a line, such as the one that is expected at start."""
        with self._lock:
            self._states[subject] = state

    def reset_after_fork(self) -> None:
        """In the child: keep what is known, under a lock that nobody in the parent can be holding."""
        self._lock = threading.Lock()


def _shown(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if is_secret_name(name):
        return MASK
    if isinstance(value, bytes | bytearray):
        return f"<{len(value)} bytes>"
    return redact_text(str(value))
