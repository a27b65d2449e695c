"""AES-GCM and HKDF of ``cryptography``, loaded with the first key: who encrypts nothing does not wait for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def aesgcm(key: bytes) -> AESGCM:
    """AES-GCM with this key."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def forged() -> type[Exception]:
    """What AES-GCM raises for ciphertext that is not of its key, nonce and authenticated data."""
    from cryptography.exceptions import InvalidTag

    return InvalidTag


def hkdf(key: bytes, info: bytes, size: int) -> bytes:
    """HKDF-SHA256 (RFC 5869) without salt."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), size, salt=None, info=info).derive(key)
