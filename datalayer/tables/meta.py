"""The commands of memcached that pymemcache does not know, over a connection of its pool.

pymemcache's ``raw_command`` loses the start of a reply that comes in several packets, so the reply is read here. The
commands are those of memcached's doc/protocol.txt, version 1.6.9 and newer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pymemcache.exceptions import MemcacheServerError, MemcacheUnexpectedCloseError

_PACKET = 1 << 16
_BUSY_TRIES, _BUSY_PAUSE = 40, 0.025
_DUMPED = re.compile(rb"^key=(\S+) exp=(-?\d+) ", re.MULTILINE)


def exists(client: Any, name: str) -> bool:
    """Whether there is a value: one round trip, without the value."""
    return _ask(client, f"mg {name}", _is_line).startswith(b"HD")


def life(client: Any, name: str) -> int | None:
    """Seconds that a value has left, -1 if it does not expire, None if there is none."""
    reply = _ask(client, f"mg {name} t", _is_line)
    return int(reply.split()[1][1:]) if reply.startswith(b"HD") else None


def delete_all(client: Any, names: Sequence[str]) -> int:
    """Forget these names and say how many were there: one round trip."""
    lines = "\r\n".join([*(f"md {name}" for name in names), "mn"])  # mn is answered after all the others
    return _ask(client, lines, _is_last).split().count(b"HD")


def dump(client: Any) -> Iterator[str]:
    """The names of all live values, percent-encoded once more. MemcacheServerError while the crawler is busy.

    The crawler walks the hash table: a walk over the LRU lists misses what is moved from one to the other meanwhile.
    """
    for _ in range(_BUSY_TRIES):
        reply = _ask(client, "lru_crawler metadump hash", _is_dump)
        if not reply.startswith(b"BUSY"):
            break
        time.sleep(_BUSY_PAUSE)  # the server's crawler is on a round of its own
    if not reply.endswith(b"END\r\n"):
        raise MemcacheServerError(f"no dump of the keys: {reply[:60]!r}")
    now = time.time()
    for name, expires in _DUMPED.findall(reply):
        if expires == b"-1" or int(expires) > now:
            yield name.decode()


def _is_line(reply: bytearray) -> bool:
    return reply.endswith(b"\r\n")


def _is_last(reply: bytearray) -> bool:
    return reply.endswith(b"MN\r\n") or reply.startswith((b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR"))


def _is_dump(reply: bytearray) -> bool:
    # Lines of keys end with a line feed alone.
    return reply == b"END\r\n" or reply.endswith(b"\nEND\r\n") or (_is_line(reply) and not reply.startswith(b"key="))


def _ask(client: Any, command: str, is_done: Callable[[bytearray], bool]) -> bytes:
    with client.client_pool.get_and_release(destroy_on_fail=True) as one:
        if one.sock is None:
            one.version()  # connects
        one.sock.sendall(f"{command}\r\n".encode())
        reply = bytearray()
        while not is_done(reply):
            packet = one.sock.recv(_PACKET)
            if not packet:
                raise MemcacheUnexpectedCloseError()
            reply += packet
        return bytes(reply)
