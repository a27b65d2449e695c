"""Runs SQLAlchemy's own test suite against a substituted Session class, and against the stock one to compare.

    python tests/oracle/run.py --subset                     # seven core files, cold and warm: every CI run
    python tests/oracle/run.py --full -n 2 --mode warm      # all of test/orm and test/ext: before a release
    python tests/oracle/run.py --full --compare             # which tests fail with ours and not with the stock class
    python tests/oracle/run.py --version 2.0.58 test/orm/test_session.py -- -k rollback

The suite comes from SQLAlchemy's source distribution, which pip downloads once into a cache folder. A version other
than the installed one runs from that source (without its compiled parts). ORACLE_CLASS chooses the class under test.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_CORE = ("session", "unitofwork", "unitofworkv2", "query", "lazy_relations", "transaction", "merge")
_SUBSET = [f"test/orm/test_{name}.py" for name in _CORE]
_FULL = ["test/orm", "test/ext"]
_ADDOPTS = "--tb=short --maxfail=400 -p warnings -p logging --strict-markers -r fE"


def main() -> int:
    options, extra = _arguments()
    modes = ["stock", *options.mode] if options.compare else options.mode
    with tempfile.TemporaryDirectory(prefix="datalayer-oracle-") as folder:
        suite = _unpack(_download(options.version, options.cache), Path(folder))
        results = [_run(suite, mode, options, extra) for mode in dict.fromkeys(modes)]
    if options.compare:
        return _compare(results)
    return int(any(result["exit"] for result in results))


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    ours, extra = sys.argv[1:], []
    if "--" in ours:
        cut = ours.index("--")
        ours, extra = ours[:cut], ours[cut + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", default=installed_version("sqlalchemy"), help="of SQLAlchemy (default: installed)")
    choices = ["cold", "warm", "stock"]
    parser.add_argument("--mode", action="append", choices=choices, help="may be repeated (default: cold and warm)")
    parser.add_argument("--subset", action="store_true", help="the seven core files (the default)")
    parser.add_argument("--full", action="store_true", help="test/orm and test/ext")
    parser.add_argument("--compare", action="store_true", help="run stock too; fail on tests that only ours fails")
    parser.add_argument("-n", default="2", help="number of processes (default 2)")
    parser.add_argument("--cache", type=Path, default=_default_cache(), help="folder for the downloads")
    parser.add_argument("tests", nargs="*", help="files or folders of the suite instead")
    options = parser.parse_args(ours)
    options.mode = options.mode or ["cold", "warm"]
    options.tests = options.tests or (_FULL if options.full else _SUBSET)
    return options, extra


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "datalayer-oracle"


def _download(version: str, cache: Path) -> Path:
    archive = cache / f"sqlalchemy-{version}.tar.gz"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # sqlalchemy alone, not :all:, or pip would build the build tools from source too.
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "sqlalchemy"]
        subprocess.run([*pip, "-d", str(cache), f"sqlalchemy=={version}"], check=True, stdin=subprocess.DEVNULL)
    return archive


def _unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return next(folder.iterdir())


def _run(suite: Path, mode: str, options: argparse.Namespace, extra: list[str]) -> dict[str, Any]:
    report = suite / f"oracle-{mode}.json"
    command = [sys.executable, "-s", "-m", "pytest", "-p", "datalayer_oracle", "-p", "no:cacheprovider", "-q"]
    command += ["-o", f"addopts={_ADDOPTS}", f"-n{options.n}", *options.tests, *extra]
    started = time.monotonic()
    done = subprocess.run(command, cwd=suite, env=_environment(suite, mode, report, options.version), check=False)
    result: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {"failed": [], "outcomes": {}}
    counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(result["outcomes"].items()))
    print(f"oracle {options.version} {mode}: {counts or 'no result'} ({time.monotonic() - started:.0f} s)", flush=True)
    return {**result, "mode": mode, "exit": done.returncode}


def _environment(suite: Path, mode: str, report: Path, version: str) -> dict[str, str]:
    paths = [str(_HERE)]
    if version != installed_version("sqlalchemy"):
        paths.insert(0, str(suite / "lib"))
    if (package := find_spec("datalayer")) and package.origin:
        paths.append(str(Path(package.origin).parents[1]))
    if already := os.environ.get("PYTHONPATH"):
        paths.extend(str(Path(entry).resolve()) for entry in already.split(os.pathsep))
    ours = {"ORACLE_MODE": mode, "ORACLE_REPORT": str(report), "PYTHONPATH": os.pathsep.join(paths)}
    # Without the user's site folder the suite's conftest leaves the import path alone and tests what we chose.
    return {**os.environ, **ours, "PYTHONNOUSERSITE": "1"}


def _compare(results: list[dict[str, Any]]) -> int:
    stock = set(results[0]["failed"])
    worse = 0
    for result in results[1:]:
        ours = set(result["failed"])
        broken = not result.get("substituted", False)
        print(f"{result['mode']}: {len(ours - stock)} fail with ours only, {len(stock - ours)} with stock only")
        for test in sorted(ours - stock):
            print(f"  only ours: {test}")
        if broken:
            print("  no result, or the class under test was not used")
        worse += broken or bool(ours - stock)
    return int(worse > 0)


if __name__ == "__main__":
    sys.exit(main())
