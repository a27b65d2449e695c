"""``column()``: mapped_column plus what the caches must know about a column.

What is said about a column lives in ``Column.info["datalayer"]``, so a plain mapped_column can say it too::

    password: Mapped[str] = column(omit_cache=True)
    password: Mapped[str] = mapped_column(deferred=True, info={"datalayer": {"omit_cache": True}})

Inside ``Annotated[...]`` beside a second mapped_column SQLAlchemy keeps only one of two ``info["datalayer"]``;
``column()`` on the attribute joins both, a plain mapped_column there cannot.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import CHAR, JSON, Column, DefaultClause, Enum, FetchedValue, String, Table, event, literal
from sqlalchemy.orm import MappedColumn, Mapper, mapped_column
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.sql.schema import DefaultGenerator
from sqlalchemy.types import NullType, TypeDecorator, TypeEngine

from datalayer.contracts.suggest import hint
from datalayer.crypto.column import EncryptedText
from datalayer.crypto.rows import ROW_KEY_TYPES
from datalayer.errors import ConfigError
from datalayer.models.base import UTCDateTime

INFO_KEY: Final = "datalayer"
CLOCK_OPTION: Final = "datalayer_clock"


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnFlags:
    """What the layer knows about one column.

    ``omit_cache``: never in L1 or L2. ``omit_l1``: in L2 only. ``auto_now_add``: set at the first insert and by
    no later upsert. ``auto_now``: set by every write. ``encrypted``: stored as ciphertext, and ``bind_row``: which
    decrypts in its own row only. ``blind_index``: found by equality, and ``blind_unique``: unique.
    """

    omit_cache: bool = False
    omit_l1: bool = False
    auto_now_add: bool = False
    auto_now: bool = False
    encrypted: bool = False
    bind_row: bool = False
    blind_index: bool = False
    blind_unique: bool = False


_FLAGS: Final = tuple(field.name for field in fields(ColumnFlags))
_NO_FLAGS: Final = ColumnFlags()


class _Unset:
    """No value given; None would be a value."""

    def __repr__(self) -> str:
        return "<not given>"


_UNSET: Final = _Unset()


def utc_now(context: Any) -> datetime:
    """The current time for an automatic column: of the clock in the execution option ``datalayer_clock``, if there is
    one, else of the machine. Aware, UTC. ``context`` is SQLAlchemy's execution context, or None."""
    options = getattr(context, "execution_options", None) or {}
    clock = options.get(CLOCK_OPTION)
    now: datetime = datetime.now(UTC) if clock is None else clock.now()
    return now


class ScalarDefault(DefaultClause):
    """A server default that is written in the SQL of the column's own type and of the dialect at hand.

    The type of an annotated column is known only after the whole class was read, hence late.
    """

    def __init__(self, value: Any) -> None:
        FetchedValue.__init__(self)
        self.value = value

    @property
    def arg(self) -> Any:  # type: ignore[override]  # computed here, a plain attribute there
        kind = None if self.column is None or isinstance(self.column.type, NullType) else self.column.type
        # JSON types cannot render literals; their text can.
        return json.dumps(self.value) if isinstance(kind, JSON) else literal(self.value, kind)

    def _copy(self) -> ScalarDefault:
        return self._clone(self.for_update)


def column(
    *args: Any,
    default: Any = _UNSET,
    omit_cache: bool = False,
    omit_l1: bool = False,
    auto_now_add: bool = False,
    auto_now: bool = False,
    encrypted: bool = False,
    bind: Literal["row"] | None = None,
    blind_index: bool = False,
    **options: Any,
) -> MappedColumn[Any]:
    """``sqlalchemy.orm.mapped_column`` with every option it has, and these:

    ``default``: a plain value becomes the Python default *and* the SQL ``DEFAULT`` of the DDL (bytes and timedeltas
    have no SQL literal that all databases share: Python only); a callable is a Python default; an SQL expression is
    the SQL ``DEFAULT``. A dict or list is copied for each row.
    ``omit_cache``: database only, deferred. ``omit_l1``: never in the in-process cache.
    ``auto_now_add``, ``auto_now``: a timestamp set on insert, or on every write; the value is known without a SELECT.
    Without an explicit type such a column is a :class:`~datalayer.models.base.UTCDateTime`.
    ``encrypted``: stored encrypted; strings only. ``bind="row"``: the ciphertext is worth nothing in another row; the
    primary key must be known before the insert. ``blind_index=True``: a column ``<name>_bidx`` with digests answers
    ``==``, ``!=`` and ``in_()``; with ``unique=True`` it also keeps the values unique.

    Raises ConfigError for unknown and contradictory options; what depends on the type is checked when the class is
    registered.
    """
    if bind not in (None, "row"):
        raise ConfigError(f"column(): bind is {bind!r}, expected 'row' or nothing")
    flags = ColumnFlags(
        omit_cache=omit_cache,
        omit_l1=omit_l1,
        auto_now_add=auto_now_add,
        auto_now=auto_now,
        encrypted=encrypted,
        bind_row=bind == "row",
        blind_index=blind_index,
        blind_unique=blind_index and bool(options.get("unique")),
    )
    if blind_index:  # what is indexed is the digest
        options = {name: value for name, value in options.items() if name not in ("unique", "index")}
    _check_names(options)
    given = set(options) if default is _UNSET else {*options, "default"}
    _check_pair(flags, given, "column()")
    options.update(_default_options(default, options))
    options.update(_automatic_options(flags, args, options))
    if omit_cache:
        options.setdefault("deferred", True)
    tags = _true_names(flags)
    if tags:
        info = dict(options.pop("info", None) or {})
        options["info"] = {**info, INFO_KEY: {**info.get(INFO_KEY, {}), **tags}}
    made = mapped_column(*args, **options)
    _keep_tags(made.column, tags)
    return made


def column_flags(column: Column[Any]) -> ColumnFlags:
    """What ``column.info["datalayer"]`` says. ConfigError for an unknown flag or a value that is not a bool.

    Not for hot paths: it checks every time.
    """
    found = said_of(column)
    if found is None:
        return _NO_FLAGS
    if not isinstance(found, dict):
        raise ConfigError(
            f'column {_name(column)}: info["{INFO_KEY}"] is a {type(found).__name__}, expected a dict such as '
            '{"omit_cache": True}'
        )
    for flag, value in found.items():
        _check_flag(column, flag, value)
    return ColumnFlags(**found)


def indispensable(mapper: Mapper[Any], given: Iterable[str]) -> list[str]:
    """The attributes without which a row cannot be inserted and that are not among those given."""
    known = set(given)
    return [
        prop.key
        for prop in mapper.column_attrs
        if prop.key not in known and isinstance(prop.columns[0], Column) and _must_be_given(mapper, prop.columns[0])
    ]


def _must_be_given(mapper: Mapper[Any], item: Column[Any]) -> bool:
    if item.nullable or item.default is not None or item.server_default is not None:
        return False
    flags = column_flags(item)
    if flags.auto_now or flags.auto_now_add or item is mapper.version_id_col:
        return False
    return item is not item.table.autoincrement_column and item is not mapper.polymorphic_on


def check_columns(mapper: Mapper[Any], *, allow_plaintext: bool = False, has_keys: bool = False) -> None:
    """Raises ConfigError if the flags of a mapped class's columns contradict each other or their types.

    Without keys encrypted columns are refused, because the layer would store them readable; ``allow_plaintext=True``
    accepts exactly that.
    """
    for item in mapper.columns:
        if isinstance(item, Column):
            _check_column(mapper, item, column_flags(item), allow_plaintext or has_keys)


def _check_column(mapper: Mapper[Any], item: Column[Any], flags: ColumnFlags, may_encrypt: bool) -> None:
    name = f"column {_name(item)}"
    _check_pair(flags, set(), name)
    _check_key(mapper, item, flags, name)
    if (flags.auto_now or flags.auto_now_add) and _python_type(item.type) is not datetime:
        raise ConfigError(f"{name}: auto_now and auto_now_add need a datetime column, found {item.type!r}")
    if flags.encrypted:
        _check_encrypted(item, name, may_encrypt)
    if flags.bind_row:
        _check_bound(mapper, name)


def _check_key(mapper: Mapper[Any], item: Column[Any], flags: ColumnFlags, name: str) -> None:
    role = _role(mapper, item)
    if role is None:
        return
    for flag in ("omit_cache", "omit_l1", "encrypted", "auto_now"):
        if getattr(flags, flag):
            raise ConfigError(f"{name}: {flag} cannot be used on {role}: the caches need it to know the row; remove it")


def _role(mapper: Mapper[Any], item: Column[Any]) -> str | None:
    if item.primary_key or item in mapper.primary_key:
        return "a primary key"
    if item is mapper.version_id_col:
        return "the version column"
    return "the polymorphic discriminator" if item is mapper.polymorphic_on else None


def _check_encrypted(item: Column[Any], name: str, may_encrypt: bool) -> None:
    if not is_text(item.type):
        raise ConfigError(f"{name}: encrypted columns hold strings, found {item.type!r}")
    if item.unique or item.index:
        raise ConfigError(
            f"{name}: an encrypted column cannot be unique or indexed, equal texts do not look equal; "
            f"say column(encrypted=True, blind_index=True), which indexes digests ({item.name}_bidx) instead"
        )
    if isinstance(item.server_default, DefaultClause):
        raise ConfigError(f"{name}: an encrypted column cannot have an SQL default, it would be stored readable")
    if not isinstance(item.type, EncryptedText):
        raise ConfigError(
            f"{name}: the flag 'encrypted' was set after the column had become part of its table; "
            "say it in column(...) or in mapped_column(info=...)"
        )
    if not may_encrypt:
        raise ConfigError(
            f"{name}: encryption is not available: no key is configured; "
            "configure one (encryption_keys), or accept readable storage with allow_plaintext=True"
        )


def _check_bound(mapper: Mapper[Any], name: str) -> None:
    for key in mapper.primary_key:
        if isinstance(key.type, TypeDecorator | CHAR) or _python_type(key.type) not in ROW_KEY_TYPES:
            raise ConfigError(
                f"{name}: bind='row' needs a primary key whose value is the same before it is written and after it is "
                f"read (int, str, UUID, bytes or date), found {key.name} of type {key.type!r}"
            )


def _check_flag(column: Column[Any], flag: Any, value: Any) -> None:
    if flag not in _FLAGS:
        known = hint(str(flag), _FLAGS)
        raise ConfigError(f"column {_name(column)}: unknown flag {flag!r} in info[{INFO_KEY!r}]; {known}")
    if not isinstance(value, bool):
        raise ConfigError(f"column {_name(column)}: flag {flag!r} is {value!r}, expected True or False")


def _check_pair(flags: ColumnFlags, given: set[str], name: str) -> None:
    automatic = flags.auto_now or flags.auto_now_add
    if flags.auto_now and flags.auto_now_add:
        raise ConfigError(f"{name}: auto_now and auto_now_add contradict each other; auto_now sets the first value too")
    if flags.encrypted and automatic:
        raise ConfigError(f"{name}: an automatic timestamp cannot be encrypted, only strings can")
    clash = sorted(given & {"default", "insert_default", "onupdate", "default_factory"}) if automatic else []
    if clash:
        raise ConfigError(f"{name}: auto_now and auto_now_add set the value themselves; remove {', '.join(clash)}")
    lost = [
        flag for flag in ("bind_row", "blind_index", "blind_unique") if getattr(flags, flag) and not flags.encrypted
    ]
    if lost:
        raise ConfigError(f"{name}: {', '.join(lost)} is about ciphertext; say encrypted=True, or remove it")
    if flags.encrypted and given & {"default", "server_default"}:
        raise ConfigError(f"{name}: an encrypted column cannot have a default, the DDL would show it")


def _check_names(options: dict[str, Any]) -> None:
    for option in options:
        if option not in _OPTIONS and not option.startswith(_DIALECT_PREFIXES):
            raise ConfigError(f"column(): unknown option {option!r}; {hint(option, {*_OPTIONS, *_FLAGS, 'default'})}")


_OPTIONS: Final = frozenset(
    name
    for name, parameter in inspect.signature(mapped_column).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
) | {"sort_order", "insert_default"}
_DIALECT_PREFIXES: Final = ("postgresql_", "sqlite_", "mysql_", "mariadb_", "oracle_", "mssql_")


def _default_options(default: Any, options: dict[str, Any]) -> dict[str, Any]:
    if default is _UNSET:
        return {}
    if isinstance(default, ClauseElement):
        return {"server_default": options.get("server_default", default)}
    if callable(default) or isinstance(default, DefaultGenerator):
        return {"insert_default": options.get("insert_default", default)}
    return _plain_default(default, options)


def _plain_default(default: Any, options: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(default, dict | list):
        found["insert_default"] = options.get("insert_default", _copier(default))
    else:
        found["default"] = default
    if default is not None and not isinstance(default, bytes | bytearray | timedelta):
        found["server_default"] = options.get("server_default", ScalarDefault(default))
    return found


def _copier(default: Any) -> Callable[[], Any]:
    return lambda: copy.deepcopy(default)


def _automatic_options(flags: ColumnFlags, args: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    if not (flags.auto_now or flags.auto_now_add):
        return {}
    found: dict[str, Any] = {"insert_default": utc_now}
    if flags.auto_now:
        found["onupdate"] = utc_now
    if "type_" not in options and not any(_is_type(arg) for arg in args):
        found["type_"] = UTCDateTime()
    return found


def _is_type(arg: Any) -> bool:
    return isinstance(arg, TypeEngine) or (isinstance(arg, type) and issubclass(arg, TypeEngine))


def _true_names(flags: ColumnFlags) -> dict[str, bool]:
    return {name: True for name in _FLAGS if getattr(flags, name)}


def _keep_tags(item: Column[Any], tags: dict[str, bool]) -> None:
    if not tags:
        return

    # An Annotated mapped_column overwrites this column's info while the class is being read.
    @event.listens_for(item, "before_parent_attach")
    def _restore(target: Column[Any], parent: Any) -> None:
        if isinstance(parent, Table):
            target.info[INFO_KEY] = {**target.info.get(INFO_KEY, {}), **tags}


def said_of(column: Column[Any]) -> Any:
    """``column.info["datalayer"]``, or None; a column without an ``info`` gets none by being asked."""
    return column.__dict__.get("info", {}).get(INFO_KEY)


def is_text(kind: Any) -> bool:
    """Whether a column of this type can be encrypted."""
    return isinstance(kind, EncryptedText) or (isinstance(kind, String) and not isinstance(kind, Enum))


def _python_type(kind: TypeEngine[Any]) -> type[Any] | None:
    try:
        return kind.python_type
    except NotImplementedError:
        return _python_type(kind.impl_instance) if isinstance(kind, TypeDecorator) else None


def _name(item: Column[Any]) -> str:
    return item.name if item.table is None else f"{item.table.name}.{item.name}"
