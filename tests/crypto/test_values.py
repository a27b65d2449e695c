"""Dicts of values for journals and dead letters: nothing readable in them, and back again exactly."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import safe
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from safe import Open, Patient, Plainly, Seat, Token

from datalayer import ConfigError, DecodeError, EncodeError
from datalayer.codecs.registry import codec_named
from datalayer.crypto.keyring import Keyring
from datalayer.crypto.values import SealedValues
from datalayer.crypto.vault import Vault
from datalayer.models.policy import policy_of
from datalayer.models.sealed import value_sealing
from datalayer.tables.serializers import serializer_for

VAULT = Vault(Keyring(safe.BOTH))
SECRET = "gallbladder-inflammation"


def sealing(source: Any, vault: Vault = VAULT) -> SealedValues:
    found = value_sealing(source, vault)
    assert found is not None
    return found


def test_encrypted_values_are_ciphertext_and_the_others_are_left_alone():
    values = {"id": 7, "ward": "w", "email": SECRET, "city": None, "notes": ""}
    sealed = sealing(Patient.__table__).seal(values)
    assert SECRET not in repr(sealed)
    assert (sealed["id"], sealed["ward"], sealed["city"]) == (7, "w", None)
    assert sealed["email"].startswith("dl1.k2.")
    assert sealed["notes"].startswith("dl1.k2.")
    assert values["email"] == SECRET
    assert sealing(Patient.__table__).open(sealed) == values


@given(st.dictionaries(st.sampled_from(["email", "city", "notes"]), st.none() | st.text()))
def test_whatever_was_sealed_comes_back(values: dict[str, Any]):
    found = sealing(sa.inspect(Patient))
    assert found.open(found.seal(values)) == values


def test_names_are_columns_of_a_table_and_attributes_of_a_mapper():
    assert sealing(Plainly.__table__).names == {"pin", "e_mail"}
    assert sealing(sa.inspect(Plainly)).names == {"pin", "mail"}
    by_attribute = sealing(sa.inspect(Plainly)).seal({"mail": SECRET})
    assert sealing(Plainly.__table__).open({"e_mail": by_attribute["mail"]}) == {"e_mail": SECRET}


def test_what_is_bound_to_its_row_opens_for_that_row_only():
    found = sealing(Seat.__table__)
    sealed = found.seal({"guest": SECRET}, ("a", 1))
    assert found.open(sealed, ("a", 1)) == {"guest": SECRET}
    for other in (("a", 2), ("b", 1)):
        with pytest.raises(DecodeError, match=r"seats\.guest: a value under key 'k2' does not decrypt"):
            found.open(sealed, other)


def test_a_row_that_is_not_named_is_refused_and_not_left_out_of_the_ciphertext():
    found = sealing(Token.__table__)
    sealed = found.seal({"secret": SECRET}, (1,))
    for key in ((), (None,)):
        with pytest.raises(EncodeError, match=r"tokens\.secret is bound to its row \(bind='row'\): give the row's"):
            found.seal({"secret": SECRET}, key)
        with pytest.raises(EncodeError, match=r"tokens\.secret is bound to its row"):
            found.open(sealed, key)
        assert found.seal({"secret": None, "label": "x"}, key) == {"secret": None, "label": "x"}


def test_the_journals_ciphertext_is_the_columns_own_form():
    sealed = sealing(Patient.__table__).seal({"notes": SECRET})["notes"]
    assert VAULT.cipher(Patient.__table__.c.notes.type.place).open(sealed) == SECRET  # type: ignore[attr-defined]


def test_an_older_key_is_read_and_a_missing_one_is_named():
    sealed = sealing(Patient.__table__, Vault(Keyring(safe.OLD))).seal({"notes": SECRET})
    assert sealing(Patient.__table__).open(sealed) == {"notes": SECRET}
    with pytest.raises(DecodeError, match=r"patients\.notes: .* key 'k1', which is not in the key ring \('k2'\)"):
        sealing(Patient.__table__, Vault(Keyring(safe.NEW))).open(sealed)


def test_there_is_nothing_to_seal_without_keys_or_encrypted_columns_or_when_the_policy_says_so():
    plain = sa.Table("plain", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    assert value_sealing(plain, VAULT) is None
    assert value_sealing(Patient.__table__, None) is None  # type: ignore[arg-type]
    assert value_sealing(Patient.__table__, Vault(None, accepts_plain=True)) is None  # type: ignore[arg-type]
    assert value_sealing(sa.inspect(Open), VAULT, policy_of(Open)) is None
    assert value_sealing(sa.inspect(Patient), VAULT, policy_of(Patient)) is not None


def test_failures_show_no_value_not_even_among_local_variables():
    found = sealing(Patient.__table__)
    good = found.seal({"email": SECRET, "notes": SECRET})
    for fail in (
        lambda: found.seal({"email": SECRET, "notes": 7}),
        lambda: found.open({**good, "notes": good["email"]}),
    ):
        with pytest.raises((EncodeError, DecodeError)) as caught:
            fail()
        assert SECRET not in str(caught.value)
        for frame, _ in traceback.walk_tb(caught.value.__traceback__):
            if "/datalayer/" in frame.f_code.co_filename:
                assert SECRET not in repr(frame.f_locals), frame.f_code.co_qualname


def test_a_table_of_instances_holds_no_encrypted_column_unless_the_policy_says_so():
    with pytest.raises(ConfigError, match=r"Patient\.email is encrypted, and a table would have it written readable"):
        serializer_for(Patient, codec_named("msgpack"))
    serializer = serializer_for(Open, codec_named("msgpack"))
    assert serializer.load(serializer.dump(Open(id=1, text=SECRET))).text == SECRET
