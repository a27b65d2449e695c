from __future__ import annotations

import logging
from typing import Any

import pytest

from datalayer.errors import ConfigError, ConflictError, HookError
from datalayer.models.hooks import Hooks, run_after_set, run_before_get, run_before_set, run_on_write_error


class Player:
    pass


def raising(error: BaseException) -> Any:
    def check(*_: Any) -> None:
        raise error

    return check


def test_hooks_get_what_they_are_about():
    seen: list[Any] = []
    hooks = Hooks(
        before_set=seen.append,
        after_set=seen.append,
        before_get=lambda *args: seen.append(args),
        on_write_error=lambda *args: seen.append(args),
    )
    player, error = Player(), OSError()
    run_before_set(hooks, player)
    run_before_get(hooks, Player, 7)
    run_after_set(hooks, player)
    run_on_write_error(hooks, 7, error, model="Player")
    assert seen == [player, (Player, 7), player, (7, error)]


@pytest.mark.parametrize("hooks", [None, Hooks()])
def test_absent_hooks_do_nothing(hooks: Hooks | None):
    run_before_set(hooks, Player())
    run_before_get(hooks, Player, 7)
    run_after_set(hooks, Player())
    run_on_write_error(hooks, 7, OSError(), model="Player")


@pytest.mark.parametrize("error", [ValueError("email required"), ConflictError("busy")])
def test_a_before_hook_refuses_with_its_own_error(error: Exception):
    hooks = Hooks(before_set=raising(error), before_get=raising(error))
    with pytest.raises(type(error)) as first:
        run_before_set(hooks, Player())
    with pytest.raises(type(error)) as second:
        run_before_get(hooks, Player, 7)
    assert first.value is second.value is error


def test_anything_unexpected_from_a_before_hook_is_a_hook_error_with_its_cause():
    fault = KeyError("secret value")
    with pytest.raises(HookError, match=r"before_set hook .*check of Player raised KeyError") as raised:
        run_before_set(Hooks(before_set=raising(fault)), Player())
    assert raised.value.__cause__ is fault
    assert "secret" not in str(raised.value)


def test_an_interrupt_passes_every_hook():
    hooks = Hooks(before_set=raising(KeyboardInterrupt()), after_set=raising(KeyboardInterrupt()))
    for run in (run_before_set, run_after_set):
        with pytest.raises(KeyboardInterrupt):
            run(hooks, Player())


def test_a_failing_after_hook_is_logged_and_counted_and_the_write_stands(caplog: pytest.LogCaptureFixture):
    counted: list[HookError] = []
    fault = ValueError("no")
    with caplog.at_level(logging.ERROR, "datalayer"):
        run_after_set(Hooks(after_set=raising(fault)), Player(), on_error=counted.append)
    assert [error.__cause__ for error in counted] == [fault]
    assert "after_set hook" in caplog.text


def test_a_failing_write_error_hook_does_not_stop_the_flusher(caplog: pytest.LogCaptureFixture):
    counted: list[HookError] = []
    hooks = Hooks(on_write_error=raising(OSError()))
    run_on_write_error(hooks, 7, OSError(), model="Player", on_error=counted.append)
    assert "on_write_error hook" in str(counted[0])
    assert "of Player raised OSError" in caplog.text


def test_a_hook_that_cannot_be_called_is_refused():
    with pytest.raises(ConfigError, match="before_set is a str, expected a callable"):
        Hooks(before_set="check")  # type: ignore[arg-type]


def test_an_unknown_hook_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"Hooks: unknown option 'before_save'; did you mean 'before_set'"):
        Hooks(before_save=print)  # type: ignore[call-arg]
