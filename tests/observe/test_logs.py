"""Log lines: one per change of state, with fields, without secrets."""

from __future__ import annotations

import json
import logging
import threading

import pytest

from datalayer.observe.logs import StateLog, get_logger, log_event


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="datalayer")
    return caplog


def test_loggers_lie_under_datalayer_or_are_the_applications():
    own = logging.getLogger("app.db")
    assert get_logger("tiers.l2") is logging.getLogger("datalayer.tiers.l2")
    assert get_logger() is logging.getLogger("datalayer")
    assert get_logger("tiers.l2", root=own) is own


def test_an_event_is_one_line_with_the_fields_in_text_and_record(lines: pytest.LogCaptureFixture):
    log_event(
        get_logger("x"), logging.WARNING, "l2.down", "Redis does not answer", tier="l2", after=3, url="redis://:pw@h"
    )
    (record,) = lines.records
    assert record.getMessage() == "Redis does not answer (tier=l2, after=3, url=redis://:***@h)"
    assert (record.name, record.levelname) == ("datalayer.x", "WARNING")
    assert vars(record)["event"] == "l2.down"
    assert vars(record)["datalayer"] == {"tier": "l2", "after": 3, "url": "redis://:***@h"}
    json.dumps(vars(record)["datalayer"])


def test_secrets_bytes_and_line_breaks_do_not_reach_the_line(lines: pytest.LogCaptureFixture):
    error = OSError("no route to postgresql://u:hunter2@h/db\r\nERROR forged")
    log_event(
        get_logger(),
        logging.ERROR,
        "e",
        "100 %s of redis://:hunter2@h\nforged",
        error=error,
        password="hunter2",
        key=b"hunter2",
    )
    (record,) = lines.records
    text = record.getMessage()
    assert "hunter2" not in text + str(vars(record))
    assert text == (
        "100 %s of redis://:***@h\\nforged "
        "(error=no route to postgresql://u:***@h/db\\r\\nERROR forged, password=***, key=<7 bytes>)"
    )


@pytest.mark.parametrize("field", ["name", "msg", "args", "message", "module", "exc_info", "level", "event", "logger"])
def test_a_field_may_have_any_name(lines: pytest.LogCaptureFixture, field: str):
    log_event(get_logger(), logging.INFO, "e", "text", **{field: "v"})
    assert [vars(record)["datalayer"] for record in lines.records] == [{field: "v"}]


def test_below_the_level_nothing_is_formatted(lines: pytest.LogCaptureFixture):
    class Costly:
        def __str__(self) -> str:
            raise AssertionError("formatted")

    log_event(get_logger(), logging.DEBUG, "e", "text", value=Costly())
    assert not lines.records


def test_a_state_is_logged_when_it_changes_and_not_while_it_stays(lines: pytest.LogCaptureFixture):
    states = StateLog(get_logger("l2"))
    states.assume("l2", "up")
    news = [states.change("l2", state, f"Redis is {state}", attempt=3) for state in ("up", "down", "down", "up", "up")]
    assert news == [False, True, False, True, False]
    assert [vars(record)["event"] for record in lines.records] == ["l2.down", "l2.up"]
    assert vars(lines.records[0])["datalayer"] == {"subject": "l2", "state": "down", "previous": "up", "attempt": 3}


def test_subjects_have_states_of_their_own_and_the_first_is_news(lines: pytest.LogCaptureFixture):
    states = StateLog(get_logger())
    assert states.change("l2", "down", "a", level=logging.WARNING)
    assert states.change("bus", "down", "b")
    states.reset_after_fork()
    assert not states.change("l2", "down", "a")
    assert [record.levelname for record in lines.records] == ["WARNING", "INFO"]


def test_of_many_threads_with_the_same_news_one_logs_it(lines: pytest.LogCaptureFixture):
    states, gate = StateLog(get_logger()), threading.Barrier(8)
    news: list[bool] = []

    def tell() -> None:
        gate.wait(10)
        news.append(states.change("l2", "down", "text"))

    threads = [threading.Thread(target=tell) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(news) == [False] * 7 + [True]
    assert len(lines.records) == 1
