"""``datalayer kv fsck``: is a store in files sound, from a shell.

Exit codes: 0 every store is sound, 1 damage was found (with ``--repair`` it is in quarantine now), 2 a store could not
be checked: there is none, or it is open. Values are never printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ..errors import DataLayerError
from ..kv.file import Report, fsck
from .bar import Bar

_STEP = 100  # files between two strokes of the bar


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``kv`` to the subcommands of a parser; the parsed ``args.run(args)`` returns the exit code."""
    parser: argparse.ArgumentParser = subparsers.add_parser("kv", help="key/value stores in files")
    commands = parser.add_subparsers(dest="kv_command", metavar="COMMAND", required=True)
    text = "read every byte of stores that are closed and say what is damaged"
    check = commands.add_parser(
        "fsck", help=text, description=f"{text}. Exit codes: 0 sound, 1 damaged, 2 not checked."
    )
    check.add_argument("paths", nargs="+", metavar="FOLDER", help="the folder of a FileStore")
    check.add_argument(
        "--repair",
        action="store_true",
        help="finish interrupted commits, and put damaged versions into quarantine, so that those before are served",
    )
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.set_defaults(run=_fsck)
    return parser


def _fsck(args: argparse.Namespace) -> int:
    reports: list[Report] = []
    failures: dict[str, str] = {}
    for path in args.paths:
        try:
            reports.append(_checked(path, args))
        except DataLayerError as error:  # the other stores are checked all the same
            failures[path] = str(error)
    ok = not failures and all(report.ok for report in reports)
    if args.json:
        print(json.dumps({"ok": ok, "stores": [report.to_dict() for report in reports], "failures": failures}))
    else:
        for report in reports:
            print(report)
        for failure in failures.values():
            print(f"datalayer: {failure}", file=sys.stderr)
    return 2 if failures else 0 if ok else 1


def _checked(path: str, args: argparse.Namespace) -> Report:
    with Bar(sys.stderr, unit="files", shown=not args.json) as bar:

        def progress(done: int, total: int) -> None:
            if done % _STEP == 0 or done == total:
                bar(path, done, total)

        return fsck(path, repair=args.repair, progress=progress)
