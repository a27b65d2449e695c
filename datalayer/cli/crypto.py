"""``datalayer crypto rotate | status | verify``: the keys of a database's encrypted columns, from a shell.

Nothing here prints a value or a key: tables, columns, key ids, primary keys and counts only. Exit codes: 0 when all is
as it should be, 1 when rows are left or do not decrypt, 2 when the command could not run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any, TextIO

from ..crypto.manage import Crypto, CryptoStatus, VerifyReport
from ..crypto.rotate import Progress, RotationReport
from ..errors import DataLayerError
from .opening import add_options, open_layer

_WIDTH = 30


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``crypto`` to the subcommands of a parser; the parsed ``args.run(args)`` returns the exit code."""
    parser: argparse.ArgumentParser = subparsers.add_parser("crypto", help="keys of encrypted columns")
    commands = parser.add_subparsers(dest="crypto_command", required=True)
    for name, run, text in (
        ("rotate", _rotate, "encrypt every value anew under the active key; run again to continue"),
        ("status", _status, "count the values under each key"),
        ("verify", _verify, "decrypt every value, write nothing"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        _add_options(command)
        if run is not _rotate:
            command.add_argument("--after", metavar="TABLE:KEY", help="continue where an interrupted run stopped")
        command.set_defaults(run=_guarded(run))
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tables", nargs="*", help="tables to look at; all of them by default")
    add_options(parser, needs_models=True)
    parser.add_argument("--batch-size", type=_positive, default=None, metavar="N", help="rows in a batch")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number


def _guarded(run: Callable[[Crypto, argparse.Namespace, dict[str, Any]], int]) -> Callable[[argparse.Namespace], int]:
    def guarded(args: argparse.Namespace) -> int:
        bar = _Bar(sys.stderr, shown=not args.json)
        try:
            with open_layer(args) as layer, bar:
                return run(layer.crypto, args, _options(args, bar))
        except KeyboardInterrupt:
            print(f"datalayer crypto: interrupted; {_advice(args, bar.last)}", file=sys.stderr)
            return 130
        except DataLayerError as error:
            print(f"datalayer crypto: {error}", file=sys.stderr)
            return 2

    return guarded


def _options(args: argparse.Namespace, bar: _Bar) -> dict[str, Any]:
    return {"progress": bar} if args.batch_size is None else {"progress": bar, "batch_size": args.batch_size}


def _advice(args: argparse.Namespace, last: Progress | None) -> str:
    position = last.position if last is not None else None
    if args.crypto_command == "rotate" or position is None:
        return "run it again to continue" if args.crypto_command == "rotate" else "run it again"
    return f"--after {position} continues from there"


def _rotate(crypto: Crypto, args: argparse.Namespace, options: dict[str, Any]) -> int:
    report = crypto.rotate(*args.tables, **options)
    _say(args, report.to_dict(), _rotation_lines(report))
    return 0 if report.ok else 1


def _status(crypto: Crypto, args: argparse.Namespace, options: dict[str, Any]) -> int:
    status = crypto.status(*_rest(crypto, args, options), **options)
    _say(args, status.to_dict(), _status_lines(status))
    return 0 if status.ok else 1


def _verify(crypto: Crypto, args: argparse.Namespace, options: dict[str, Any]) -> int:
    report = crypto.verify(*_rest(crypto, args, options), **options)
    _say(args, report.to_dict(), _verify_lines(report))
    return 0 if report.ok else 1


def _rest(crypto: Crypto, args: argparse.Namespace, options: dict[str, Any]) -> list[str]:
    """The tables that are left, with the place to continue from among the options."""
    if args.after is None:
        return list(args.tables)
    options["after"] = crypto.resume(args.after)
    (begun,) = options["after"]
    names = list(args.tables or crypto.tables)
    return names[names.index(begun) :] if begun in names else names


def _say(args: argparse.Namespace, found: dict[str, Any], lines: list[str]) -> None:
    print(json.dumps(found) if args.json else "\n".join(lines))


def _rotation_lines(report: RotationReport) -> list[str]:
    lines = [
        f"{t.table}: {t.rotated} rotated, {t.overtaken} overtaken by writers, {t.failed} failed, {t.remaining} left"
        for t in report.tables
    ]
    lines += [f"  {p.table} {p.key}: {p.reason}" for t in report.tables for p in t.problems]
    return [*lines, f"everything is under {report.active!r}" if report.ok else "rows are left; run it again"]


def _status_lines(status: CryptoStatus) -> list[str]:
    lines = [f"active key {status.active!r}; ring {', '.join(status.ring)}"]
    for c in status.columns:
        keys = ", ".join(f"{key_id} {count}" for key_id, count in c.keys.items()) or "no ciphertext"
        lines.append(
            f"{c.table}.{c.column}: {keys}; readable {c.readable}, empty {c.empty}, stale digests {c.stale_digests}"
        )
    return [*lines, f"not in the ring: {', '.join(status.missing)}"] if status.missing else lines


def _verify_lines(report: VerifyReport) -> list[str]:
    lines = [f"  {p.table} {p.key}: {p.reason}" for p in report.problems]
    return [f"{report.checked} values checked, {report.failed} failed", *lines]


class _Bar:
    """A line that is drawn over itself, on a terminal only."""

    def __init__(self, stream: TextIO, *, shown: bool) -> None:
        self._stream = stream
        self._shown = shown and stream.isatty()
        self._drawn = False
        self.last: Progress | None = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn:
            self._stream.write("\n")

    def __call__(self, progress: Progress) -> None:
        self.last = progress
        self.draw(progress)

    def draw(self, progress: Progress) -> None:
        """The line for a progress."""
        if not self._shown:
            return
        share = progress.done / progress.total if progress.total else 1.0
        filled = "#" * round(share * _WIDTH)
        self._stream.write(f"\r{progress.table} [{filled:<{_WIDTH}}] {progress.done}/{progress.total} ")
        self._stream.flush()
        self._drawn = True
