"""A TCP proxy that fails on command, so that fault tests break the network and never patch the code under test.

::

    with TcpProxy.for_url(server.url) as proxy:
        engine = create_engine(proxy.url)
        proxy.hold()                                            # what is sent waits, in order, until pass_()
        proxy.cut(b"COMMIT", side="request", answered=True)     # the server commits, its answer is lost
"""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self

from sqlalchemy.engine import make_url

from datalayer.testing.conditions import Conditions, Cut, Mode, Side
from datalayer.testing.link import Link, close_with_reset, shut_down
from datalayer.testing.ports import HOST, free_port

__all__ = ["TcpProxy"]


class TcpProxy:
    """Stands on a port of its own before ``target`` and passes bytes both ways until told otherwise.

    A mode applies to open and new connections alike, from the next byte on. Thread-safe. A connection costs two
    threads, named ``datalayer-proxy-*``; ``close()`` ends them all.
    """

    def __init__(self, target: tuple[str, int], *, url: str | None = None) -> None:
        self._target = target
        self._target_url = url
        self._conditions = Conditions()
        self._changed = self._conditions.changed
        self._accepted = 0
        self._links: set[Link] = set()
        self._acceptors: list[threading.Thread] = []
        self.port = free_port()
        self._listener: socket.socket | None = self._listen()

    @classmethod
    def for_url(cls, url: str) -> Self:
        """A proxy before the server of a SQLAlchemy or Redis URL."""
        parsed = make_url(url)
        default = 5432 if parsed.drivername.startswith("postgresql") else 6379
        return cls((parsed.host or HOST, parsed.port or default), url=url)

    @property
    def url(self) -> str:
        """The target's URL with the proxy's address. Raises ValueError for a proxy made without a URL."""
        if self._target_url is None:
            raise ValueError("this proxy was made from host and port; make it with TcpProxy.for_url(url)")
        return make_url(self._target_url).set(host=HOST, port=self.port).render_as_string(hide_password=False)

    @property
    def accepted(self) -> int:
        """How many connections were made so far."""
        return self._accepted

    @property
    def open(self) -> int:
        """How many connections are open now."""
        with self._changed:
            return len(self._links)

    @property
    def cuts(self) -> int:
        """How many times an armed ``cut()`` has struck."""
        return self._conditions.cuts

    def pass_(self) -> None:
        """Heal: what was held flows on; connections that lost bytes in a blackhole are reset."""
        self._set(Mode.PASS)
        with self._changed:
            if self._listener is None and not self._conditions.closed:
                self._listener = self._listen()

    def latency(self, seconds: float) -> None:
        """Pass each chunk on ``seconds`` late, in each direction."""
        self._set(Mode.PASS, delay=seconds)

    def hold(self) -> None:
        """Keep all bytes back, in order, until another mode is set. New connections open but stay silent."""
        self._set(Mode.HOLD)

    def blackhole(self) -> None:
        """Swallow all bytes. New connections open but stay silent: a program cannot swallow the handshake."""
        self._set(Mode.BLACKHOLE)

    def reset(self) -> None:
        """Reset all connections, and each new one as soon as it is accepted."""
        self._set(Mode.RESET)
        self.drop()

    def refuse(self) -> None:
        """Reset all connections and refuse new ones until ``pass_()``, as if no server ran."""
        with self._changed:
            listener, self._listener = self._listener, None
        if listener is not None:
            shut_down(listener, socket.SHUT_RDWR)  # wakes accept(); close() alone would leave it waiting
            listener.close()
        self.drop()

    def drop(self) -> None:
        """Reset all connections once; new ones work as the mode says."""
        for link in self._open_links():
            link.reset()

    def cut(self, pattern: bytes, *, side: Side = "reply", keep_match: bool = True, answered: bool = False) -> None:
        """Arm: the next connection on whose ``side`` the bytes ``pattern`` appear is reset there.

        What comes before the match is passed on, the match itself only with ``keep_match``, nothing after it. With
        ``answered`` (side "request") the request reaches the server whole, and the reset comes in place of its first
        reply: done, but never confirmed. Strikes once; call again to re-arm. Patterns may be 1 to 1,024 bytes long.
        """
        if not 1 <= len(pattern) <= 1024:
            raise ValueError(f"cut() got a pattern of {len(pattern)} bytes; give 1 to 1024")
        if answered and side != "request":
            raise ValueError('cut() got answered=True for the side "reply"; it is for side="request"')
        self._conditions.arm(Cut(pattern=pattern, side=side, keep_match=keep_match, answered=answered))

    def wait_cut(self, count: int = 1, *, seconds: float = 10.0) -> bool:
        """Return whether ``count`` cuts have struck, waiting for that up to ``seconds``."""
        with self._changed:
            return self._changed.wait_for(lambda: self.cuts >= count, seconds)

    def wait_open(self, count: int, *, seconds: float = 10.0) -> bool:
        """Return whether exactly ``count`` connections are open, waiting for that up to ``seconds``."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._links) == count, seconds)

    def close(self) -> None:
        """Reset all connections, free the port, end all threads. May be called twice."""
        self._conditions.close()
        self.refuse()
        for thread in self._acceptors:
            thread.join()
        for link in self._open_links():
            link.reset()
            link.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        target = f"{self._target[0]}:{self._target[1]}"
        return f"<TcpProxy {self.port} -> {target} {self._conditions.mode.value}, {self.open} open>"

    def _set(self, mode: Mode, *, delay: float = 0.0) -> None:
        self._conditions.set(mode, delay=delay)
        if mode is not Mode.BLACKHOLE:
            for link in self._open_links():
                link.reset_if_lossy()

    def _listen(self) -> socket.socket:
        listener = socket.create_server((HOST, self.port), backlog=128)
        name = f"datalayer-proxy-{self.port}"
        thread = threading.Thread(target=self._accept, args=(listener,), name=name, daemon=True)
        self._acceptors.append(thread)
        thread.start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # refuse() closed it
                return
            self._accepted += 1
            if self._conditions.mode is Mode.RESET:
                close_with_reset(client)
            else:
                self._connect(client, listener)

    def _connect(self, client: socket.socket, listener: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target, timeout=5)
        except OSError:  # what the target does to us, we do to the client
            close_with_reset(client)
            return
        for end in (client, server):
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name = f"datalayer-proxy-{self.port}"
        link = Link(client, server, conditions=self._conditions, name=name, on_end=self._forget)
        with self._changed:
            self._links.add(link)
            refused = self._listener is not listener
            self._changed.notify_all()
        link.start()
        if refused:  # refuse() came between accept and here, and has not seen this link
            link.reset()

    def _open_links(self) -> list[Link]:
        with self._changed:
            return list(self._links)

    def _forget(self, link: Link) -> None:
        with self._changed:
            self._links.discard(link)
            self._changed.notify_all()
