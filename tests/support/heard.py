"""Listens to a Redis server: every command, also those of scripts, with their arguments."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import redis


@contextmanager
def listening(url: str, prefix: str) -> Iterator[list[str]]:
    """What a Redis server executes under a key prefix inside the block, also what scripts do."""
    heard: list[str] = []
    end = secrets.token_hex(8)
    with redis.Redis.from_url(url) as client, client.monitor() as monitor:

        def listen() -> None:
            for command in monitor.listen():
                if end in command["command"]:
                    return
                if prefix in command["command"]:  # the server has other users
                    heard.append(command["command"])

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield heard
        finally:
            client.echo(end)
            thread.join(10)
