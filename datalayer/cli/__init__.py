"""The command line: ``datalayer`` or ``python -m datalayer``, one module for each group of commands.

A module of ``_COMMANDS`` has ``add_parser(subparsers)``; what it sets as ``run`` takes the parsed arguments and returns
the exit code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..errors import DataLayerError
from . import migrate

_COMMANDS = (migrate,)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code. Errors of the layer are one line on stderr, without a traceback."""
    parser = argparse.ArgumentParser(prog="datalayer", description="Tools for the datalayer library.")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(subparsers)
    args = parser.parse_args(argv)
    try:
        code: int = args.run(args)
    except DataLayerError as error:
        print(f"datalayer: {error}", file=sys.stderr)
        return 2
    return code
