"""The text form of ciphertext, checked against primitives that know nothing of this package."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import pickle
import re
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from datalayer.crypto.aead import Aead, Readable, SealError
from datalayer.crypto.blind import Digests
from datalayer.crypto.keyring import Keyring, Place
from datalayer.crypto.rows import row_name
from datalayer.errors import ConfigError, DecodeError, EncodeError

K1, K2 = bytes(range(32)), bytes(range(32, 64))
PLACE = Place("patients", "email")
BOTH = Keyring({"k2": K2, "k1": K1})
VECTORS = json.loads((Path(__file__).parents[1] / "formats" / "crypto_dl1.json").read_text())


def hkdf(key: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, no salt, one block."""
    extracted = hmac.digest(bytes(32), key, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def bytes_of(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def gcm_open(key: bytes, sealed: bytes, aad: bytes) -> bytes:
    """AES-256-GCM by the block cipher's own interface."""
    decryptor = Cipher(algorithms.AES(key), modes.GCM(sealed[:12], sealed[-16:])).decryptor()
    decryptor.authenticate_additional_data(aad)
    return decryptor.update(sealed[12:-16]) + decryptor.finalize()


@given(st.text(), st.binary(max_size=40))
def test_every_text_comes_back_as_it_was(text: str, row: bytes):
    cipher = Aead(BOTH, PLACE)
    assert cipher.open(cipher.seal(text, row), row) == text


@pytest.mark.parametrize("text", ["", "\0", "\ud800 alone", "ß" * 10_000, "dl1.k1.x"])
def test_odd_texts_come_back_as_they_were(text: str):
    cipher = Aead(BOTH, PLACE)
    assert cipher.open(cipher.seal(text)) == text


def test_ciphertext_has_the_documented_form_and_never_repeats():
    cipher = Aead(BOTH, PLACE)
    first, second = cipher.seal("hello"), cipher.seal("hello")
    assert re.fullmatch(r"dl1\.k2\.[A-Za-z0-9_-]+", first)
    assert len(bytes_of(first.split(".")[2])) == 12 + 5 + 16
    assert first != second


@given(st.text(), st.sampled_from(["", "i7"]))
def test_an_independent_aes_gcm_call_reads_it(text: str, row: str):
    sealed = Aead(BOTH, PLACE).seal(text, row.encode())
    key = hkdf(K2, b"datalayer dl1 aead\0patients\0email")
    aad = b"patients.email" + (b"\0" + row.encode() if row else b"")
    assert gcm_open(key, bytes_of(sealed.split(".")[2]), aad) == text.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("vector", VECTORS["texts"], ids=lambda v: v["name"])
def test_frozen_ciphertext_is_still_read(vector: dict[str, Any]):
    keys = Keyring({name: bytes.fromhex(key) for name, key in VECTORS["keys"].items()})
    place, row = Place(vector["table"], vector["column"]), bytes.fromhex(vector["row"])
    assert Aead(keys, place).open(vector["sealed"], row) == vector["text"]
    key = hkdf(
        bytes.fromhex(VECTORS["keys"][vector["key"]]), f"datalayer dl1 aead\0{place.table}\0{place.column}".encode()
    )
    aad = str(place).encode() + (b"\0" + row if row else b"")
    assert (
        gcm_open(key, bytes_of(vector["sealed"].split(".")[2]), aad).decode("utf-8", "surrogatepass") == vector["text"]
    )


@pytest.mark.parametrize("vector", VECTORS["digests"], ids=lambda v: v["digest"])
def test_frozen_digests_are_still_computed(vector: dict[str, Any]):
    keys = Keyring({vector["key"]: bytes.fromhex(VECTORS["keys"][vector["key"]])})
    assert Digests(keys, Place(vector["table"], vector["column"])).current(vector["text"]) == vector["digest"]
    key = hkdf(
        bytes.fromhex(VECTORS["keys"][vector["key"]]),
        f"datalayer dl1 blind\0{vector['table']}\0{vector['column']}".encode(),
    )
    expected = hmac.new(key, vector["text"].encode(), hashlib.sha256).digest()[:16]
    assert bytes_of(vector["digest"].split(".")[1]) == expected


ROW_KEYS: dict[str, tuple[Any, ...]] = {
    "int": (7,),
    "negative": (-7,),
    "str": ("7",),
    "uuid": (UUID(int=7),),
    "bytes": (b"\x00\xff",),
    "date": (date(2024, 2, 29),),
    "composite": ("A", 12),
}


@pytest.mark.parametrize("name", list(VECTORS["rows"]))
def test_frozen_names_of_rows_are_still_the_same(name: str):
    assert row_name(ROW_KEYS[name]).hex() == VECTORS["rows"][name]


def test_older_keys_are_read_and_the_active_one_writes():
    old = Aead(Keyring({"k1": K1}), PLACE).seal("text")
    cipher = Aead(BOTH, PLACE)
    assert cipher.open(old) == "text"
    assert cipher.seal("text").startswith("dl1.k2.")


def test_ciphertext_is_bound_to_its_column_table_and_row():
    sealed = Aead(BOTH, PLACE).seal("text", b"1")
    for place, row in (
        (Place("patients", "name"), b"1"),
        (Place("others", "email"), b"1"),
        (PLACE, b"2"),
        (PLACE, b""),
    ):
        with pytest.raises(DecodeError, match=f"{place.table}.{place.column}: .*'k2' does not decrypt"):
            Aead(BOTH, place).open(sealed, row)
    # Table and column are told apart, wherever the dot is.
    dotted = Aead(BOTH, Place("a.b", "c")).seal("text")
    with pytest.raises(DecodeError):
        Aead(BOTH, Place("a", "b.c")).open(dotted)


def test_every_changed_character_is_noticed():
    cipher = Aead(BOTH, PLACE)
    sealed = cipher.seal("a text of some length")
    body = len("dl1.k2.")
    for at in range(body, len(sealed) - 1):  # the last one has bits that mean nothing
        other = "A" if sealed[at] != "A" else "B"
        with pytest.raises(DecodeError, match=r"patients\.email: .*'k2'"):
            cipher.open(sealed[:at] + other + sealed[at + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "dl1",
        "dl1..",
        "dl1.k2.",
        "dl1.k2.AAAA",
        "dl2.k2." + "A" * 60,
        "dl1.k2." + "=" * 60,
        "dl1.k 2." + "A" * 60,
    ],
)
def test_what_is_no_ciphertext_is_refused_without_being_shown(text: str):
    with pytest.raises(DecodeError, match=r"patients\.email") as caught:
        Aead(BOTH, PLACE).open(text)
    assert not text or text not in str(caught.value).replace("dl1 ciphertext", "")


def test_a_missing_key_is_named():
    sealed = Aead(Keyring({"k9": K1}), PLACE).seal("text")
    with pytest.raises(DecodeError, match=r"patients\.email: .* key 'k9', which is not in the key ring \('k2', 'k1'\)"):
        Aead(BOTH, PLACE).open(sealed)


def test_another_key_of_the_same_id_is_noticed():
    sealed = Aead(Keyring({"k2": K1}), PLACE).seal("text")
    with pytest.raises(DecodeError, match="another key of the same id"):
        Aead(BOTH, PLACE).open(sealed)


@pytest.mark.parametrize("value", [b"bytes", 7, ["x"], object()])
def test_only_text_is_encrypted(value: Any):
    with pytest.raises(EncodeError, match=r"patients\.email .* found a value of type"):
        Aead(BOTH, PLACE).seal(value)


def test_readable_text_is_accepted_only_while_a_table_is_being_encrypted():
    cipher = Aead(BOTH, PLACE, accepts_plain=True)
    assert cipher.open("hello") == "hello"
    with pytest.raises(DecodeError, match="'k9'"):
        cipher.open("dl1.k9." + "A" * 60)


def test_without_keys_ciphertext_is_neither_stored_nor_handed_out():
    cipher = Readable(PLACE)
    sealed = Aead(BOTH, PLACE).seal("text")
    assert cipher.open(cipher.seal("hello")) == "hello"
    with pytest.raises(DecodeError, match="'k2', but no key is configured"):
        cipher.open(sealed)
    with pytest.raises(SealError, match="looks like"):
        cipher.seal(sealed)


def test_digests_are_equal_for_equal_texts_of_one_column_under_one_key_only():
    digests = Digests(BOTH, PLACE)
    assert digests.current("x") == digests.current("x")
    others = {
        digests.current("x"),
        digests.current("X"),
        *digests.older("x"),
        Digests(BOTH, Place("p", "q")).current("x"),
    }
    assert len(others) == 4
    assert digests.every("x") == [digests.current("x"), *digests.older("x")]
    assert re.fullmatch(r"k2\.[A-Za-z0-9_-]{22}", digests.current("x"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "one key at least"),
        ({"k1": K1[:31]}, "'k1' has 31 bytes, expected 32"),
        ({"k1": "x" * 32}, "'k1' is a str"),
        ({"the key itself, perhaps": K1}, "key id does not fit"),
    ],
)
def test_key_rings_that_cannot_be_are_refused(keys: Any, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        Keyring(keys)
    assert "perhaps" not in str(caught.value)


def test_nothing_here_shows_or_pickles_a_key():
    for thing in (BOTH, Aead(BOTH, PLACE), Digests(BOTH, PLACE)):
        assert not any(key.hex() in repr(thing) or repr(key)[2:10] in repr(thing) for key in (K1, K2))
        with pytest.raises(Exception, match="pickle"):
            pickle.dumps(thing)


def test_names_of_rows_are_different_for_different_keys():
    keys: list[tuple[Any, ...]] = [
        (1,),
        ("1",),
        (1, 1),
        (11,),
        ("1", "1"),
        ("1i1",),
        (b"1",),
        (date(2024, 1, 1),),
        (UUID(int=1),),
    ]
    assert len({row_name(key) for key in keys}) == len(keys)
    for odd in (True, 1.0, None):
        with pytest.raises(SealError, match="cannot name the row"):
            row_name((odd,))
