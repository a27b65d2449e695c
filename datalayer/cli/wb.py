"""``datalayer wb status | flush | dlq list|retry|drop``: queued writes and dead letters, from a shell.

Keys, tables, counts and reasons are printed, never a row. Exit codes: 0 when nothing is left and nothing is dead,
1 when something is, 2 when the command could not run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from ..errors import DataLayerError
from ..layer import DataLayer
from ..writes.letters import DeadLetter
from ..writes.reports import FlushReport, QueueStatus
from .opening import add_options, open_layer


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``wb`` to the subcommands of a parser; the parsed ``args.run(args)`` returns the exit code."""
    parser: argparse.ArgumentParser = subparsers.add_parser("wb", help="queued writes and dead letters")
    commands = parser.add_subparsers(dest="wb_command", required=True)
    _add(commands, "status", _status, "count what is queued, waits to be tried again, or is dead; flushes nothing")
    flush = _add(commands, "flush", _flush, "bring queued writes to the database now")
    flush.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="60 unless given")
    letters = commands.add_parser("dlq", help="writes that the database refused too often")
    actions = letters.add_subparsers(dest="dlq_command", required=True)
    listing = _add(actions, "list", _list, "show dead letters, oldest write first")
    listing.add_argument("--limit", type=int, default=100, metavar="N", help="100 unless given")
    for name, run, text in (
        ("retry", _retry, "try them again, at once; a newer write of a row still wins"),
        ("drop", _drop, "throw them away for good"),
    ):
        action = _add(actions, name, run, text)
        chosen = action.add_mutually_exclusive_group(required=True)
        chosen.add_argument("ids", nargs="*", type=int, default=[], metavar="ID", help="numbers that dlq list shows")
        chosen.add_argument("--all", action="store_true", help="every dead letter")
    return parser


def _add(commands: Any, name: str, run: Callable[[DataLayer, Any], int], text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    add_options(command, needs_models=True)
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=_guarded(run))
    return command


def _guarded(run: Callable[[DataLayer, Any], int]) -> Callable[[argparse.Namespace], int]:
    def guarded(args: argparse.Namespace) -> int:
        try:
            with open_layer(args) as layer:
                return run(layer, args)
        except DataLayerError as error:
            print(f"datalayer wb: {error}", file=sys.stderr)
            return 2

    return guarded


def _status(layer: DataLayer, args: argparse.Namespace) -> int:
    status = layer.queue_status()
    _say(args, status.to_dict(), _status_lines(status))
    return 1 if status.queued or status.waiting or status.dead else 0


def _status_lines(status: QueueStatus) -> list[str]:
    lines = [f"  {name}: {count}" for name, count in status.journals.items()]
    return [
        f"{status.queued} queued, {status.waiting} refused and to be tried again, {status.dead} dead letters",
        *lines,
    ]


def _flush(layer: DataLayer, args: argparse.Namespace) -> int:
    report = layer.flush(args.timeout)
    _say(args, report.to_dict(), [_flushed(report)])
    return 0 if report.ok and not report.dead else 1


def _flushed(report: FlushReport) -> str:
    text = f"{report.flushed} flushed in {report.seconds:.1f} s, {report.left} left, {report.waiting} to be tried again"
    return f"{text}, {report.dead} dead letters" + (f"; stopped by {report.error}" if report.error else "")


def _list(layer: DataLayer, args: argparse.Namespace) -> int:
    letters = layer.dead_letters().list(limit=args.limit)
    _say(args, {"letters": [letter.to_dict() for letter in letters]}, [_line(letter) for letter in letters])
    return 1 if letters else 0


def _line(letter: DeadLetter) -> str:
    when = letter.last_failed.strftime("%Y-%m-%d %H:%M:%S")
    return (
        f"{letter.id}: {letter.kind} {letter.table} {letter.key}, {letter.attempts} tries until {when}: {letter.reason}"
    )


def _retry(layer: DataLayer, args: argparse.Namespace) -> int:
    letters = layer.dead_letters()
    tried = letters.retry(None if args.all else args.ids)
    report = layer.flush(60.0)
    left = len(letters)
    _say(args, {"tried": tried, "dead": left}, [f"{tried} tried again, {left} dead letters"])
    return 0 if report.ok and not left else 1


def _drop(layer: DataLayer, args: argparse.Namespace) -> int:
    letters = layer.dead_letters()
    dropped, left = letters.drop(None if args.all else args.ids), len(letters)
    _say(args, {"dropped": dropped, "dead": left}, [f"{dropped} dropped, {left} dead letters"])
    return 1 if left else 0


def _say(args: argparse.Namespace, found: dict[str, Any], lines: list[str]) -> None:
    print(json.dumps(found) if args.json else "\n".join(lines))
