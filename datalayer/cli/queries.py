"""``datalayer queries check | interface``: whether named queries fit a database, and the class that declares them.

Each query is prepared and none is run. Exit codes: 0 all fit, 1 one does not (it is named, the others after it are not
looked at), 2 the command could not run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

import sqlalchemy as sa

from ..errors import L3UnavailableError, QueryError
from ..layer import DataLayer
from ..query.check import QueriesReport
from .opening import add_options, imported, open_layer

OK, UNFIT = 0, 1


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``queries`` to the subcommands of a parser; the parsed ``args.run(args)`` returns the exit code."""
    parser: argparse.ArgumentParser = subparsers.add_parser("queries", help="named queries in .sql files")
    commands = parser.add_subparsers(dest="queries_command", required=True)
    text = "prepare each query against the database; fails on the first that does not fit"
    check: argparse.ArgumentParser = commands.add_parser("check", help=text, description=text)
    check.set_defaults(run=run)
    check.add_argument("--interface", metavar="MODULE:NAME", help="the class that declares the queries")
    check.add_argument("--json", action="store_true", help="print one JSON object")
    text = "print the source of a class that declares the queries, with the types that PostgreSQL says"
    interface: argparse.ArgumentParser = commands.add_parser("interface", help=text, description=text)
    interface.set_defaults(run=run_interface)
    interface.add_argument("--name", default="Interface", help="what the class is called")
    for command in (check, interface):
        command.add_argument("directory", help="where the .sql files are")
        command.add_argument(
            "--migrate", action="store_true", help="first add what the models have and the database lacks"
        )
        add_options(command)
    return parser


def run(args: argparse.Namespace) -> int:
    """Check the queries and show what was found."""
    interface = imported(args.interface, "--interface") if args.interface else None
    with open_layer(args) as layer:
        if args.migrate:
            layer.migrate()
        try:
            report = _checked(layer, args.directory, interface)
        except QueryError as error:
            report = QueriesReport(failure=str(error))
    return _show(args, report)


def run_interface(args: argparse.Namespace) -> int:
    """Print the class, or which query does not fit."""
    with open_layer(args) as layer:
        if args.migrate:
            layer.migrate()
        try:
            print(layer.query_interface(args.directory, args.name), end="")
        except QueryError as error:
            print(f"does not fit: {error}", file=sys.stderr)
            return UNFIT
    return OK


def _checked(layer: DataLayer, directory: str, interface: Any) -> QueriesReport:
    try:
        return layer.check_queries(directory, interface)
    except sa.exc.OperationalError as error:
        raise L3UnavailableError(f"the database cannot be reached: {type(error.orig).__name__}") from error


def _show(args: argparse.Namespace, report: QueriesReport) -> int:
    code = OK if report.ok else UNFIT
    if args.json:
        checked = [dataclasses.asdict(query) for query in report.checked]
        print(json.dumps({"exit_code": code, "checked": checked, "failure": report.failure}))
        return code
    for query in report.checked:
        print(
            f"ok: {query.file}:{query.line} {query.name}({_typed(query.parameters)}) -> {_typed(query.columns) or '-'}"
        )
    if report.failure is not None:
        print(f"does not fit: {report.failure}", file=sys.stderr)
    return code


def _typed(types: Any) -> str:
    return ", ".join(f"{name} {kind}".rstrip() for name, kind in types.items())
