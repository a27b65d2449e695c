"""How the rows of one space look in the shared tier and in journals, and what of that can be read back.

A value holds a section for every shape of the row that processes have asked for, so that releases with different
columns share a key. Bytes that do not decode are a miss and a count, and the value is forgotten.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..codecs.entry import EntryCodec, Section
from ..codecs.row import adapt, compile_row
from ..contracts.cipher import RowSealing
from ..contracts.codec import Codec
from ..contracts.tier import OVERLAY, Found, Key
from ..errors import DecodeError, EncodeError
from ..models.schema import Schema
from .needs import KeyText, Row

#: How a row without a frame begins; a frame begins with "D".
_BARE = b"\x00"

Scope = Callable[[], str | None]
Sealing = Callable[[Schema], RowSealing | None]


class Packing:
    """Packs and unpacks the rows of ``space``. Thread-safe.

    ``scope`` splits the space by what it returns at the moment; ``sealing`` encrypts fields; ``counts`` is told why
    something could not be packed or unpacked, ``discard`` which value cannot be.
    """

    def __init__(
        self,
        space: str,
        key_text: KeyText,
        codec: Codec,
        entries: EntryCodec,
        *,
        scope: Scope | None,
        sealing: Sealing,
        counts: Counter[str],
        discard: Callable[[Key, Found], None],
    ) -> None:
        self.space = space
        self._key_text = key_text
        self._codec = codec
        self._entries = entries
        self._scope = scope
        self._sealing = sealing
        self._counts = counts
        self._discard = discard
        self._rows: dict[Schema, tuple[Any, bytes, int]] = {}

    def address(self, key: tuple[Any, ...]) -> Key:
        return Key(self.space, self._key_text(key))

    def addresses(self, keys: Iterable[tuple[Any, ...]]) -> dict[Key, tuple[Any, ...]]:
        space, text = self.space, self._key_text
        return {Key(space, text(key)): key for key in keys}

    # -- the shared tier -------------------------------------------------------------------------------------------

    def pack(self, schema: Schema, address: Key, values: tuple[Any, ...], beside: Found | None = None) -> bytes | None:
        """A row in the order of ``schema.full`` as an entry, or added to the one ``beside`` it; None when it cannot be
        encoded, or is too large."""
        codec, _, _ = self._rows.get(schema) or self._row_codec(schema)
        try:
            section = Section(self._fingerprint(codec), codec.shape, codec.encode(schema.shared.pick(values)))
            if beside is not None:
                return self._entries.add(beside.entry, _context(address), section)
            return self._entries.pack([section], _context(address))
        except (EncodeError, DecodeError) as error:
            self._counts["unencodable_" + getattr(error, "reason", "row")] += 1
            return None

    def unpack(self, schema: Schema, key: tuple[Any, ...], address: Key, found: Found) -> Row | None:
        """The row of a value; None when it says nothing about this shape, or is another row."""
        codec, start, shape_size = self._rows.get(schema) or self._row_codec(schema)
        try:
            body = self._entries.body(found.entry, start, shape_size) if start else None
            values = self._unpacked(codec, address, found) if body is None else codec.decode(body)
        except DecodeError as error:
            self._counts["decode_" + getattr(error, "reason", "row")] += 1
            self._discard(address, found)
            return None
        if values is None or schema.shared_key_of(values) != key:
            return None
        return Row(values, schema.shared, "l2")

    def unpack_many(
        self, schema: Schema, addresses: Mapping[Key, tuple[Any, ...]], found: Mapping[Key, Found]
    ) -> Iterator[tuple[tuple[Any, ...], Key, Found, Row | None]]:
        """As :meth:`unpack` for the values of a batch, by the fewest steps for plain ones; None where no row is."""
        codec, start, shape_size = self._rows.get(schema) or self._row_codec(schema)
        body_of, decode, key_of, shared = self._entries.body, codec.decode, schema.shared_key_of, schema.shared
        for address, value in found.items():
            key, row = addresses[address], None
            try:
                body = body_of(value.entry, start, shape_size) if start else None
                if body is not None and key_of(values := decode(body)) == key:
                    row = Row(values, shared, "l2")
            except DecodeError:
                body = None
            if body is None and value.entry:
                row = self.unpack(schema, key, address, value)
            yield key, address, value, row

    def _unpacked(self, codec: Any, address: Key, found: Found) -> tuple[Any, ...] | None:
        body = self._entries.find(found.entry, _context(address), self._fingerprint(codec))
        return codec.decode(body) if body is not None else self._adapted(codec, address, found)

    def _adapted(self, codec: Any, address: Key, found: Found) -> tuple[Any, ...] | None:
        if self._scope is not None:
            return None  # a section of another fingerprint may be another tenant's
        for section in self._entries.unpack(found.entry, _context(address)):
            values = adapt(section.shape, section.body, codec)
            if values is not None:
                return values
        return None

    def _row_codec(self, schema: Schema) -> tuple[Any, bytes, int]:
        """The row codec of a shape, and how a plain entry of it begins (empty: every entry must be looked into)."""
        codec = compile_row(schema.fields, self._codec, self._sealing(schema))
        plain = self._scope is None and not self._entries.signed
        start = self._entries.start(codec.fingerprint, codec.shape) if plain else b""
        made = self._rows[schema] = codec, start, len(codec.shape)
        return made

    def _fingerprint(self, codec: Any) -> bytes:
        if self._scope is None:
            return bytes(codec.fingerprint)
        return scoped_fingerprint(codec.fingerprint, self._scope())

    # -- journals --------------------------------------------------------------------------------------------------

    def pack_row(self, schema: Schema, key: tuple[Any, ...], values: tuple[Any, ...]) -> bytes | None:
        """A row as the shared tier and journals hold it; None when it cannot be encoded, or is too large."""
        return self.pack(schema, self.address(key), values)

    def pack_bare(self, schema: Schema, values: tuple[Any, ...]) -> bytes:
        """A row of any size, for this process only. EncodeError if it cannot be exact."""
        codec, _, _ = self._rows.get(schema) or self._row_codec(schema)
        return _BARE + bytes(codec.encode(schema.shared.pick(values)))

    def unpack_row(self, schema: Schema, key: tuple[Any, ...], entry: bytes) -> tuple[Any, ...] | None:
        """What :meth:`pack_row` made, here or in another release; None for another row or a shape that does not fit.

        DecodeError for bytes that are damaged, or encrypted with a key that is not in the ring.
        """
        codec, _, _ = self._rows.get(schema) or self._row_codec(schema)
        if entry.startswith(_BARE):
            bare: tuple[Any, ...] = codec.decode(entry[1:])
            return bare
        values = self._unpacked(codec, self.address(key), Found(entry, 0.0, OVERLAY))
        return values if values is not None and schema.shared_key_of(values) == key else None


def _context(address: Key) -> bytes:
    return f"{address.space}:{address.id}".encode("utf-8", "surrogatepass")


def scoped_fingerprint(fingerprint: bytes, scope: str | None) -> bytes:
    """A shape's fingerprint within one scope, so that tenants share a key but never a value."""
    text = b"-" if scope is None else b"+" + scope.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(fingerprint + text, digest_size=8).digest()
