"""A pytest plugin that lets SQLAlchemy's own test suite judge a Session class that wants to stand in for its own.

ORACLE_MODE is ``stock`` (only count), ``cold`` or ``warm`` (substitute; what the words mean is the class's own affair).
ORACLE_CLASS names the class, ``module:Name``. Its module may have ``reset()``, called before each test, and
``REPORT()``, a dict of numbers that is summed over the workers and printed. ORACLE_REPORT is the file that gets the
result as JSON.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import tomllib
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import sqlalchemy.orm as orm
from sqlalchemy.orm.session import Session as StockSession

_DEFAULT_CLASS = "datalayer.testing.oracle:OracleSession"
_LEAST_SHARE = 0.9  # the rest are the suite's own subclasses and direct uses of sqlalchemy.orm.session.Session

_mode = os.environ.get("ORACLE_MODE", "stock")
_sessions: Counter[str] = Counter()
_outcomes: Counter[str] = Counter()
_failed: set[str] = set()
_report: Counter[str] = Counter()


def _nothing() -> dict[str, int]:
    return {}


def _substitute() -> tuple[Callable[[], object], Callable[[], dict[str, int]]]:
    """Put the class where user code gets its Session from; return its module's ``reset`` and ``REPORT``."""
    if _mode == "stock":
        _count(StockSession)
        return _nothing, _nothing
    module_name, _, name = os.environ.get("ORACLE_CLASS", _DEFAULT_CLASS).partition(":")
    module = importlib.import_module(module_name)
    cls = getattr(module, name)
    if not issubclass(cls, StockSession):
        raise TypeError(f"ORACLE_CLASS {module_name}:{name} is not a subclass of sqlalchemy.orm.Session")
    orm.Session = cls  # type: ignore[misc]
    # sqlalchemy.orm.session.Session stays as it is: tests of the suite compare it with its own __dict__.
    defaults = orm.sessionmaker.__init__.__kwdefaults__
    orm.sessionmaker.__init__.__kwdefaults__ = {**(defaults or {}), "class_": cls}  # type: ignore[misc]
    if find_spec("greenlet"):  # SQLAlchemy's asyncio part cannot be imported without it
        importlib.import_module("sqlalchemy.ext.asyncio").AsyncSession.sync_session_class = cls
    _count(cls)
    return getattr(module, "reset", _nothing), getattr(module, "REPORT", _nothing)


def _count(cls: type[StockSession]) -> None:
    """Count what is really constructed, so that a substitution that does not take cannot pass unseen."""
    stock_init = StockSession.__init__

    @functools.wraps(stock_init)
    def counting(self: StockSession, *args: Any, **options: Any) -> None:
        _sessions["made"] += 1
        _sessions["substituted"] += isinstance(self, cls)
        stock_init(self, *args, **options)

    StockSession.__init__ = counting  # type: ignore[method-assign]


_reset, _ask = _substitute()


def _expected() -> dict[str, str]:
    """Tests that a substitute need not pass, with the reason why; see expected.toml."""
    entries = tomllib.loads((Path(__file__).parent / "expected.toml").read_text()).get("expected", [])
    return {entry["id"]: entry["reason"] for entry in entries if _mode in entry.get("modes", ["cold", "warm"])}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    expected = _expected()
    for item in items:
        if reason := expected.get(item.nodeid):
            item.add_marker(pytest.mark.skip(reason=f"expected.toml: {reason}"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    _reset()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.add(report.nodeid)
    if report.when == "call" or report.outcome != "passed":
        _outcomes[report.outcome] += 1


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("xdist") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Controller(), "datalayer-oracle-controller")


class _Controller:
    """Adds up what the workers counted."""

    def pytest_testnodedown(self, node: Any) -> None:
        sent = getattr(node, "workeroutput", {})
        _sessions.update(sent.get("oracle_sessions", {}))
        _report.update(sent.get("oracle_report", {}))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    _report.update(_ask())
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["oracle_sessions"], output["oracle_report"] = dict(_sessions), dict(_report)
        return
    if not _is_substituted() and not session.config.option.collectonly:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if path := os.environ.get("ORACLE_REPORT"):
        Path(path).write_text(json.dumps(_result(), indent=1))


def _is_substituted() -> bool:
    return _sessions["substituted"] > _LEAST_SHARE * _sessions["made"]


def _result() -> dict[str, Any]:
    return {
        "sqlalchemy": sqlalchemy.__version__,
        "mode": _mode,
        "outcomes": dict(_outcomes),
        "failed": sorted(_failed),
        "sessions": dict(_sessions),
        "report": dict(_report),
        "substituted": _is_substituted(),
    }


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    made, ours = _sessions["made"], _sessions["substituted"]
    terminalreporter.write_line(f"oracle: SQLAlchemy {sqlalchemy.__version__} {_mode}, {ours} of {made} sessions ours")
    if not _is_substituted():
        terminalreporter.write_line("oracle: FAILED, too few sessions were of the class under test")
    for name, number in sorted(_report.items()):
        terminalreporter.write_line(f"oracle: {name} = {number}")
