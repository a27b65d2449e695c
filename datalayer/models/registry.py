"""Which mapped classes belong to a layer, checked once before their first use."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from sqlalchemy import Column, Index, MetaData, Table
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.orm import DeclarativeBase, DeclarativeBaseNoMeta, Mapper
from sqlalchemy.orm import registry as SQLAlchemyRegistry
from sqlalchemy.schema import conv

from datalayer.contracts.suggest import hint
from datalayer.crypto.tables import sealed_columns
from datalayer.errors import ConfigError, InvalidModelError, SchemaDuplicateError, SchemaNotFoundError
from datalayer.models import policy as policies
from datalayer.models import sealed as _sealed  # noqa: F401  # its listeners encrypt flagged columns
from datalayer.models.behind import add_sequence_column, behind_problems, write_mode_of
from datalayer.models.columns import check_columns
from datalayer.models.tagged import tagged_columns

_INDEXES = threading.Lock()

Source = type[Any] | SQLAlchemyRegistry


class Registry:
    """The models of a layer. Thread-safe; a class that was accepted before is answered by one dict lookup.

    ``models``: a declarative base or an abstract class (all its mapped subclasses, also those that come later), a
    SQLAlchemy registry (all its classes), a mapped class (with its mapped subclasses), an iterable of these, or None:
    any mapped class, from its first use.
    ``has_keys``: encrypted columns can be encrypted; ``allow_plaintext``: they are accepted without keys, too.
    ``write_mode``: of models whose policy does not say. ``scoped``: every row is cached for one scope only.

    A listed class is checked at once, the others when they are first resolved, except that encrypted columns without a
    key are found at once in all that are mapped by now. Nothing here configures mappers, so relationships may name
    classes that are imported later.
    """

    def __init__(
        self,
        models: Source | Iterable[Source] | None = None,
        *,
        allow_plaintext: bool = False,
        has_keys: bool = False,
        write_mode: str = "through",
        scoped: bool = False,
    ) -> None:
        self._lock = threading.RLock()
        self._write_mode = write_mode
        self._scoped = scoped
        #: Names of the tables that are written behind.
        self.behind_tables: set[str] = set()
        self._allow_plaintext = allow_plaintext
        self._has_keys = has_keys
        self._accepted: dict[type[Any], Mapper[Any]] = {}
        self._sources: list[Source] = []
        self._open = models is None
        for source in _sources(models):
            self.add(source)

    def add(self, source: Source) -> None:
        """One more model, base or registry. SchemaDuplicateError if it was added before; InvalidModelError if it is
        neither; ConfigError if its policy or columns contradict themselves."""
        with self._lock:
            if any(source is known for known in self._sources):
                raise SchemaDuplicateError(f"{_name(source)} is registered with this layer already; add it once")
            if not _is_family(source):
                self._accept(source)
            elif not (self._has_keys or self._allow_plaintext):
                _refuse_encrypted(source)
            self._sources.append(source)

    def resolve(self, cls: Any) -> Mapper[Any]:
        """The mapper of ``cls``. SchemaNotFoundError if the class is not this layer's, InvalidModelError if it is no
        mapped class, ConfigError if its policy or columns contradict themselves."""
        # No lock: a dict lookup is atomic, and what is found never changes.
        try:
            found = self._accepted.get(cls)
        except TypeError:
            found = None
        return found if found is not None else self._resolve_new(cls)

    def classes(self) -> tuple[type[Any], ...]:
        """Every model known now, checked, by name. With ``models=None`` those that were used so far."""
        with self._lock:
            for source in self._sources:
                for cls in _family(source):
                    self.resolve(cls)
            return tuple(sorted(self._accepted, key=_full_name))

    def size(self) -> int:
        """A number that changes with every new model, asked for by every commit: without a look at each of them."""
        families = (found for source in self._sources if (found := _registry_of_source(source)) is not None)
        return len(self._accepted) + sum(len(family._managers) for family in families)

    @property
    def metadata(self) -> tuple[MetaData, ...]:
        """The MetaData of the known models' tables, each once: what migrations compare with the database."""
        return _metadata(self._accepted[cls] for cls in self.classes())

    @property
    def watched(self) -> tuple[MetaData, ...]:
        """As :attr:`metadata`, with models that were not checked yet: a commit must not fail for one that is wrong."""
        with self._lock:
            return _metadata([*self._accepted.values(), *map(_require_mapped, self._waiting())])

    def usable(self) -> tuple[Mapper[Any], ...]:
        """The mapper of every model known now that is not wrong."""
        with self._lock:
            for cls in self._waiting():
                with suppress(ConfigError, InvalidModelError):
                    self._accept(cls)
            return tuple(self._accepted.values())

    def _waiting(self) -> list[type[Any]]:
        return [cls for source in self._sources for cls in _family(source) if cls not in self._accepted]

    def __contains__(self, cls: object) -> bool:
        return isinstance(cls, type) and (cls in self._accepted or (_is_mapped(cls) and self._belongs(cls)))

    def _resolve_new(self, cls: Any) -> Mapper[Any]:
        _require_mapped(cls)
        with self._lock:
            if not self._belongs(cls):
                raise SchemaNotFoundError(
                    f"{cls.__name__} is not registered with this layer; "
                    f"add it to models=, next to {', '.join(map(_name, self._sources)) or 'nothing yet'}"
                )
            return self._accept(cls)

    def _belongs(self, cls: type[Any]) -> bool:
        return self._open or any(_covers(source, cls) for source in self._sources)

    def _accept(self, cls: Any) -> Mapper[Any]:
        if cls in self._accepted:
            return self._accepted[cls]
        mapper = _require_mapped(cls)
        policy = policies.policy_of(cls)
        check_columns(mapper, allow_plaintext=self._allow_plaintext, has_keys=self._has_keys)
        _check_partition(mapper, policy.partition_by)
        if policy.external_writes:
            _tell_writes(mapper)
        tagged_columns(mapper, policy.query_tags)
        for index in policy.indexes:
            _add_index(mapper, index)
        if _prepare_behind(mapper, self._write_mode, scoped=self._scoped):
            self.behind_tables.update(table.fullname for table in mapper.tables if isinstance(table, Table))
        self._accepted[cls] = mapper
        return mapper


def _prepare_behind(mapper: Mapper[Any], default: str, *, scoped: bool) -> bool:
    """Make a model ready to be written behind, if that is its mode."""
    if write_mode_of(mapper, default) is not policies.WriteMode.BEHIND:
        return False
    problems = list(behind_problems(mapper))
    if scoped and not problems:
        problems = ["the layer has a cache_scope, and a queued row belongs to no scope"]
    if problems:
        raise ConfigError(f"{mapper.class_.__name__} cannot be written behind: {'; '.join(problems)}")
    if isinstance(mapper.local_table, Table):
        add_sequence_column(mapper.local_table)
    return True


def _sources(models: Source | Iterable[Source] | None) -> Iterator[Source]:
    if models is None:
        return
    if isinstance(models, type | SQLAlchemyRegistry):
        yield models
    elif isinstance(models, Iterable) and not isinstance(models, str | bytes):
        yield from models
    else:
        raise ConfigError(
            f"models: found a {type(models).__name__}, expected a declarative base, mapped classes, or None for any"
        )


def _is_family(source: Any) -> bool:
    if isinstance(source, SQLAlchemyRegistry):
        return True
    return isinstance(source, type) and _registry_of(source) is not None and not _is_mapped(source)


def _is_mapped(cls: type[Any]) -> bool:
    return "__mapper__" in cls.__dict__


def _registry_of(cls: type[Any]) -> SQLAlchemyRegistry | None:
    # A model may have a column that is called registry.
    found = (getattr(cls, name, None) for name in ("_sa_registry", "registry"))
    return next((item for item in found if isinstance(item, SQLAlchemyRegistry)), None)


def _family(source: Source) -> list[type[Any]]:
    registry = _registry_of_source(source)
    if registry is None:
        return []
    return [mapper.class_ for mapper in registry.mappers if _covers(source, mapper.class_)]


def _refuse_encrypted(source: Source) -> None:
    """ConfigError when a class that is mapped by now has columns that could not be encrypted."""
    for cls in _family(source):
        mapper = _require_mapped(cls)
        if sealed_columns(mapper.local_table):
            check_columns(mapper)


def _registry_of_source(source: Source) -> SQLAlchemyRegistry | None:
    return source if isinstance(source, SQLAlchemyRegistry) else _registry_of(source)


def _covers(source: Source, cls: type[Any]) -> bool:
    if isinstance(source, SQLAlchemyRegistry):
        return any(mapper.class_ is cls for mapper in source.mappers)
    return issubclass(cls, source)


def _require_mapped(cls: Any) -> Mapper[Any]:
    if not isinstance(cls, type):
        raise InvalidModelError(_not_a_class(cls))
    mapper: Mapper[Any] | None = sa_inspect(cls, raiseerr=False)
    if not isinstance(mapper, Mapper):
        raise InvalidModelError(_not_mapped(cls))
    return mapper


def _not_a_class(found: Any) -> str:
    kind = type(found).__name__
    if _is_mapped(type(found)):
        return f"an instance of {kind} was given where the class is expected; pass {kind}"
    return f"found a {kind}, expected a mapped class"


def _not_mapped(cls: type[Any]) -> str:
    if cls in (DeclarativeBase, DeclarativeBaseNoMeta) or _registry_of(cls) is not None:
        return f"{cls.__name__} is abstract: it is a base of models and has no table; pass one of its mapped subclasses"
    return (
        f"{cls.__name__} is not mapped to a table; derive it from datalayer.Model (or another DeclarativeBase) "
        "and give it __tablename__ and a primary key"
    )


def _check_partition(mapper: Mapper[Any], name: str | None) -> None:
    if name is None:
        return
    column = _column(mapper, name, "partition_by")
    if column in mapper.primary_key:
        _partition(column)
    else:
        raise ConfigError(
            f"{mapper.class_.__name__}: partition_by={name!r} is not in the primary key; "
            "PostgreSQL needs it there, so make the key composite"
        )


def _partition(column: Column[Any]) -> None:
    # What migrations read; a clause that the model wrote itself stays.
    # (setdefault would find the dialect's own default, None, and leave it.)
    if isinstance(column.table, Table) and column.table.kwargs.get("postgresql_partition_by") is None:
        column.table.kwargs["postgresql_partition_by"] = f"RANGE ({column.name})"


def _tell_writes(mapper: Mapper[Any]) -> None:
    # What migrations read: they install the triggers.
    for table in mapper.tables:
        if isinstance(table, Table):
            table.info["datalayer"] = {**table.info.get("datalayer", {}), "external_writes": True}


def _add_index(mapper: Mapper[Any], index: policies.Index) -> None:
    columns = [_column(mapper, name, "indexes") for name in index.columns]
    table = columns[0].table
    if not isinstance(table, Table) or any(column.table is not table for column in columns):
        raise ConfigError(f"{mapper.class_.__name__}: the columns of Index{index.columns!r} are not of one table")
    name = index.name or conv("_".join(["ux" if index.unique else "ix", table.name, *(c.name for c in columns)]))
    # Subclasses inherit the policy, and several layers may use one model, each under a lock of its own.
    with _INDEXES:
        if all(existing.name != name for existing in table.indexes):
            Index(name, *columns, unique=index.unique)


def _column(mapper: Mapper[Any], name: str, option: str) -> Column[Any]:
    found = mapper.columns.get(name)
    if not isinstance(found, Column):
        known = hint(name, mapper.columns.keys())
        raise ConfigError(f"{mapper.class_.__name__}: {option} names {name!r}, which is no column of it; {known}")
    return found


def _metadata(mappers: Iterable[Mapper[Any]]) -> tuple[MetaData, ...]:
    tables = (table for mapper in mappers for table in mapper.tables if isinstance(table, Table))
    return tuple({id(table.metadata): table.metadata for table in tables}.values())


def _name(source: Any) -> str:
    return source.__name__ if isinstance(source, type) else f"a {type(source).__name__}"


def _full_name(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
