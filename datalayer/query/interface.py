"""A class that says how named queries are called, held against the files, for a type checker believes it."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from sqlalchemy.orm import Session

from ..errors import QueryError
from .files import Definition
from .results import Shape, Values, shape_from_annotation
from .types import without_none


class Queries(Protocol):
    """Base of a class that declares named queries: ``class PlayerQueries(Queries, Protocol): ...``.

    Each method has the name of a query, its parameters, defaults if you like, and what it returns: ``list[X]`` for
    ``:many``, ``X | None`` for ``:one`` (``X``: NotFoundError without a row), a value for ``:scalar``, ``int`` for
    ``:exec``. X is a mapped class, a dataclass, a NamedTuple or the type of a single column.
    """

    def in_session(self, session: Session) -> Self:
        """The same queries in a session of yours: they see what it has written, and are committed with it."""
        ...


@dataclass(frozen=True, slots=True)
class Declared:
    """How one query is called. ``required``: that there is no row is an error."""

    signature: inspect.Signature
    shape: Shape | None
    required: bool


def declared(interface: Callable[..., Any], definitions: dict[str, Definition]) -> dict[str, Declared]:
    """The methods of an interface by name. QueryError for one that does not fit its query, or has none."""
    found = {}
    for name, method in _methods(interface):
        definition = definitions.get(name)
        if definition is None:
            raise QueryError(f"{_name(interface)}.{name} has no query; there are {', '.join(sorted(definitions))}")
        found[name] = _declared(method, definition, f"{_name(interface)}.{name}")
    return found


def _methods(interface: Any) -> list[tuple[str, Any]]:
    if not isinstance(interface, type):
        raise QueryError(f"interface is {interface!r}; expected a class that declares queries")
    methods: dict[str, Any] = {}
    for cls in reversed(interface.__mro__):
        if cls not in (object, Queries, Protocol, typing.Generic):
            methods |= {n: m for n, m in vars(cls).items() if isinstance(m, types.FunctionType) and n[0] != "_"}
    return list(methods.items())


def _declared(method: Any, definition: Definition, what: str) -> Declared:
    try:
        hints = typing.get_type_hints(method)
    except NameError as error:
        raise QueryError(f"{what}: its annotations name what is not defined: {error}") from error
    signature = inspect.signature(method)
    parameters = list(signature.parameters.values())[1:]
    _check_parameters(parameters, definition, what)
    shape, required = _result(hints.get("return", Any), definition, what)
    return Declared(signature.replace(parameters=parameters), shape, required)


def _check_parameters(parameters: Sequence[inspect.Parameter], definition: Definition, what: str) -> None:
    names = [parameter.name for parameter in parameters]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise QueryError(f"{what} takes * or **; expected the parameters of {definition.place} by name")
    if set(names) != set(definition.sql.parameters):
        wanted = ", ".join(definition.sql.parameters) or "none"
        raise QueryError(f"{what} has the parameters {', '.join(names) or 'none'}; {definition.place} has {wanted}")


def _result(annotation: Any, definition: Definition, what: str) -> tuple[Shape | None, bool]:
    kind = definition.kind
    if kind == "exec":
        if annotation not in (int, None, type(None), Any):
            raise QueryError(f"{what} returns {annotation!r}; {definition.place} is :exec and returns an int")
        return None, False
    if annotation is Any:
        return Values(Any) if kind == "scalar" else shape_from_annotation(Any, definition.name, what), False
    if kind == "scalar":
        return Values(annotation), without_none(annotation) is annotation
    if kind == "one":
        required = without_none(annotation) is annotation
        return shape_from_annotation(annotation, definition.name, what), required
    if typing.get_origin(annotation) not in (list, Sequence):
        raise QueryError(f"{what} returns {annotation!r}; {definition.place} is :many and returns a list[...]")
    return shape_from_annotation(typing.get_args(annotation)[0], definition.name, what), False


def _name(interface: Any) -> str:
    return getattr(interface, "__name__", repr(interface))
