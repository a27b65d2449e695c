"""One connection through a proxy: a client's socket, the server's, and a thread for each direction."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable

from datalayer.testing.conditions import Conditions, Side, Verdict

_CHUNK = 65536
_REMEMBERED = 1024
_SEND_POLL_SECONDS = 0.05
_RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Link:
    """Copies bytes both ways as the conditions allow. ``on_end`` is called once, by the last of its two threads."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        *,
        conditions: Conditions,
        name: str,
        on_end: Callable[[Link], None],
    ) -> None:
        self._client = client
        self._server = server
        self._conditions = conditions
        self._on_end = on_end
        self._dead = False
        self._lossy = False
        self._loses_next_reply = False
        self._running = 2
        self._threads = [self._pump(client, server, "request", name), self._pump(server, client, "reply", name)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def reset(self) -> None:
        """Let both ends see a reset, soon: the threads close the sockets when they have let go of them."""
        with self._conditions.changed:
            self._dead = True
            self._conditions.changed.notify_all()
        for end in (self._client, self._server):
            shut_down(end, socket.SHUT_RD)  # wakes recv() here and, unlike SHUT_WR, tells the peer nothing yet

    def reset_if_lossy(self) -> None:
        """Reset it if bytes of it were swallowed: what follows them would be nonsense."""
        if self._lossy:
            self.reset()

    def _pump(self, source: socket.socket, sink: socket.socket, side: Side, name: str) -> threading.Thread:
        return threading.Thread(target=self._run, args=(source, sink, side), name=f"{name}-{side}", daemon=True)

    def _run(self, source: socket.socket, sink: socket.socket, side: Side) -> None:
        try:
            self._copy(source, sink, side)
            if self._admitted():
                shut_down(sink, socket.SHUT_WR)
        except OSError:  # one end is gone, and the other learns it when the conditions let news through
            if self._admitted():
                self.reset()
        finally:
            self._finish()

    def _copy(self, source: socket.socket, sink: socket.socket, side: Side) -> None:
        past = b""
        while not self._dead and (data := source.recv(_CHUNK)):
            if not self._admitted():
                continue
            if side == "reply" and self._loses_next_reply:
                return self._strike()
            if matched := self._conditions.match(side, past, data):
                cut, end = matched
                if not cut.answered:
                    self._send(sink, data[:end])
                    return self._strike()
                self._loses_next_reply = True
            self._send(sink, data)
            past = (past + data)[-_REMEMBERED:]
        return None

    def _admitted(self) -> bool:
        if self._conditions.admit(lambda: self._dead) is Verdict.PASS:
            return True
        self._lossy = True
        return False

    def _send(self, sink: socket.socket, data: bytes) -> None:
        # Not sendall(): a peer that has stopped reading would hold this thread for ever.
        rest = memoryview(data)
        while rest and not self._dead:
            if select.select([], [sink], [], _SEND_POLL_SECONDS)[1]:
                rest = rest[sink.send(rest, socket.MSG_DONTWAIT) :]

    def _strike(self) -> None:
        self.reset()
        self._conditions.struck()

    def _finish(self) -> None:
        with self._conditions.changed:
            self._running -= 1
            last = self._running == 0
        if last:
            for end in (self._client, self._server):
                close_with_reset(end) if self._dead else end.close()
            self._on_end(self)


def close_with_reset(end: socket.socket) -> None:
    """Close so that the peer sees a reset, not an orderly end."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)  # zero seconds: close() sends RST
    end.close()


def shut_down(end: socket.socket, how: int) -> None:
    """Like ``socket.shutdown``, for a socket that may be unconnected by now."""
    try:
        end.shutdown(how)
    except OSError:
        return
