"""The layer that a command works on, from its arguments: a file, a URL, or the environment."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any

from ..errors import ConfigError
from ..layer import DataLayer


def add_options(parser: argparse.ArgumentParser, *, needs_models: bool = False) -> None:
    """The options that :func:`open_layer` reads."""
    parser.add_argument(
        "--models", required=needs_models, metavar="MODULE:NAME", help="a declarative base, or a list of models"
    )
    parser.add_argument("--config", metavar="FILE", help="a YAML file; by default the environment (DATALAYER_URL, ...)")
    parser.add_argument("--url", help="the database, instead of DATALAYER_URL")


def open_layer(args: argparse.Namespace) -> DataLayer:
    """A layer over the database that was asked for. ConfigError if it cannot be told."""
    models = imported(args.models, "--models") if args.models else []
    if args.config:
        return DataLayer.from_yaml(args.config, models=models)
    if args.url:
        return DataLayer(args.url, models=models)
    return DataLayer.from_env(models=models)


def imported(path: str, option: str) -> Any:
    """What ``module:name`` names, from the working directory too."""
    module, colon, name = path.partition(":")
    if not colon:
        raise ConfigError(f"{option} is {path!r}, expected MODULE:NAME, such as myapp.models:Base")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{option} {path!r} cannot be imported: {error}") from error
