"""The frame around cached rows: found again, and not believed when a single bit is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalayer.codecs.entry import EntryCodec, EntryError, OversizedError, Section
from datalayer.errors import ConfigError, DecodeError

KEY = b"k" * 32
sections = st.builds(Section, st.binary(min_size=8, max_size=8), st.binary(max_size=30), st.binary(max_size=50))
lists = st.lists(sections, min_size=1, max_size=4, unique_by=lambda s: s.fingerprint)
codecs = st.sampled_from([EntryCodec(), EntryCodec(KEY)])

FROZEN = json.loads((Path(__file__).parents[1] / "formats" / "entry_v1.json").read_text())


@given(codecs, lists, st.binary(max_size=20))
def test_sections_come_back(codec: EntryCodec, given: list[Section], context: bytes) -> None:
    data = codec.pack(given, context)
    assert codec.unpack(data, context) == tuple(given)
    for section in given:
        assert codec.find(data, context, section.fingerprint) == section.body
    assert codec.find(data, context, b"absent!!") is None or b"absent!!" in {s.fingerprint for s in given}


@given(codecs, lists, sections)
def test_a_section_is_added_in_front_and_the_last_of_many_goes(
    codec: EntryCodec, given: list[Section], new: Section
) -> None:
    data = codec.add(codec.pack(given, b"c"), b"c", new)
    kept = [s for s in given if s.fingerprint != new.fingerprint]
    assert codec.unpack(data, b"c") == tuple([new, *kept][:4])


@given(codecs, st.binary(max_size=100), lists, st.data())
def test_hostile_bytes_are_a_decode_error_and_nothing_else(
    codec: EntryCodec, noise: bytes, given: list[Section], data: st.DataObject
) -> None:
    good, reasons = codec.pack(given, b"c"), set()
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = bytes([*good[:at], good[at] ^ data.draw(st.integers(1, 255)), *good[at + 1 :]])
    for bad in (noise, flipped, good[:at], good + noise, noise + good):
        for read in (lambda d: codec.unpack(d, b"c"), lambda d: codec.find(d, b"c", given[0].fingerprint)):
            try:
                read(bad)
            except DecodeError as error:
                reasons.add(error.reason)  # type: ignore[attr-defined]
    assert reasons <= {"format", "truncated", "oversized", "mac"}


@given(lists, st.data())
def test_a_signed_entry_is_believed_under_its_own_key_only_and_unchanged(
    given: list[Section], data: st.DataObject
) -> None:
    codec = EntryCodec(KEY)
    good = codec.pack(given, b"players:1")
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = bytes([*good[:at], good[at] ^ data.draw(st.integers(1, 255)), *good[at + 1 :]])
    for reader, bad, context in (
        (codec, flipped, b"players:1"),
        (codec, good, b"players:2"),
        (codec, EntryCodec().pack(given, b"players:1"), b"players:1"),
        (EntryCodec(b"o" * 32), good, b"players:1"),
        (EntryCodec(), good, b"players:1"),
    ):
        with pytest.raises(EntryError):
            reader.unpack(bad, context)
        with pytest.raises(EntryError):
            reader.find(bad, context, given[0].fingerprint)


def test_what_is_too_large_is_neither_made_nor_read() -> None:
    large = [Section(b"f" * 8, b"", b"x" * 200)]
    with pytest.raises(OversizedError, match="max_value_bytes allows 100"):
        EntryCodec(max_bytes=100).pack(large, b"")
    with pytest.raises(EntryError, match="oversized"):
        EntryCodec(max_bytes=100).unpack(EntryCodec().pack(large, b""), b"")


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ConfigError, match="16 to 64"):
        EntryCodec(b"short")


@pytest.mark.parametrize("vector", FROZEN, ids=lambda v: v["name"])
def test_bytes_of_format_1_are_frozen(vector: dict) -> None:
    codec = EntryCodec(bytes.fromhex(vector["mac_key"]) if vector["mac_key"] else None)
    given = [Section(*(bytes.fromhex(part) for part in section)) for section in vector["sections"]]
    data, context = bytes.fromhex(vector["entry"]), vector["context"].encode()
    assert list(codec.unpack(data, context)) == given
    assert codec.pack(given, context) == data
