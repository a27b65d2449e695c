"""A server process that dies with the process that started it, and that can be frozen or killed with its children."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datalayer.testing.servers.failure import ServerFailed

# A tiny program between us and the server, instead of preexec_fn: that one warns (and may deadlock) as soon as the
# test process has threads. It gives up its rights itself, because another user may be unable to run our interpreter.
_LAUNCH = """
import ctypes, os, sys
sig, uid, gid, parent = map(int, sys.argv[1:5])
if uid:
    os.setgroups([]); os.setgid(gid); os.setuid(uid)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, sig, 0, 0, 0)
if os.getppid() != parent:
    sys.exit("the starting process is gone")
os.execv(sys.argv[5], sys.argv[5:])
"""


@dataclass(frozen=True, slots=True)
class Account:
    """The unprivileged account that a server runs under when the tests run as root."""

    name: str
    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """Return None when this process is not root. Raise ServerFailed when no suitable account exists."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, found.pw_uid, found.pw_gid)
    raise ServerFailed("running as root, and neither the user postgres nor nobody exists")


class Child:
    """One started server process.

    It gets ``death_signal`` when the *thread* that started it ends (Linux only), so start servers in a thread that
    outlives them. Not thread-safe.
    """

    def __init__(
        self, command: Sequence[str], *, folder: Path, death_signal: signal.Signals, account: Account | None = None
    ) -> None:
        self._stop_signal = death_signal
        self.log = folder / "log"
        ids = (account.uid, account.gid) if account else (0, 0)
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCH]
        numbers = [str(number) for number in (int(death_signal), *ids, os.getpid())]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*launcher, *numbers, *command],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_ready(self, probe: Callable[[], bool], *, seconds: float = 30.0) -> None:
        """Return once ``probe()`` is true. Raise ServerFailed with the log's end when the process ends first."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.alive:
                raise ServerFailed(f"exited with {self._process.returncode}: {self.log_tail()}")
            if probe():
                return
            time.sleep(0.02)
        raise ServerFailed(f"not ready within {seconds:g} s: {self.log_tail()}")

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-600:].strip()

    def stop(self, *, seconds: float = 15.0) -> None:
        """End it in an orderly way, by force after ``seconds``. Does nothing when it has ended."""
        if not self.alive:
            return
        self.resume()
        self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to it and to all its children, as a power cut would; return when all are gone."""
        pids = self._freeze()
        for pid in pids:
            _signal(pid, signal.SIGKILL)
        self._process.wait()
        while any(_is_running(pid) for pid in pids):
            time.sleep(0.005)

    def pause(self) -> None:
        """SIGSTOP to it and to all its children: connections stay open and nobody answers. Returns when all stand."""
        pids = self._freeze()
        while any(_stat(pid)[:1] in (["R"], ["S"], ["D"]) for pid in pids):
            time.sleep(0.001)

    def resume(self) -> None:
        for pid in reversed(self._tree()):
            _signal(pid, signal.SIGCONT)

    def _freeze(self) -> list[int]:
        # The parent first, so that it starts no further child between the listing and the signals.
        _signal(self.pid, signal.SIGSTOP)
        pids = self._tree()
        for pid in pids[1:]:
            _signal(pid, signal.SIGSTOP)
        return pids

    def _tree(self) -> list[int]:
        return [self.pid, *_children(self.pid)] if self.alive else []


def _signal(pid: int, sig: signal.Signals) -> None:
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        return  # it ended by itself


def _children(parent: int) -> list[int]:
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False)
        return [int(pid) for pid in listed.stdout.split()]
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if _stat(pid)[1:2] == [str(parent)]]


def _is_running(pid: int) -> bool:
    if Path("/proc/self/stat").exists():
        return _stat(pid)[:1] not in ([], ["Z"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _stat(pid: int) -> list[str]:
    """State letter, parent, ...: the fields after the command name; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
