"""A key in a configuration that fails is in no message and in no local variable of the library's frames."""

from __future__ import annotations

import base64
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safe

from datalayer import ConfigError, DataLayer, Settings
from datalayer.config.env import from_env
from datalayer.config.yaml import from_yaml
from datalayer.crypto.providers import EnvelopeKeys, EnvironmentKeys, FileKeys, StaticKeys

GOOD = b"a key that nobody may ever see!!"
SHORT = GOOD[:-2]
MARKS = (b"nobody may ever see", base64.b64encode(SHORT)[:36])


def text(key: bytes) -> str:
    return f"k1:{base64.b64encode(key).decode()}"


class Service:
    def unwrap(self, key_id: str, wrapped: bytes) -> bytes:
        return SHORT


def key_file(folder: Path, content: str) -> Path:
    path = folder / "keys"
    path.write_text(content)
    path.chmod(0o600)
    return path


def yaml_file(folder: Path) -> Path:
    path = folder / "settings.yaml"
    path.write_text(f"url: sqlite://\nencryption_keys: {text(SHORT)}\n")
    return path


MISTAKES: dict[str, Callable[[Path], object]] = {
    "a short key": lambda _: Settings(encryption_keys={"k1": SHORT}),
    "a short key as text": lambda _: Settings.from_mapping({"encryption_keys": text(SHORT)}),
    "a key in the place of its id": lambda _: Settings(encryption_keys=StaticKeys({GOOD.decode(): GOOD})),
    "no id": lambda _: Settings(encryption_keys=EnvironmentKeys("K", {"K": text(SHORT)[3:]})),
    "the environment": lambda _: from_env({"DATALAYER_ENCRYPTION_KEYS": text(SHORT)}),
    "a YAML file": lambda folder: from_yaml(yaml_file(folder)),
    "a key file": lambda folder: Settings(encryption_keys=FileKeys(key_file(folder, text(SHORT)))),
    "a key file without ids": lambda folder: Settings(encryption_keys=FileKeys(key_file(folder, text(GOOD)[3:]))),
    "a service": lambda _: Settings(encryption_keys=EnvelopeKeys(Service(), {"k1": b"wrapped"})),
    "replacing": lambda _: Settings().replace(encryption_keys={"k1": SHORT}),
    "a layer": lambda _: DataLayer("sqlite://", models=safe.Base, encryption_keys={"k1": SHORT}),
    "another option": lambda _: DataLayer("sqlite://", encryption_keys={"k1": GOOD}, l1_ttl="never"),
    "an unknown option": lambda _: Settings(encryption_keys={"k1": GOOD}, l1_tl=1),  # type: ignore[call-arg]
    "no database": lambda _: DataLayer(encryption_keys={"k1": GOOD}),
    "no models": lambda _: DataLayer("sqlite://", models=7, encryption_keys={"k1": GOOD}),
    "no driver": lambda _: DataLayer("nosuch://", encryption_keys={"k1": GOOD}),
}


def shown(error: BaseException) -> str:
    """Everything that an error reporter could find of the library, and what was said."""
    found = []
    chain: Any = error
    while chain is not None:
        found += ["".join(traceback.format_exception(chain)), repr(chain.args)]
        for frame, _ in traceback.walk_tb(chain.__traceback__):
            if frame.f_code.co_filename != __file__:
                found += [f"{frame.f_code.co_qualname}: {value!r}" for value in frame.f_locals.values()]
        chain = chain.__cause__ or chain.__context__
    return "\n".join(found)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_configuration_that_fails_leaves_no_key_behind(tmp_path: Path, mistake: str):
    with pytest.raises(ConfigError) as caught:
        MISTAKES[mistake](tmp_path)
    found = shown(caught.value)
    assert [mark for mark in MARKS if mark.decode() in found] == []
