"""Sealed bytes, checked against primitives that know nothing of this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from safe import BOTH, K1, K2, NEW, OLD

from datalayer.crypto.box import Box
from datalayer.errors import ConfigError, DecodeError

VECTORS = json.loads((Path(__file__).parents[1] / "formats" / "crypto_box1.json").read_text())


def gcm_open(key: bytes, sealed: bytes, context: bytes) -> bytes:
    """The documented layout, and AES-256-GCM by the block cipher's own interface."""
    assert sealed[0] == 1
    start = 2 + sealed[1]
    nonce, body, tag = sealed[start : start + 12], sealed[start + 12 : -16], sealed[-16:]
    decryptor = Cipher(algorithms.AES(key), modes.GCM(nonce, tag)).decryptor()
    decryptor.authenticate_additional_data(sealed[:start] + context)
    return decryptor.update(body) + decryptor.finalize()


@given(st.binary(), st.binary(max_size=20))
def test_bytes_come_back_and_an_independent_aes_gcm_call_reads_them(plain: bytes, context: bytes):
    sealed = Box(BOTH).seal(plain, context)
    assert Box(BOTH).open(sealed, context) == gcm_open(K2, sealed, context) == plain
    assert len(sealed) == len(plain) + 30 + len("k2")


@pytest.mark.parametrize("vector", VECTORS["sealed"], ids=lambda v: v["name"])
def test_frozen_bytes_are_still_opened(vector: dict[str, Any]):
    keys = {name: bytes.fromhex(key) for name, key in VECTORS["keys"].items()}
    sealed, context = bytes.fromhex(vector["sealed"]), bytes.fromhex(vector["context"])
    assert Box(keys).open(sealed, context).hex() == vector["plain"]
    assert gcm_open(keys[vector["key"]], sealed, context).hex() == vector["plain"]


def test_every_changed_byte_and_every_cut_is_noticed():
    sealed = Box(BOTH).seal(b"some bytes", b"here")
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        for wrong in (bytes(changed), sealed[:at]):
            with pytest.raises(DecodeError):
                Box(BOTH).open(wrong, b"here")
    with pytest.raises(DecodeError, match="changed, moved"):
        Box(BOTH).open(sealed, b"there")


def test_older_keys_open_and_a_missing_one_is_named():
    sealed = Box({"k1": K1}).seal(b"x", b"")
    assert Box(BOTH).open(sealed, b"") == b"x"
    with pytest.raises(DecodeError, match="sealed with key 'k1'; this ring has key 'k2'"):
        Box(NEW).open(sealed, b"")


def test_readable_bytes_in_the_place_of_sealed_ones_are_not_shown():
    secret = b"gallbladder: inflamed!"
    for readable in (secret, bytes((1, len(secret))) + secret + bytes(40)):
        with pytest.raises(DecodeError) as caught:
            Box(BOTH).open(readable, b"")
        assert "gallbladder" not in str(caught.value)


def test_rings_that_cannot_be_are_refused_and_none_is_shown():
    for keys in ({}, {"k1": K1[:31]}, {"": K1}):
        with pytest.raises(ConfigError) as caught:
            Box(keys)
        assert K1.hex() not in str(caught.value)
    assert repr(Box(OLD)) == "<Box: k1>"
