"""The column types of encrypted text and of its blind index, and what may be asked of them in SQL.

An encrypted column is TEXT in the database whatever the model says, because ciphertext is longer than what it hides.
Its comparator turns equality into a look-up of digests in the blind index column; every other operator is an error at
the moment it is written. What no operator sees (ORDER BY, functions) is refused when the statement is compiled: see
:mod:`datalayer.crypto.statements`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import Null
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from ..errors import DecodeError, EncodeError, QueryError
from .aead import SealError
from .keyring import Place
from .vault import slot_of


class EncryptedColumnError(QueryError, DontWrapMixin):
    """An encrypted column is used in a way that its ciphertext cannot answer."""


class SealedValue:
    """Ciphertext that is bound to its row, fetched without the row: loading the whole entity opens it."""

    __slots__ = ("cipher", "text")

    def __init__(self, text: str, cipher: Any) -> None:
        self.text = text
        self.cipher = cipher

    def open(self, row: bytes) -> str:
        """The value, for the row that it was read from."""
        opened: str = self.cipher.open(self.text, row)
        return opened

    def __str__(self) -> NoReturn:
        raise DecodeError(
            f"{self.cipher.place} is bound to its row (bind='row') and was selected without it; "
            "select the whole entity instead of single columns"
        )

    def __repr__(self) -> str:
        return f"<sealed {self.cipher.place}>"


class UnboundValue:
    """A value on its way into a column that is bound to the row, before the row is known. No driver accepts it."""

    __slots__ = ("_text", "cipher", "row")

    def __init__(self, text: str, cipher: Any) -> None:
        self._text = text
        self.cipher = cipher
        self.row = b""

    def sealed(self) -> str:
        """The ciphertext, once ``row`` is known."""
        if not self.row:
            raise SealError(f"{self.cipher.place} is bound to its row, which is not known")
        sealed: str = self.cipher.seal(self._text, self.row)
        return sealed

    def __repr__(self) -> str:
        return f"<unbound {self.cipher.place}>"


class EncryptedText(TypeDecorator[str]):
    """Text that is ciphertext in the database. Made by ``column(encrypted=True)``, which knows table and column.

    ``blind`` names the column with the digests, if there is one. ``longest`` is the length that the model declares,
    in characters of the readable text.
    """

    impl = sa.Text
    cache_ok = True
    datalayer_plain = True  # its Python values are plain strings, which is all that codecs and caches ask

    def __init__(
        self,
        table: str = "",
        column: str = "",
        blind: str | None = None,
        by_row: bool = False,
        longest: int | None = None,
    ) -> None:
        super().__init__()
        self.table = table
        self.column = column
        self.blind = blind
        self.by_row = by_row
        self.longest = longest

    @property
    def place(self) -> Place:
        return Place(self.table, self.column)

    @property
    def python_type(self) -> type[str]:
        return str

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[Any], Any]:
        slot, place, longest, by_row = slot_of(dialect), self.place, self.longest, self.by_row

        def bind(value: Any) -> Any:
            if value is None:
                return None
            try:
                cipher = slot.opened(place).cipher(place)
                if longest is not None and isinstance(value, str) and len(value) > longest:
                    raise SealError(f"{place} takes {longest} characters at most, found {len(value)}")
                if not by_row:
                    return cipher.seal(value)
                if isinstance(value, str):
                    return UnboundValue(value, cipher)
                raise SealError(f"{place} is encrypted and takes text, found a value of type {type(value).__name__!r}")
            except EncodeError:
                del value  # nor in a traceback that shows local variables
                raise

        return bind

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any]:
        slot, place = slot_of(dialect), self.place

        def bound(value: Any) -> Any:
            return None if value is None else SealedValue(value, slot.opened(place).cipher(place))

        def opened(value: Any) -> Any:
            return None if value is None else slot.opened(place).cipher(place).open(value)

        return bound if self.by_row else opened

    def literal_processor(self, dialect: sa.Dialect) -> NoReturn:
        # Not in a processor: what SQLAlchemy says of one that fails quotes the value.
        raise SealError(f"{self.place} is encrypted and cannot be rendered as a literal; use bound parameters")

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        return self

    class comparator_factory(TypeDecorator.Comparator[str]):
        """IS NULL as ever, equality by the blind index, nothing else."""

        def operate(self, op: Any, *other: Any, **options: Any) -> Any:
            if op in (operators.eq, operators.ne, operators.is_, operators.is_not) and _is_null(other[0]):
                return super().operate(op, *other, **options)
            if op in _BLIND and not _is_expression(other[0]):
                try:
                    return _blind(self.expr, op, other[0])
                except EncryptedColumnError:
                    del other  # a value, which no traceback should show
                    raise
            if op in (operators.eq, operators.ne):
                # SQLAlchemy itself compares columns in lists; what becomes SQL is refused when it is compiled.
                return super().operate(op, *other, **options)
            del other
            raise refusal(self.expr, op)

        def reverse_operate(self, op: Any, other: Any, **options: Any) -> Any:
            del other
            raise refusal(self.expr, op)


class BlindIndex(TypeDecorator[str]):
    """The digest of an encrypted column's text; what is bound is that text, what is fetched is the digest."""

    impl = sa.Text
    cache_ok = True
    datalayer_plain = True

    def __init__(self, table: str = "", column: str = "") -> None:
        super().__init__()
        self.table = table
        self.column = column

    @property
    def python_type(self) -> type[str]:
        return str

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[Any], Any]:
        slot, place = slot_of(dialect), Place(self.table, self.column)

        def bind(value: Any) -> Any:
            if value is None:
                return None
            try:
                return slot.opened(place).digests(place).current(value)
            except EncodeError:
                del value
                raise

        return bind

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> None:
        return None

    def literal_processor(self, dialect: sa.Dialect) -> NoReturn:
        raise SealError(f"the blind index of {self.table}.{self.column} cannot be rendered as a literal")


class _Digests(TypeDecorator[Any]):
    """Every digest that some texts may have in the blind index: an array, or JSON where there are no arrays."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, table: str, column: str) -> None:
        super().__init__()
        self.table = table
        self.column = column

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        return dialect.type_descriptor(ARRAY(sa.Text()) if dialect.name == "postgresql" else sa.Text())

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        place = Place(self.table, self.column)
        try:
            digests = slot_of(dialect).opened(place).digests(place)
            found = [digest for text in value if text is not None for digest in digests.every(text)]
        except EncodeError:
            del value
            raise
        return found if dialect.name == "postgresql" else json.dumps(found)

    def literal_processor(self, dialect: sa.Dialect) -> NoReturn:
        raise SealError(f"the blind index of {self.table}.{self.column} cannot be rendered as a literal")


class BlindMatch(FunctionElement[bool]):
    """Rows whose digest is one that the texts have: equality on an encrypted column.

    ``clauses``: the blind index column, and the parameter with the list of texts.
    """

    name = "blind_match"
    type = sa.Boolean()
    inherit_cache = True
    _is_implicitly_boolean = True  # else SQLite is asked for "(...) = 1", which no index answers

    @property
    def texts(self) -> list[Any]:
        """What is looked for."""
        _, parameter = self.clauses
        found: list[Any] = parameter.effective_value
        return found


@compiles(BlindMatch)
def _compile_match(element: Any, compiler: Any, **options: Any) -> str:
    column, parameter = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({column} IN (SELECT value FROM json_each({parameter})))"


@compiles(BlindMatch, "postgresql")
def _compile_match_any(element: Any, compiler: Any, **options: Any) -> str:
    column, parameter = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({column} = ANY ({parameter}))"


_BLIND = (operators.eq, operators.ne, operators.in_op, operators.not_in_op)


def _blind(expression: Any, op: Any, other: Any) -> Any:
    kind: EncryptedText = expression.type
    table = getattr(expression, "table", None)
    blind = table.c.get(kind.blind) if kind.blind is not None and table is not None else None
    texts = list(other) if op in (operators.in_op, operators.not_in_op) else [other]
    del other
    if blind is None:
        texts.clear()
        raise refusal(expression, op)
    odd = [type(text).__name__ for text in texts if text is not None and not isinstance(text, str)]
    if odd:
        texts.clear()
        raise EncryptedColumnError(f"{kind.place} is encrypted text; it is compared with text, found a {odd[0]}")
    parent = expression._annotations.get("parententity")
    if parent is not None:
        blind = blind._annotate({"parententity": parent})
    parameter = sa.bindparam(None, texts, type_=_Digests(kind.table, kind.column), unique=True)
    match = BlindMatch(blind, parameter)
    return sa.not_(match) if op in (operators.ne, operators.not_in_op) else match


def refusal(expression: Any, op: Any) -> EncryptedColumnError:
    """The error for an operator, with what can be done instead."""
    kind: EncryptedText = expression.type
    name = getattr(op, "__name__", str(op)).strip("_")
    if kind.blind is None and op in _BLIND:
        return EncryptedColumnError(
            f"{kind.place} is encrypted and has no blind index, so {name!r} cannot be answered in SQL; "
            "declare it with column(encrypted=True, blind_index=True), or compare in Python"
        )
    able = "is null, ==, != and in_()" if kind.blind is not None else "is null"
    return EncryptedColumnError(
        f"{kind.place} is encrypted: {name!r} on ciphertext means nothing; SQL can answer {able} for it, "
        "everything else is done in Python on loaded rows"
    )


def _is_null(other: Any) -> bool:
    return other is None or isinstance(other, Null)


def _is_expression(other: Any) -> bool:
    return isinstance(other, sa.ClauseElement) or hasattr(other, "__clause_element__")
