"""``datalayer generate KIND NAME``: the first version of a model, a store and the like, with its test.

What is generated works and passes its test as it is; it is meant to be changed from there. The templates lie beside
this module, one file each.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from ..errors import AlreadyExistsError, ConfigError

#: What can be generated, and the files that it takes: the name of a file is a template, too.
KINDS: Mapping[str, tuple[str, ...]] = {
    "model": ("$snake.py", "test_$snake.py"),
    "repository": ("${snake}_repository.py", "test_${snake}_repository.py"),
    "store": ("${snake}_store.py", "test_${snake}_store.py"),
    "provider": ("${snake}_provider.py", "test_${snake}_provider.py"),
    "benchmark": ("bench_$snake.py", "test_bench_$snake.py"),
}

_HELP = {
    "model": "a mapped class that is cached",
    "repository": "a repository of a model, with a query of its own",
    "store": "a key/value store, held to the suite of stores",
    "provider": "a provider of tables, held to the suite of providers",
    "benchmark": "a script that compares a provider with a dict",
}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True, slots=True)
class Generated:
    """A file and its text."""

    path: Path
    text: str


def generate(kind: str, name: str, *, into: Path = Path(), force: bool = False, write: bool = True) -> list[Generated]:
    """Generate a ``kind`` called ``name`` into a folder, and return the files; ``write=False`` only says what they are.

    ConfigError for a kind or name that is none; AlreadyExistsError, and nothing is written, where a file exists,
    unless ``force`` replaces it.
    """
    if kind not in KINDS:
        raise ConfigError(f"found {kind!r}, expected one of {', '.join(KINDS)}")
    names = names_of(name)
    made = [_filled(kind, number, file, names, into) for number, file in enumerate(KINDS[kind])]
    existing = [str(file.path) for file in made if file.path.exists()]
    if existing and write and not force:
        raise AlreadyExistsError(
            f"{', '.join(existing)} exists; choose another name or folder, or replace it with --force"
        )
    if write:
        into.mkdir(parents=True, exist_ok=True)
        for file in made:
            file.path.write_text(file.text)
    return made


def names_of(name: str) -> dict[str, str]:
    """A name as class and as module: ``GameScore`` and ``game_score``, from either; ConfigError for what is no name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name is {name!r}; expected letters, digits and underscores, such as Player or game_score")
    snake = _HUMP.sub("_", name).lower().strip("_")
    camel = "".join(part[:1].upper() + part[1:] for part in snake.split("_"))
    return {"snake": snake, "camel": camel, "plural": f"{snake}s"}


def _filled(kind: str, number: int, file: str, names: Mapping[str, str], into: Path) -> Generated:
    template = files(__package__).joinpath("templates", f"{'test_' if number else ''}{kind}.py.txt").read_text()
    return Generated(into / Template(file).substitute(names), Template(template).substitute(names))


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``generate`` to the subcommands of a parser; the parsed ``args.run(args)`` returns the exit code."""
    text = "write the first version of something, with its test"
    parser: argparse.ArgumentParser = subparsers.add_parser("generate", help=text, description=text)
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for kind, what in _HELP.items():
        one = kinds.add_parser(kind, help=what, description=what)
        one.add_argument("name", help="its name, such as Player or game_score")
        one.add_argument("--into", type=Path, default=Path(), metavar="FOLDER", help="where to (default: here)")
        one.add_argument("--force", action="store_true", help="replace files that exist")
        one.add_argument("--dry-run", action="store_true", help="print the text and write nothing")
        one.add_argument("--json", action="store_true", help="print one JSON object")
        one.set_defaults(run=_run)
    return parser


def _run(args: argparse.Namespace) -> int:
    made = generate(args.kind, args.name, into=args.into, force=args.force, write=not args.dry_run)
    if args.json:
        print(json.dumps({"files": [{"path": str(file.path), "text": file.text} for file in made]}))
    elif args.dry_run:
        print("\n".join(f"# {file.path}\n{file.text}" for file in made))
    else:
        print("\n".join(str(file.path) for file in made))
    return 0
