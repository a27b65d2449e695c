"""Gives the engines of a layer the keys of its encrypted columns, and takes them back."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ..config.settings import Settings
from ..crypto.keyring import Keyring
from ..crypto.vault import Vault, attach, detach
from .parts import Parts

if TYPE_CHECKING:
    from ..crypto.statements import StatementRules


def make_vault(settings: Settings) -> Vault | None:
    keys = settings.encryption_keys
    if not keys and not settings.allow_plaintext:
        return None
    return Vault(Keyring(keys) if keys else None, accepts_plain=settings.allow_plaintext)


def attach_vault(vault: Vault | None, engine: sa.Engine, reading: sa.Engine | None) -> StatementRules | None:
    """Give the engines their keys; from now on no error of theirs shows parameters."""
    if vault is None:
        return None
    attach(engine.dialect, vault)
    if reading is not None:
        attach(reading.dialect, vault)
    engine.hide_parameters = True
    from ..crypto.statements import StatementRules  # only where something is encrypted

    rules = StatementRules(engine)
    rules.install()
    return rules


def close_vault(parts: Parts) -> None:
    """Take the keys back: an engine that outlives the layer reads and writes no encrypted column."""
    if parts.vault is None or parts.rules is None:
        return
    parts.rules.remove()
    for engine in (parts.engine, parts.reading):
        if engine is not None:
            detach(engine.dialect)


def page_secret(settings: Settings, engine: sa.Engine) -> bytes:
    """What signs page cursors: the same in every process with the same configuration, secret if its password is."""
    url = engine.url.render_as_string(hide_password=False)
    return settings.l2_mac_key or hashlib.blake2b(url.encode(), person=b"dl-page-secret").digest()


def result_secret(settings: Settings, engine: sa.Engine) -> bytes:
    """What names cached results: with encrypted columns, no guess at a value that was asked for can be tried without a
    key; and processes with other rings, which might find other rows, share no results."""
    state = hashlib.blake2b(page_secret(settings, engine), person=b"dl-result-name")
    for key_id, key in settings.encryption_keys.items():
        state.update(key_id.encode() + b"\0" + key)
    return state.digest()
