"""Why there is no server, said so that the reader knows what to install or to set."""

from __future__ import annotations

from collections.abc import Sequence


class ServerFailed(RuntimeError):
    """One source was tried and gave no working server."""


class ServerDead(RuntimeError):
    """The environment names a server that does not answer; falling back would hide the mistake."""


class ServersMissing(RuntimeError):
    """No source gave a server; ``tried`` has one line for each."""

    def __init__(self, kind: str, tried: Sequence[str]) -> None:
        super().__init__("\n  - ".join([f"no {kind} for the tests; tried:", *tried]))
        self.kind = kind
        self.tried = tuple(tried)
