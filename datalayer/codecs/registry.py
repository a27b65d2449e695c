"""Codecs by name, as settings give them."""

from __future__ import annotations

import difflib
from typing import Any

from ..contracts.codec import Codec
from ..errors import ConfigError
from .json import JsonCodec
from .msgpack import MsgpackCodec

_CODECS: dict[str, Codec] = {"msgpack": MsgpackCodec(), "json": JsonCodec()}


def codec_named(codec: Any) -> Codec:
    """The codec with this name, or the object itself if it is one; ConfigError for anything else."""
    if isinstance(codec, str):
        if codec in _CODECS:
            return _CODECS[codec]
        near = difflib.get_close_matches(codec, _CODECS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"codec is {codec!r}; expected one of {', '.join(map(repr, _CODECS))} or an object{hint}")
    if all(hasattr(codec, name) for name in ("name", "encode", "decode")):
        found: Codec = codec
        return found
    raise ConfigError(f"codec is a {type(codec).__name__!r}; expected a name or an object with name, encode and decode")
