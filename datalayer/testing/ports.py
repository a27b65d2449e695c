"""Free TCP ports on the loopback address, taken where no outgoing connection can land."""

from __future__ import annotations

import random
import socket
from pathlib import Path

HOST = "127.0.0.1"
_LOWEST = 20000
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_handed_out: set[int] = set()


def free_port() -> int:
    """Return a port that is free now and that this process has not handed out before.

    Never from the ephemeral range: a client that retries against a killed server there can be given the very same
    source port, connect to itself, and keep the server from coming back.
    """
    for _ in range(500):
        port = random.SystemRandom().randrange(_LOWEST, _first_ephemeral())
        if port not in _handed_out and _is_free(port):
            _handed_out.add(port)
            return port
    raise OSError(f"no free port found between {_LOWEST} and {_first_ephemeral()} on {HOST}")


def _first_ephemeral() -> int:
    try:
        first = int(_RANGE_FILE.read_text().split()[0])
    except OSError:
        return 32768
    return first if first > _LOWEST + 1000 else 65536


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
