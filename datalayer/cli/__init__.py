"""The command line: ``datalayer`` or ``python -m datalayer``, one module for each group of commands.

A module of ``_COMMANDS`` has ``add_parser(subparsers)``; what it sets as ``run`` takes the parsed arguments and returns
the exit code: 0 when all is well, 1 when the answer is no, 2 when the command could not run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..errors import DataLayerError
from . import crypto, generate, kv, migrate, queries, wb

_COMMANDS = (crypto, generate, kv, migrate, queries, wb)


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
