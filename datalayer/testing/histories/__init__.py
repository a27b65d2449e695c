"""Histories of many processes on one cache, and a checker that says which promise they break.

Give each row a version that every committed write raises by one, and a column that names the *attempt* that wrote it.
Each process notes what it does with a :class:`Recorder`; a :class:`Follower` reads the notes of all processes, while
they run or afterwards, and feeds a :class:`Checker`::

    log = Recorder(folder / f"{os.getpid()}.log", process="3")
    attempt = log.attempt()
    log.intend(attempt, {"row1": 8})            # about to send COMMIT
    log.committed(attempt, {"row1": 8})         # it returned
    began = log.now()
    log.read("row1", 8, attempt, began, level="shared")

    follower = Follower(folder, Checker(lease=1.0))
    follower.drain()
    assert follower.checker.anomalies == []

The rules are those of :class:`Rule`. The cost is O(log n) an event and key; nothing is kept but one line per version.
"""

from __future__ import annotations

from datalayer.testing.histories.checker import Anomaly, Checker, Rule
from datalayer.testing.histories.events import Event, Kind, Version
from datalayer.testing.histories.follower import Follower
from datalayer.testing.histories.recorder import Recorder
from datalayer.testing.histories.stairs import Stairs

__all__ = ["Anomaly", "Checker", "Event", "Follower", "Kind", "Recorder", "Rule", "Stairs", "Version"]
