"""Every exception the layer raises, in one tree.

A message names the thing, what was found, what was expected and what to do. Driver errors are chained with ``from``:
their text can contain row values, so it stays on ``__cause__`` and never enters our own message.

::

    DataLayerError
    ├── ConfigError                     an option is unknown, contradictory or out of range
    │   └── MissingDriverError          an optional package is needed; the message prints the pip line
    ├── SchemaError
    │   ├── SchemaNotFoundError         the class is not registered with this layer
    │   ├── SchemaDuplicateError        the class is registered twice
    │   ├── InvalidModelError           not a class that the layer can store
    │   └── MissingPrimaryKeyError      a key was expected and is absent or None
    ├── DataError
    │   ├── NotFoundError               no such row in any tier           (also a LookupError)
    │   ├── AlreadyExistsError          a row with that key or unique value exists
    │   ├── ConflictError               the row changed since it was read
    │   ├── EncodeError                 a value cannot be encoded
    │   └── DecodeError                 bytes cannot be decoded
    ├── UnavailableError                the layer is closed
    │   ├── L1UnavailableError
    │   ├── L2UnavailableError          Redis
    │   └── L3UnavailableError          the database
    │       └── PoolTimeout             no connection became free in time
    ├── TransactionFailed               rolled back; ``retryable`` says whether running it again may work
    │   ├── TransactionTimeout
    │   └── TransactionOutcomeUnknown   COMMIT was sent and its reply was lost
    ├── HookError                       a hook raised
    ├── WriteBehindExhausted            a queued write used up its retries
    ├── QueryError                      a query that cannot be built or run
    ├── MigrationError                  a step or file failed; the subclasses refuse before anything was run
    │   ├── MigrationLockedError        another process migrates
    │   ├── MigrationFileError          a file's name, markers or contents cannot be used; two have one number
    │   ├── MigrationEditedError        a file was changed after it was applied
    │   ├── MigrationOrderError         a file is older than one that was applied
    │   └── MigrationDirtyError         a file was begun outside of a transaction and did not end
    └── StoreError
        ├── StoreCorruptError
        └── StoreLockedError
"""

from __future__ import annotations

__all__ = [
    "AlreadyExistsError",
    "ConfigError",
    "ConflictError",
    "DataError",
    "DataLayerError",
    "DecodeError",
    "EncodeError",
    "HookError",
    "InvalidModelError",
    "L1UnavailableError",
    "L2UnavailableError",
    "L3UnavailableError",
    "MigrationDirtyError",
    "MigrationEditedError",
    "MigrationError",
    "MigrationFileError",
    "MigrationLockedError",
    "MigrationOrderError",
    "MissingDriverError",
    "MissingPrimaryKeyError",
    "NotFoundError",
    "PoolTimeout",
    "QueryError",
    "SchemaDuplicateError",
    "SchemaError",
    "SchemaNotFoundError",
    "StoreCorruptError",
    "StoreError",
    "StoreLockedError",
    "TransactionFailed",
    "TransactionOutcomeUnknown",
    "TransactionTimeout",
    "UnavailableError",
    "WriteBehindExhausted",
]


class DataLayerError(Exception):
    """Root of everything that the layer raises on purpose."""


class ConfigError(DataLayerError):
    """An option is unknown, contradictory or out of range."""


class MissingDriverError(ConfigError):
    """An optional package is not installed; the message prints the pip line."""


class SchemaError(DataLayerError):
    """Something about a mapped class, not about its rows."""


class SchemaNotFoundError(SchemaError):
    """The class is not registered with this layer."""


class SchemaDuplicateError(SchemaError):
    """The class is registered already."""


class InvalidModelError(SchemaError):
    """Not a class that the layer can store."""


class MissingPrimaryKeyError(SchemaError):
    """A primary key was expected and is absent or None."""


class DataError(DataLayerError):
    """Something about one row or one value."""


class NotFoundError(DataError, LookupError):
    """No such row in any tier."""


class AlreadyExistsError(DataError):
    """A row with that key or unique value exists."""


class ConflictError(DataError):
    """The row is not what the caller expected it to be."""


class EncodeError(DataError):
    """A value cannot be encoded."""


class DecodeError(DataError):
    """Bytes cannot be decoded."""


class UnavailableError(DataLayerError):
    """The layer is closed."""


class L1UnavailableError(UnavailableError):
    """The in-process cache cannot serve."""


class L2UnavailableError(UnavailableError):
    """Redis cannot be reached, or must not be trusted now."""


class L3UnavailableError(UnavailableError):
    """The database cannot be reached."""


class PoolTimeout(L3UnavailableError):
    """No pooled connection became free in time."""


class TransactionFailed(DataLayerError):
    """The transaction was rolled back."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class TransactionTimeout(TransactionFailed):
    """A statement, lock or transaction deadline passed."""


class TransactionOutcomeUnknown(TransactionFailed):
    """COMMIT was sent and its reply was lost."""


class HookError(DataLayerError):
    """A hook raised something that it may not raise."""


class WriteBehindExhausted(DataLayerError):
    """A queued write used up its retries."""


class QueryError(DataLayerError):
    """A query that cannot be built or run."""


class MigrationError(DataLayerError):
    """A migration was refused or failed."""


class MigrationLockedError(MigrationError):
    """Another process migrates this database."""


class MigrationFileError(MigrationError):
    """An SQL file that cannot be used: its name, its markers or its contents."""


class MigrationEditedError(MigrationError):
    """An SQL file is not what it was when it was applied."""


class MigrationOrderError(MigrationError):
    """An SQL file that is pending is older than one that was applied."""


class MigrationDirtyError(MigrationError):
    """An SQL file was begun outside of a transaction and did not end; somebody must look."""


class StoreError(DataLayerError):
    """A key/value store failed."""


class StoreCorruptError(StoreError):
    """Stored bytes fail their check."""


class StoreLockedError(StoreError):
    """Another process holds the store."""
