"""Changes of health are logged, whether somebody asks or not."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.orm import Mapped

from datalayer import DataLayer, Model, column
from datalayer.testing.servers import start_redis


class Watched(Model):
    __tablename__ = "watched"
    id: Mapped[int] = column(primary_key=True)


def eventually(condition: Callable[[], Any]) -> bool:
    deadline = time.monotonic() + 15
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [getattr(record, "event", "") for record in caplog.records]
    return [event for event in found if event.startswith("health.")]


def looking() -> bool:
    return any(thread.name == "datalayer-health" for thread in threading.enumerate())


def test_a_server_that_goes_and_comes_back_is_logged_once_each_without_being_asked(
    pg_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis()
    caplog.set_level(logging.INFO, logger="datalayer")
    try:
        options: dict[str, Any] = {"health_check_period": 0.05, "breaker_reset": 0.05}
        with DataLayer(pg_url, redis=server.url, models=[Watched], **options) as layer:
            assert not looking(), "nothing is asked before the first connection"
            layer.ping()
            assert looking()
            server.kill()
            assert eventually(lambda: events(caplog) == ["health.l2.down"])
            server.restart()
            assert eventually(lambda: events(caplog) == ["health.l2.down", "health.l2.ok"])
            assert layer.health().status == "ok"
            assert len(events(caplog)) == 2
    finally:
        server.stop()


def test_a_look_on_request_logs_as_well_and_zero_means_only_then(caplog: pytest.LogCaptureFixture) -> None:
    nobody = "postgresql+psycopg://nobody@127.0.0.1:1/x"
    with DataLayer(nobody, models=[Watched], health_check_period=0) as layer:
        assert layer._vigil is None
        assert layer.health().status == "down"
        assert layer.health().status == "down"
    assert events(caplog) == ["health.l3.down"]


def test_a_layer_without_servers_is_not_watched() -> None:
    with DataLayer("sqlite://", models=[Watched], health_check_period=0.01) as layer:
        layer.ping()
        assert not looking()


def test_a_forked_child_watches_for_itself(pg_url: str) -> None:
    with DataLayer(pg_url, models=[Watched], health_check_period=30) as layer:
        layer.ping()
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()

        def child() -> None:
            theirs.send(looking())
            layer.close()

        process = context.Process(target=child)
        process.start()
        assert ours.poll(30)
        assert ours.recv()
        process.join(10)
