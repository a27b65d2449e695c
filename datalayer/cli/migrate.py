"""``datalayer migrate``: what a database lacks, shown, printed as SQL, or added; SQL files up and down.

Exit codes: 0 nothing is left to do, 1 steps or files are pending, 3 the models need what is refused or a file would be,
2 the command could not run. ``--plan`` and ``--sql`` only show, so they end with 0 or 3.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..layer import DataLayer
from .bar import Bar
from .opening import add_options, open_layer

if TYPE_CHECKING:
    from ..migrate.history import MigrationRecord

OK, PENDING, REFUSED = 0, 1, 3
_UNUSABLE = ("out-of-order", "edited", "dirty")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``migrate`` to the subcommands of a parser; the parsed ``args.run(args)`` returns the exit code."""
    text = "bring a database up to the models, additively, and run SQL files"
    parser: argparse.ArgumentParser = subparsers.add_parser("migrate", help=text, description=text)
    parser.set_defaults(run=run)
    what = parser.add_mutually_exclusive_group()
    for name, help_text in (
        ("plan", "show the steps and what is refused (the default)"),
        ("apply", "take the steps, then run the files"),
        ("sql", "print the steps as SQL"),
        ("check", "say with the exit code whether something is pending (1) or refused (3)"),
        ("status", "list what was applied and what is pending"),
        ("drift", "compare the live schema with the models"),
    ):
        what.add_argument(f"--{name}", dest="action", action="store_const", const=name, help=help_text)
    what.add_argument("--partitions", type=_count, metavar="N", help="create the partitions of the next N periods")
    what.add_argument("--down", type=_count, metavar="N", help="take back the last N files")
    what.add_argument("--repair", type=int, metavar="VERSION", help="say what became of a dirty file, with --outcome")
    _add_options(parser)
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser)
    parser.add_argument("--files", metavar="DIR", help="a directory of NNN_description.sql files")
    parser.add_argument("--outcome", choices=("applied", "undone"), help="of a dirty file that you have looked at")
    parser.add_argument("--lint", choices=("off", "warn", "refuse"), default="warn", help="what to do about unsafe SQL")
    parser.add_argument(
        "--not-null", choices=("refuse", "multistep"), default="refuse", help="without a server default"
    )
    parser.add_argument("--extension", action="append", default=[], metavar="NAME", help="a PostgreSQL extension")
    parser.add_argument("--lock-timeout", type=float, metavar="SECONDS", help="before a step lets others pass")
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="for another process that migrates")
    parser.add_argument("--alongside-alembic", action="store_true", help="add to a schema that Alembic versions")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number


def run(args: argparse.Namespace) -> int:
    """Open the layer and do what the arguments say."""
    with open_layer(args) as layer:
        if args.repair is not None:
            return _repair(layer, args)
        if args.partitions is not None:
            return _show(args, OK, applied=layer.create_partitions(args.partitions, **_patience(args)).applied)
        if args.down is not None:
            return _show(args, OK, taken_back=layer.migrate_down(args.down, args.files).applied)
        action = _ACTIONS[args.action or "plan"]
        code: int = action(layer, args)
        return code


def _repair(layer: DataLayer, args: argparse.Namespace) -> int:
    if args.outcome is None:
        raise ConfigError("--repair needs --outcome applied or --outcome undone: what has become of the file")
    layer.migrate_repair(args.repair, applied=args.outcome == "applied")
    return _show(args, OK, repaired=[f"{args.repair} counts as {args.outcome}"])


def _patience(args: argparse.Namespace) -> dict[str, Any]:
    given = {"lock_timeout": args.lock_timeout, "wait": args.wait}
    return {name: value for name, value in given.items() if value is not None}


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "not_null": args.not_null,
        "extensions": args.extension,
        "alongside_alembic": args.alongside_alembic,
        **_patience(args),
    }


def _pending_files(layer: DataLayer, args: argparse.Namespace) -> list[MigrationRecord]:
    folder = args.files or layer.settings.migrations_directory
    if folder is None:
        return []
    unsettled = ("pending", *_UNUSABLE)
    return [record for record in layer.migration_status(folder) if record.kind == "sql" and record.state in unsettled]


def _named(files: Iterable[MigrationRecord]) -> list[str]:
    return [f"{file.version}_{file.name} ({file.state})" for file in files]


def _plan(layer: DataLayer, args: argparse.Namespace) -> int:
    found = layer.migration_plan(**_options(args))
    steps = [step.text for step in found.steps]
    files = _pending_files(layer, args)
    code = REFUSED if found.blocked or _unusable(files) else OK
    return _show(args, code, pending=steps, files=_named(files), refused=found.refused)


def _check(layer: DataLayer, args: argparse.Namespace) -> int:
    found = layer.migration_plan(**_options(args))
    steps, files = [step.text for step in found.steps], _pending_files(layer, args)
    refused = found.blocked or _unusable(files)
    code = REFUSED if refused else PENDING if steps or files else OK
    return _show(args, code, pending=steps, files=_named(files), refused=found.blocked)


def _unusable(files: Iterable[MigrationRecord]) -> bool:
    return any(file.state in _UNUSABLE for file in files)


def _sql(layer: DataLayer, args: argparse.Namespace) -> int:
    from ..migrate.offline import render  # Alembic is only loaded by processes that migrate

    found = layer.migration_plan(**_options(args))
    sql, code = render(layer.engine.dialect, found.steps), REFUSED if found.blocked else OK
    if args.json:
        return _show(args, code, sql=[sql], refused=found.refused)
    print(sql, end="")
    for refusal in found.refused:
        print(f"-- refused: {refusal}")
    return code


def _apply(layer: DataLayer, args: argparse.Namespace) -> int:
    with Bar(sys.stderr, unit="rows", of="of about", shown=not args.json) as bar:
        report = layer.migrate(progress=bar, **_options(args))
    folder = args.files or layer.settings.migrations_directory
    files: Iterable[str] = ()
    complaints: Iterable[Any] = ()
    if folder is not None:
        ran = layer.migrate_from(folder, lint=args.lint)
        files, complaints = ran.applied, ran.complaints
    code = REFUSED if report.blocked else OK
    return _show(args, code, applied=[*report.applied, *files], refused=report.refused, lint=map(str, complaints))


def _status(layer: DataLayer, args: argparse.Namespace) -> int:
    return _show(args, OK, migrations=layer.migration_status(args.files))


def _drift(layer: DataLayer, args: argparse.Namespace) -> int:
    found = layer.drift()
    code = REFUSED if found.different else PENDING if found.missing else OK
    return _show(
        args, code, missing=found.missing, different=found.different, extra=found.extra, no_model=found.strangers
    )


_ACTIONS = {
    "plan": _plan, "check": _check, "sql": _sql, "apply": _apply, "status": _status, "drift": _drift,
}  # fmt: skip


def _show(args: argparse.Namespace, code: int, **groups: Iterable[Any]) -> int:
    found = {name: list(items) for name, items in groups.items()}
    if args.json:
        plain = {name: [_plain(item) for item in items] for name, items in found.items()}
        print(json.dumps({"exit_code": code, **plain}, default=str))
        return code
    lines = [f"{name.replace('_', ' ')}: {item}" for name, items in found.items() for item in items]
    print("\n".join(lines) or "nothing to do")
    return code


def _plain(item: Any) -> Any:
    return item.to_dict() if hasattr(item, "to_dict") else str(item)
