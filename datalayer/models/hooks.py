"""The application's own code around reads and writes, and what becomes of what it raises.

==================  =====================================  ============================================================
hook                called                                 when it raises
==================  =====================================  ============================================================
before_set(obj)     before a write, no tier touched yet    the write is aborted and the caller gets the exception
before_get(cls,id)  before a repository read               the read is aborted and the caller gets the exception
after_set(obj)      after a fully successful write         the write stands; logged and given to ``on_error``
on_write_error      a queued write used up its retries     the flusher goes on; logged and given to ``on_error``
(key, error)
==================  =====================================  ============================================================

A before hook refuses with a ValueError or a DataLayerError, which reach the caller as they are. Any other exception is
a fault of the hook and becomes a HookError, with the original as its cause. KeyboardInterrupt and the like always pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from datalayer.errors import ConfigError, DataLayerError, HookError
from datalayer.models.options import options

_log = logging.getLogger("datalayer.hooks")

OnError = Callable[[HookError], None]


@options
class Hooks:
    """Callables around the reads and writes of one model; each may be None. They run in the caller's thread
    (``on_write_error`` in the flusher's), so they must be thread-safe. ConfigError if one cannot be called."""

    before_set: Callable[[Any], object] | None = None
    after_set: Callable[[Any], object] | None = None
    before_get: Callable[[type[Any], Any], object] | None = None
    on_write_error: Callable[[Any, BaseException], object] | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            hook = getattr(self, field.name)
            if hook is not None and not callable(hook):
                raise ConfigError(f"Hooks: {field.name} is a {type(hook).__name__}, expected a callable or None")


def run_before_set(hooks: Hooks | None, obj: Any) -> None:
    """Raises what the hook raises, as the module says; nothing has been written when it does."""
    if hooks is not None and hooks.before_set is not None:
        _run(hooks.before_set, "before_set", type(obj).__name__, obj)


def run_before_get(hooks: Hooks | None, cls: type[Any], ident: Any) -> None:
    """Raises what the hook raises, as the module says."""
    if hooks is not None and hooks.before_get is not None:
        _run(hooks.before_get, "before_get", cls.__name__, cls, ident)


def run_after_set(hooks: Hooks | None, obj: Any, *, on_error: OnError | None = None) -> None:
    """Never raises an Exception: the write is done. A failing hook is logged and passed to ``on_error`` (a counter)."""
    if hooks is not None and hooks.after_set is not None:
        _run_reported(hooks.after_set, "after_set", type(obj).__name__, on_error, obj)


def run_on_write_error(
    hooks: Hooks | None, key: Any, error: BaseException, *, model: str, on_error: OnError | None = None
) -> None:
    """Never raises an Exception: other rows still wait. A failing hook is logged and passed to ``on_error``."""
    if hooks is not None and hooks.on_write_error is not None:
        _run_reported(hooks.on_write_error, "on_write_error", model, on_error, key, error)


def _run(hook: Callable[..., object], name: str, model: str, *args: Any) -> None:
    try:
        hook(*args)
    except (DataLayerError, ValueError):
        raise
    except Exception as error:
        raise _failure(hook, name, model, error) from error


def _run_reported(hook: Callable[..., object], name: str, model: str, on_error: OnError | None, *args: Any) -> None:
    try:
        hook(*args)
    except Exception as error:
        failure = _failure(hook, name, model, error)
        failure.__cause__ = error
        _log.error("%s", failure, exc_info=error)
        if on_error is not None:
            on_error(failure)


def _failure(hook: Callable[..., object], name: str, model: str, error: Exception) -> HookError:
    who = getattr(hook, "__qualname__", type(hook).__name__)
    return HookError(
        f"{name} hook {who} of {model} raised {type(error).__name__}; "
        "a before hook may refuse with ValueError or a DataLayerError, an after hook may not fail"
    )
