"""An application's own logger gets the layer's lines."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from datalayer import DataLayer


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def named() -> Iterator[Any]:
    """A logger that keeps its lines to itself."""
    made: list[logging.Logger] = []

    def make(name: str, level: int = logging.INFO) -> Kept:
        kept, logger = Kept(), logging.getLogger(name)
        logger.addHandler(kept)
        logger.setLevel(level)
        logger.propagate = False
        made.append(logger)
        return kept

    yield make
    for logger in made:
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


def be_slow(layer: DataLayer) -> None:
    with layer.engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))


def test_lines_go_to_the_given_logger_and_not_to_the_root(named: Any, caplog: pytest.LogCaptureFixture) -> None:
    kept = named("shop.data")
    with DataLayer("sqlite://", logger="shop.data", slow_query=1e-9) as layer:
        be_slow(layer)
        logging.getLogger("datalayer.l3").debug("too fine for it")
        logging.getLogger("datalayer.l3").info("fine enough")
    assert [record.name for record in kept.records] == ["datalayer.slow", "datalayer.l3"]
    assert "slow statement: SELECT ?" in kept.texts()[0]
    assert kept.records[0].event == "slow"  # type: ignore[attr-defined]
    assert caplog.text == ""


def test_closing_the_layer_leaves_logging_as_it_was(named: Any, caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger("datalayer")
    before = root.level, root.propagate, list(root.handlers)
    kept = named("shop.data")
    with DataLayer("sqlite://", logger="shop.data"), DataLayer("sqlite://", logger=logging.getLogger("shop.data")):
        pass
    assert (root.level, root.propagate, list(root.handlers)) == before
    logging.getLogger("datalayer.l3").warning("after")
    assert kept.texts() == []
    assert "after" in caplog.text


def test_an_adapter_adds_what_it_adds(named: Any) -> None:
    kept = named("shop.data")

    class Prefixed(logging.LoggerAdapter[logging.Logger]):
        def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
            return f"[shop] {msg}", kwargs

    with DataLayer("sqlite://", logger=Prefixed(logging.getLogger("shop.data"), {}), slow_query=1e-9) as layer:
        be_slow(layer)
    assert kept.texts()[0].startswith("[shop] slow statement: SELECT ?")


def test_anything_with_a_loggers_methods_will_do() -> None:
    class Own:
        lines: list[str]

        def __init__(self) -> None:
            self.lines = []

        def isEnabledFor(self, level: int) -> bool:
            return level >= logging.WARNING

        def log(self, level: int, text: str, *arguments: Any, **_: Any) -> None:
            self.lines.append(text % arguments)
            logging.getLogger("datalayer.l3").warning("a line about the line")

    own: Any = Own()
    with DataLayer("sqlite://", logger=own, slow_query=1e-9) as layer:
        be_slow(layer)
        logging.getLogger("datalayer.l3").info("not wanted")
    assert len(own.lines) == 1


def test_a_logger_under_datalayer_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with DataLayer("sqlite://", logger="datalayer.mine", slow_query=1e-9) as layer:
        be_slow(layer)
        assert logging.getLogger("datalayer").propagate
    assert caplog.text.count("slow statement: SELECT ?") == 1


def test_a_logger_that_raises_breaks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def isEnabledFor(self, _level: int) -> bool:
            return True

        def log(self, *_: Any, **__: Any) -> None:
            raise OSError("the disk is full")

    broken: Any = Broken()
    with DataLayer("sqlite://", logger=broken, slow_query=1e-9) as layer:
        be_slow(layer)
    assert "the disk is full" in capsys.readouterr().err
