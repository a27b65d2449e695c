"""Settings from environment variables: ``DATALAYER_`` and the name of the option in capitals."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..contracts.suggest import hint
from ..errors import ConfigError
from .forget import forgetful
from .settings import Settings


@forgetful
def from_env(environ: Mapping[str, str] = os.environ, prefix: str = "DATALAYER_") -> Settings:
    """The settings that the variables beginning with ``prefix`` describe; an empty one counts as not set.

    Numbers, durations and sizes are written as in code, flags as true/false, 1/0, yes/no, on/off,
    ``encryption_keys`` as ``k2:base64,k1:base64``, ``l2_mac_key`` in base64. Variables beginning with ``<prefix>TEST_``
    belong to the test suite, ``<prefix>TABLES_`` to :mod:`datalayer.tables`. ConfigError names the variable, never a
    secret; a misspelt one gets a suggestion.
    """
    options = {prefix + name.upper(): item for name, item in Settings.options().items()}
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith(prefix) or variable.startswith((f"{prefix}TEST_", f"{prefix}TABLES_")):
            continue
        if (found := options.get(variable)) is None:
            raise ConfigError(f"{variable}: no option has this name; {hint(variable, options)}")
        if text.strip():
            values[found.name] = found.kind.from_text(text, variable)
    return _checked(values, prefix)


def _checked(values: dict[str, Any], prefix: str) -> Settings:
    try:
        return Settings(**values)
    except ConfigError as error:
        # Each value is right by itself here: what is wrong is a combination.
        raise ConfigError(f"environment variables {prefix}*: {error}") from None
