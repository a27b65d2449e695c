"""Secrets in local variables: error reporters collect those of every frame that an exception came through."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type[Any])


def forgetful(call: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function that is given secrets: when it raises, no frame from it on has any value left.

    What the caller has in his own local variables is his business.
    """

    @wraps(call)
    def quiet(*args: P.args, **options: P.kwargs) -> R:
        try:
            return call(*args, **options)
        except BaseException as error:
            del args
            options.clear()
            forget_locals(error)
            raise

    return quiet


def forgetful_constructor(cls: C) -> C:
    """Decorates a class that is made of secrets."""
    for name in ("__new__", "__init__"):
        setattr(cls, name, forgetful(getattr(cls, name)))
    return cls


def forget_locals(error: BaseException) -> None:
    """Clear the local variables of the finished frames that an exception, and whatever led to it, came through."""
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        found = todo.pop()
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            traceback.clear_frames(found.__traceback__)
            todo += (found.__cause__, found.__context__)
