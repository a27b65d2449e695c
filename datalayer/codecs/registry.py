"""Codecs by name, as settings give them."""

from __future__ import annotations

from typing import Any

from ..contracts.codec import Codec
from ..contracts.suggest import did_you_mean
from ..errors import ConfigError
from .json import JsonCodec
from .msgpack import MsgpackCodec

_CODECS: dict[str, Codec] = {"msgpack": MsgpackCodec(), "json": JsonCodec()}


def codec_named(codec: Any) -> Codec:
    """The codec with this name, or the object itself if it is one; ConfigError for anything else."""
    if isinstance(codec, str):
        if codec in _CODECS:
            return _CODECS[codec]
        expected = f"expected one of {', '.join(map(repr, _CODECS))} or an object"
        raise ConfigError(f"codec is {codec!r}; {expected}{did_you_mean(codec, _CODECS)}")
    if all(hasattr(codec, name) for name in ("name", "encode", "decode")):
        found: Codec = codec
        return found
    raise ConfigError(f"codec is a {type(codec).__name__!r}; expected a name or an object with name, encode and decode")
