"""One option of the settings: a dataclass field that checks and converts whatever is put into it.

It is a data descriptor, so that type checkers know both what may be given (``"5m"``) and what is there afterwards
(``300.0``).
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, overload

In = TypeVar("In")
Out = TypeVar("Out")


class Kind(Generic[In, Out]):
    """What an option takes (``In``) and what it becomes (``Out``). Stateless after construction."""

    def parse(self, value: Any, name: str) -> Out:
        """What is kept of a value that Python code gives; a kept value stays as it is. ConfigError naming ``name``."""
        raise NotImplementedError

    def from_text(self, text: str, name: str) -> Out:
        """What is kept of a text from a file or the environment. ConfigError naming ``name``."""
        return self.parse(text, name)

    def show(self, value: Out) -> str:
        """A kept value for a ``repr``, without secrets."""
        return repr(value)


class Option(Generic[In, Out]):
    """A field of that kind. ``optional``: None is kept as None."""

    def __init__(self, kind: Kind[Any, Any], default: Any, *, optional: bool = False) -> None:
        self.kind = kind
        self.default = default
        self.optional = optional
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> In: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Out: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        # Read on the class it is the default: that is how a dataclass learns it.
        return self.default if instance is None else instance.__dict__[self.name]

    def __set__(self, instance: object, value: In) -> None:
        instance.__dict__[self.name] = self.parse(value, self.name)

    def parse(self, value: Any, name: str) -> Any:
        """See :meth:`Kind.parse`; ``name`` is what an error calls the option."""
        return None if value is None and self.optional else self.kind.parse(value, name)

    def show(self, value: Any) -> str:
        """See :meth:`Kind.show`."""
        return "None" if value is None else self.kind.show(value)


def option(kind: Kind[In, Out], default: In) -> Option[In, Out]:
    """An option that always has a value."""
    return Option(kind, default)


def maybe(kind: Kind[In, Out]) -> Option[In | None, Out | None]:
    """An option that is None unless somebody sets it."""
    return Option(kind, None, optional=True)
