"""Which SQL statements run, how often and how long: a table of them, and the log of the slow ones.

Neither shows a value: parameters never come here, and literals in the text are replaced before it is kept.
"""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass
from math import inf
from typing import Any

from .logs import log_event

log = logging.getLogger("datalayer.slow")

_LONGEST_READ = 20_000
_LONGEST_KEPT = 2_000
_MOST_RAW = 4

_COMMENT = r"(?P<comment>--[^\n]*|/\*.*?(?:\*/|$))"
_NAME = r'(?P<name>"(?:[^"]|"")*"|`[^`]*`)'
_HOLDER = r"(?P<holder>%\(\w+\)s|%s|(?<![:\w]):\w+|\$\d+|\?)"
_NUMBER = r"(?P<number>(?<![\w$])\.?\d[\w.]*)"
_STRING = (
    r"(?P<string>\b[eE]'(?:[^'\\]|\\.|'')*(?:'|$)|(?:\b[bBxXnN]|[uU]&)?'(?:[^']|'')*(?:'|$)"
    r"|\$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|$))"
)
#: MySQL escapes with backslashes everywhere, and double quotes are quotes of values.
_MYSQL = r"(?P<string>'(?:[^'\\]|\\.|'')*(?:'|$)|" + r'"(?:[^"\\]|\\.|"")*(?:"|$))'
_TOKENS = re.compile("|".join((_STRING, _COMMENT, _NAME, _HOLDER, _NUMBER)), re.DOTALL)
_MYSQL_TOKENS = re.compile("|".join((_MYSQL, _COMMENT + "|(?P<hash>#[^\n]*)", _NAME, _HOLDER, _NUMBER)), re.DOTALL)

_CAST = re.compile(
    r"\?::\w+(?: (?:PRECISION|VARYING|WITH(?:OUT)? TIME ZONE))?(?:\(\?(?:, ?\?)?\))?(?:\[\])*", re.IGNORECASE
)
_LIST = re.compile(r"\?(?:\s*,\s*\?)+")
_ROWS = re.compile(r"(\(\?(?:, \.\.\.)?\))(?:\s*,\s*\(\?(?:, \.\.\.)?\))+")


def normalized(text: str, *, mysql: bool = False) -> str:
    """A statement with ``?`` for every parameter and literal, lists of them cut short, without comments.

    Equal for statements that differ in values or their number only. Costs a pass over the text.
    """
    tokens = _MYSQL_TOKENS if mysql else _TOKENS
    plain = " ".join(tokens.sub(_plain, text[:_LONGEST_READ]).split())
    plain = _ROWS.sub(r"\1, ...", _LIST.sub("?, ...", _CAST.sub("?", plain)))
    return plain if len(plain) <= _LONGEST_KEPT else plain[:_LONGEST_KEPT] + " ..."


def _plain(found: re.Match[str]) -> str:
    kind = found.lastgroup
    if kind == "name":
        return found.group()
    return " " if kind in ("comment", "hash") else "?"


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryStats:
    """One statement since the layer was opened; times in seconds. ``slow``: calls that took longer than ``slow_query``.
    ``errors``: calls that failed, which count as calls, too."""

    statement: str
    calls: int
    total: float
    max: float
    slow: int = 0
    errors: int = 0

    @property
    def mean(self) -> float:
        return self.total / self.calls if self.calls else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "statement": self.statement,
            "calls": self.calls,
            "total": self.total,
            "mean": self.mean,
            "max": self.max,
            "slow": self.slow,
            "errors": self.errors,
        }


class _Record:
    __slots__ = ("calls", "errors", "max", "slow", "text", "total")

    def __init__(self, text: str) -> None:
        self.text = text
        self.calls = self.slow = self.errors = 0
        self.total = self.max = 0.0


class Statements:
    """What is known of the statements of one layer. Thread-safe; a call costs half a microsecond.

    ``slow`` in seconds, 0 for never; ``log_slow``: log each slow call once. ``keep``: have a table of up to ``most``
    statements; when it is full, the fifth of them that took the least time in all makes room. The counters take no
    lock: threads that run the same statement at the same instant may lose a count now and then.
    """

    def __init__(
        self, *, slow: float, log_slow: bool = True, keep: bool = True, most: int = 500, mysql: bool = False
    ) -> None:
        self._limit = slow or inf
        self._log_slow = log_slow
        self._keep = keep
        self._most = most
        self._mysql = mysql
        self._lock = threading.Lock()
        self._raw: dict[str, _Record] = {}
        self._records: dict[str, _Record] = {}
        self._others = _Record("")

    @property
    def calls(self) -> int:
        """All calls, those of statements included that had to make room."""
        return sum(record.calls for record in self._all())

    @property
    def slow(self) -> int:
        """All calls that took longer than the limit."""
        return sum(record.slow for record in self._all())

    def _all(self) -> list[_Record]:
        with self._lock:
            return [*self._records.values(), self._others]

    def took(self, text: str, seconds: float, cursor: Any = None, *, failed: bool = False) -> None:
        """One call of a statement is over. ``cursor`` is asked for its ``rowcount`` if the call was slow."""
        record = self._raw.get(text) or self._learn(text)
        record.calls += 1
        record.total += seconds
        if seconds > record.max:
            record.max = seconds
        if failed:
            record.errors += 1
        if seconds > self._limit:
            record.slow += 1
            if self._log_slow:
                self._tell(text, seconds, cursor, failed)

    def _learn(self, text: str) -> _Record:
        if not self._keep:
            return self._others
        plain = normalized(text, mysql=self._mysql)
        with self._lock:
            return self._enter(text, plain)

    def _enter(self, text: str, plain: str) -> _Record:
        record = self._records.get(plain)
        if record is None:
            if len(self._records) >= self._most:
                self._make_room()
            record = self._records[plain] = _Record(plain)
        if len(self._raw) >= _MOST_RAW * self._most:
            self._raw.clear()
        if len(text) <= _LONGEST_READ:
            self._raw[text] = record
        return record

    def _make_room(self) -> None:
        self._raw.clear()
        for record in sorted(self._records.values(), key=lambda record: record.total)[: max(1, self._most // 5)]:
            del self._records[record.text]
            self._others.calls += record.calls
            self._others.slow += record.slow

    def _tell(self, text: str, seconds: float, cursor: Any, failed: bool) -> None:
        rows = getattr(cursor, "rowcount", -1)
        fields: dict[str, Any] = {"seconds": round(seconds, 6)}
        if isinstance(rows, int) and rows >= 0:
            fields["rows"] = rows
        if failed:
            fields["failed"] = True
        log_event(log, logging.WARNING, "slow", f"slow statement: {normalized(text, mysql=self._mysql)}", **fields)

    def top(self, most: int | None = None) -> list[QueryStats]:
        """The statements, those first that took the most time in all."""
        with self._lock:
            records = sorted(self._records.values(), key=lambda record: -record.total)[:most]
            return [
                QueryStats(statement=r.text, calls=r.calls, total=r.total, max=r.max, slow=r.slow, errors=r.errors)
                for r in records
            ]

    def reset_after_fork(self) -> None:
        """In the child: under a lock that nobody in the parent can be holding, with nothing counted."""
        self._lock = threading.Lock()
        self._raw, self._records, self._others = {}, {}, _Record("")
