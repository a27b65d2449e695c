"""Keys from code, the environment, a file, and a key management service."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safe import BOTH, K1, K2

from datalayer import ConfigError, Settings
from datalayer.config.env import from_env
from datalayer.crypto.providers import EnvelopeKeys, EnvironmentKeys, FileKeys, KeyProvider, StaticKeys

TEXT = f"k2:{base64.b64encode(K2).decode()},k1:{base64.urlsafe_b64encode(K1).decode().rstrip('=')}"


class Service:
    """Unwraps by reversing; a stand-in that keeps no key in its words."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def unwrap(self, key_id: str, wrapped: bytes) -> bytes:
        self.asked.append(key_id)
        if key_id == "broken":
            raise RuntimeError(f"cannot unwrap {wrapped!r}")
        return wrapped[::-1]


def the_ring(provider: KeyProvider) -> Mapping[str, bytes]:
    return Settings(encryption_keys=provider).encryption_keys


def test_every_provider_gives_the_same_ring(tmp_path: Path):
    path = tmp_path / "keys"
    path.write_text("# comment\n" + TEXT.replace(",", "\n\n") + "  # the old one\n")
    path.chmod(0o600)
    providers: list[KeyProvider] = [
        StaticKeys(BOTH),
        EnvironmentKeys("KEYS", {"KEYS": TEXT}),
        FileKeys(path),
        EnvelopeKeys(Service(), {"k2": K2[::-1], "k1": K1[::-1]}),
    ]
    for provider in providers:
        assert list(the_ring(provider).items()) == list(BOTH.items())
        assert TEXT[4:20] not in repr(provider)
    assert list(from_env({"DATALAYER_ENCRYPTION_KEYS": TEXT}).encryption_keys.items()) == list(BOTH.items())


def test_a_service_is_asked_once_for_each_key():
    service = Service()
    settings = Settings(encryption_keys=EnvelopeKeys(service, {"k2": K2[::-1], "k1": K1[::-1]}))
    assert settings.replace(l1_ttl=1).encryption_keys["k1"] == K1
    assert service.asked == ["k2", "k1"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: EnvironmentKeys("NOT_THERE", {}), "NOT_THERE is not set"),
        (lambda path: EnvironmentKeys("KEYS", {"KEYS": "c2VjcmV0"}), "key number 1 has no id"),
        (lambda path: FileKeys(path / "absent"), r"absent cannot be read \(FileNotFoundError\)"),
        (lambda path: FileKeys(_file(path, "# nothing\n")), "holds no key"),
        (lambda path: FileKeys(_file(path, "ä" * 40)), "cannot be read"),
        (lambda path: FileKeys(_file(path, TEXT, 0o666)), "may be written by everybody"),
        (
            lambda path: EnvelopeKeys(Service(), {"broken": b"c2VjcmV0"}),
            "'broken' could not be unwrapped.*RuntimeError",
        ),
        (
            lambda path: EnvelopeKeys(Service(), {"k1": b"c2VjcmV0"}),
            "'k1' was unwrapped to something else than 32 bytes",
        ),
        (lambda path: EnvelopeKeys(Service(), {"c2VjcmV0 " * 3: b"x"}), "a key whose id does not fit"),
        (lambda path: StaticKeys({"k1": b"c2VjcmV0"}), r"\['k1'\]: found 8 bytes, expected 32 bytes"),
    ],
)
def test_keys_that_are_not_there_are_said_without_showing_any(tmp_path: Path, make: Any, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        the_ring(make(tmp_path))
    assert "c2VjcmV0" not in str(caught.value)
    assert caught.value.__cause__ is None


def _file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path
