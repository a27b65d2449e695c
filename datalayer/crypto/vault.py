"""Which keys an engine's encrypted columns use: mapped classes are shared by every layer of a process, keys are not.

A vault hangs on the *dialect*, because that is what SQLAlchemy gives a column type when a value is bound or fetched,
and each engine has its own. An engine without a vault neither reads nor writes an encrypted column: a plain
``create_engine`` beside the layer cannot put readable text into the table by accident.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.exc import DontWrapMixin

from ..errors import ConfigError
from .aead import Aead, Readable
from .blind import Digests, ReadableDigests
from .keyring import Keyring, Place

T = TypeVar("T")

_SLOT = "_datalayer_vault"
_LOCK = threading.Lock()


class NoKeysError(ConfigError, DontWrapMixin):
    """An encrypted column is used on an engine that has no keys."""


class Vault:
    """The ciphers and digests of one configuration. Thread-safe; each column's keys are derived once.

    ``accepts_plain``: without a key ring columns are stored readable; with one, readable values are read as they are
    and encrypted when they are next written. Without both, a vault cannot be made.
    """

    def __init__(self, keyring: Keyring | None, *, accepts_plain: bool = False) -> None:
        if keyring is None and not accepts_plain:
            raise ConfigError("a vault needs a key ring, or accepts_plain=True to store encrypted columns readable")
        self.keyring = keyring
        self.accepts_plain = accepts_plain
        self._ciphers: dict[Place, Aead | Readable] = {}
        self._digests: dict[Place, Digests | ReadableDigests] = {}

    def cipher(self, place: Place) -> Aead | Readable:
        """What encrypts a column."""
        return self._ciphers.get(place) or self._kept(self._ciphers, place, self._make_cipher)

    def digests(self, place: Place) -> Digests | ReadableDigests:
        """What finds the values of a column; ``place`` is the encrypted column, not the one with the digests."""
        return self._digests.get(place) or self._kept(self._digests, place, self._make_digests)

    def _kept(self, known: dict[Place, T], place: Place, make: Callable[[Place], T]) -> T:
        with _LOCK:
            if place not in known:
                known[place] = make(place)
            return known[place]

    def _make_cipher(self, place: Place) -> Aead | Readable:
        if self.keyring is None:
            return Readable(place)
        return Aead(self.keyring, place, accepts_plain=self.accepts_plain)

    def _make_digests(self, place: Place) -> Digests | ReadableDigests:
        if self.keyring is None:
            return ReadableDigests(place)
        return Digests(self.keyring, place, accepts_plain=self.accepts_plain)

    @property
    def in_transition(self) -> bool:
        """Whether one text may have several digests in the database."""
        return self.keyring is not None and (len(self.keyring.ids) > 1 or self.accepts_plain)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vault) and (other.keyring, other.accepts_plain) == (self.keyring, self.accepts_plain)

    def __hash__(self) -> int:
        return hash((self.keyring, self.accepts_plain))

    def __repr__(self) -> str:
        return f"<Vault {self.keyring!r}>" if self.keyring is not None else "<Vault without keys>"


class Slot:
    """The place of a vault on a dialect. Column types keep the slot, never the vault: a layer may close."""

    __slots__ = ("holders", "vault")

    def __init__(self) -> None:
        self.vault: Vault | None = None
        self.holders = 0

    def opened(self, place: Place) -> Vault:
        """The vault; ConfigError when the engine has none."""
        if self.vault is None:
            raise NoKeysError(
                f"{place} is encrypted, but this engine has no keys: no open DataLayer with encryption_keys has it; "
                "use layer.engine, or DataLayer(engine=..., encryption_keys=...)"
            )
        return self.vault


def slot_of(dialect: Any) -> Slot:
    found: Slot | None = dialect.__dict__.get(_SLOT)
    return found if found is not None else dialect.__dict__.setdefault(_SLOT, Slot())


def attach(dialect: Any, vault: Vault) -> None:
    """Give a dialect its vault. ConfigError when it has another one already. Each call needs its :func:`detach`."""
    slot = slot_of(dialect)
    with _LOCK:
        if slot.vault is not None and slot.vault != vault:
            raise ConfigError(
                f"the engine is used by another layer with other encryption keys ({slot.vault!r}, here {vault!r}); "
                "give both layers the same keys in the same order, or an engine each"
            )
        slot.vault = slot.vault or vault
        slot.holders += 1


def detach(dialect: Any) -> None:
    """Take back one :func:`attach`; the last one leaves the engine without keys."""
    slot = slot_of(dialect)
    with _LOCK:
        slot.holders -= 1
        if slot.holders == 0:
            slot.vault = None
