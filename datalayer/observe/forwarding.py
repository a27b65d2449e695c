"""Takes the library's log lines to the logger that an application named.

The parts of the library log under ``datalayer.*``, whichever layer they work for. So a layer's logger gets the lines of
the whole process while the layer is open, and with several layers each of their loggers gets them all.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

_ROOT = "datalayer"
_lock = threading.RLock()
_active: list[Forwarding] = []
_before: list[tuple[int, bool]] = []


class Forwarding(logging.Handler):
    """Hands records to ``target``, a logger, an adapter of one, or anything with their ``log`` and ``isEnabledFor``.

    While it is open, lines do not go on to the root logger as well; a level that nobody has set for ``datalayer`` is
    the target's. A target that is ``datalayer`` or below it gets its lines anyway: then nothing is done.
    """

    def __init__(self, target: Any) -> None:
        super().__init__()
        self._target = target
        self._busy = threading.local()

    def open(self) -> None:
        if _is_own(self._target):
            return
        root = logging.getLogger(_ROOT)
        with _lock:
            if not _active:
                _before.append((root.level, root.propagate))
            _active.append(self)
            root.addHandler(self)
            root.propagate = False
            if _before[0][0] == logging.NOTSET:
                root.setLevel(min(forwarding.wanted() for forwarding in _active))

    def close(self) -> None:
        """Idempotent; the last one leaves ``datalayer`` as the first found it."""
        with _lock:
            if self in _active:
                _active.remove(self)
                root = logging.getLogger(_ROOT)
                root.removeHandler(self)
                if not _active:
                    level, root.propagate = _before.pop()
                    root.setLevel(level)
        super().close()

    def wanted(self) -> int:
        """The least level that the target takes."""
        effective = getattr(self._target, "getEffectiveLevel", None)
        return max(1, effective()) if callable(effective) else 1

    def emit(self, record: logging.LogRecord) -> None:
        target = self._target
        if getattr(self._busy, "now", False) or not target.isEnabledFor(record.levelno):
            return
        self._busy.now = True  # a target that logs under datalayer itself must not be told of it
        try:
            if isinstance(target, logging.Logger):
                target.handle(record)
            else:
                extra = {k: v for k, v in vars(record).items() if k in ("event", "datalayer")}
                target.log(record.levelno, "%s", record.getMessage(), exc_info=record.exc_info, extra=extra)
        except Exception:
            self.handleError(record)
        finally:
            self._busy.now = False


def _is_own(target: Any) -> bool:
    name = str(getattr(getattr(target, "logger", target), "name", ""))
    return name == _ROOT or name.startswith(f"{_ROOT}.")


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
