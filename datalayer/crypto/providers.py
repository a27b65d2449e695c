"""Where keys come from: given in code, an environment variable, a file, or wrapped by a key management service.

Each has ``load()``, which :class:`datalayer.Settings` calls once: ``Settings(encryption_keys=FileKeys("/run/keys"))``.
Anything else with such a method will do. What is returned is checked there; no message here quotes what was found.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from ..contracts.cipher import KeyProvider, KeyUnwrapper
from ..errors import ConfigError
from .keyring import KEY_BYTES, is_key_id

__all__ = ["EnvelopeKeys", "EnvironmentKeys", "FileKeys", "KeyProvider", "KeyUnwrapper", "StaticKeys"]


class StaticKeys:
    """Keys that the application has already, active key first. For tests, and for key stores of its own."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = dict(keys)

    def load(self) -> Mapping[str, bytes]:
        return self._keys

    def __repr__(self) -> str:
        return f"<StaticKeys: {len(self._keys)}>"


class EnvironmentKeys:
    """Keys in an environment variable as ``k2:base64,k1:base64``, active key first."""

    def __init__(self, name: str = "DATALAYER_ENCRYPTION_KEYS", environ: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._environ = environ

    def load(self) -> str:
        text = (os.environ if self._environ is None else self._environ).get(self.name, "").strip()
        if not text:
            raise ConfigError(
                f"the environment variable {self.name} is not set; expected encryption keys as 'k2:base64,k1:base64'"
            )
        return text

    def __repr__(self) -> str:
        return f"<EnvironmentKeys {self.name}>"


class FileKeys:
    """Keys in a file, one ``key id:base64`` a line, active key first; ``#`` begins a comment.

    A file that everybody may write is refused: whoever can replace the keys can read what is written from then on.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def load(self) -> str:
        try:
            with self.path.open(encoding="ascii") as file:
                if os.fstat(file.fileno()).st_mode & stat.S_IWOTH:
                    raise ConfigError(f"the key file {self.path} may be written by everybody; chmod 600 it")
                lines = [line.split("#")[0].strip() for line in file]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the key file {self.path} cannot be read ({type(error).__name__})") from None
        keys = [line for line in lines if line]
        if not keys:
            raise ConfigError(f"the key file {self.path} holds no key; expected lines such as 'k1:base64'")
        return ",".join(keys)

    def __repr__(self) -> str:
        return f"<FileKeys {self.path}>"


class EnvelopeKeys:
    """Data keys that lie in the configuration encrypted, and that a key management service decrypts at start-up.

    ``wrapped``: ``{key id: wrapped key}``, active key first. ``service`` is asked once for each.
    """

    def __init__(self, service: KeyUnwrapper, wrapped: Mapping[str, bytes]) -> None:
        self._service = service
        self._wrapped = dict(wrapped)

    def load(self) -> Mapping[str, bytes]:
        return {key_id: self._unwrapped(key_id, blob) for key_id, blob in self._wrapped.items()}

    def _unwrapped(self, key_id: str, blob: bytes) -> bytes:
        shown = repr(key_id) if is_key_id(key_id) else "a key whose id does not fit"
        try:
            key = self._service.unwrap(key_id, blob)
        except Exception as error:
            # Its text is the service's business, and might hold what it was asked about.
            raise ConfigError(f"{shown} could not be unwrapped: the service raised {type(error).__name__}") from None
        if not isinstance(key, bytes) or len(key) != KEY_BYTES:
            del key
            raise ConfigError(f"{shown} was unwrapped to something else than {KEY_BYTES} bytes")
        return key

    def __repr__(self) -> str:
        return f"<EnvelopeKeys: {len(self._wrapped)}>"
