"""Binds ciphertext to its row at the last moment, when every parameter of an INSERT or UPDATE is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import operators
from sqlalchemy.sql.dml import Insert
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList

from .aead import SealError
from .column import EncryptedColumnError, UnboundValue
from .rows import row_name
from .tables import SealedColumn


class RowBinder:
    """Encrypts the values of one compiled INSERT or UPDATE that are bound to their row."""

    def __init__(self, compiled: Any, columns: Sequence[SealedColumn]) -> None:
        statement = compiled.statement
        self._table = statement.table
        self._insert = isinstance(statement, Insert)
        self._bound = [column.key for column in columns if column.by_row]
        self._keys = {column.key: column.type.python_type for column in self._table.primary_key}
        self._pins = {} if self._insert else pins_of(compiled)
        if self._insert and statement._multi_values:
            raise EncryptedColumnError(
                f"{self._table.fullname} has columns that are bound to their row: insert several rows as a list of "
                "parameters, execute(insert(table), rows), and not with values([...])"
            )

    def bound(self, parameters: Any, context: Any) -> Any:
        """The driver's parameters with ciphertext in them."""
        for row, given in zip(context.compiled_parameters, context.parameters, strict=True):
            unbound = [v for v in _values(given) if type(v) is UnboundValue]
            if not self._insert:
                self._check_rekey(row)
            if unbound:
                name = row_name(self._key(row))
                for value in unbound:
                    value.row = name
        if isinstance(parameters, list):
            return [_sealed(row) for row in parameters]
        return _sealed(parameters)

    def _key(self, row: Mapping[str, Any]) -> list[Any]:
        found = [row.get(key, row.get(self._pins.get(key, ""))) for key in self._keys]
        if any(value is None for value in found):
            what = "an INSERT needs its primary key from Python (a value, or default=uuid4)"
            if not self._insert:
                what = "an UPDATE must name its primary key: where(Model.id == ...), one row at a time"
            raise EncryptedColumnError(
                f"{self._table.fullname}.{self._bound[0]} is bound to its row (bind='row'), which is not known: {what}"
            )
        for value, kind in zip(found, self._keys.values(), strict=True):
            if type(value) is not kind:  # it would be read back as another value, and the ciphertext never again
                raise SealError(
                    f"{self._table.fullname}.{self._bound[0]} is bound to its row (bind='row'): its primary key is "
                    f"given as {type(value).__name__!r}, expected {kind.__name__!r} exactly"
                )
        return found

    def _check_rekey(self, row: Mapping[str, Any]) -> None:
        moved = any(key in row and row[key] != row.get(self._pins.get(key, ""), row[key]) for key in self._keys)
        if moved and any(name not in row for name in self._bound):
            raise EncryptedColumnError(
                f"{self._table.fullname} has columns that are bound to their row ({', '.join(self._bound)}): "
                "an UPDATE that changes the primary key must set them, too"
            )


def pins_of(compiled: Any) -> dict[str, str]:
    """Which parameter holds which primary key column in the ANDed criteria of an UPDATE."""
    table = compiled.statement.table
    keys = {column.name: column.key for column in table.primary_key}
    found: dict[str, str] = {}
    for criterion in _conjuncts(compiled.statement._where_criteria):
        if not isinstance(criterion, BinaryExpression) or criterion.operator is not operators.eq:
            continue
        left, right = criterion.left, criterion.right
        owner = getattr(left, "table", None)
        if isinstance(left, sa.Column) and isinstance(right, BindParameter) and _same(owner, table):
            name = compiled.bind_names.get(right)
            if left.name in keys and name is not None:
                found[keys[left.name]] = name
    return found


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, sa.Table) and one.fullname == other.fullname


def _conjuncts(criteria: Any) -> Iterator[Any]:
    for criterion in criteria:
        if isinstance(criterion, BooleanClauseList) and criterion.operator is operators.and_:
            yield from _conjuncts(criterion.clauses)
        else:
            yield criterion


def _values(row: Any) -> Any:
    return row.values() if isinstance(row, Mapping) else row


def _sealed(row: Any) -> Any:
    if isinstance(row, Mapping):
        return {key: _made(value) for key, value in row.items()}
    return tuple(_made(value) for value in row)


def _made(value: Any) -> Any:
    return value.sealed() if type(value) is UnboundValue else value
