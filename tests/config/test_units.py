"""Durations and sizes, as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalayer.config.units import byte_size, seconds
from datalayer.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (0, 0.0),
        (5, 5.0),
        (0.25, 0.25),
        ("300", 300.0),
        ("0.5", 0.5),
        ("500ms", 0.5),
        ("30s", 30.0),
        ("1.5s", 1.5),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1h30m", 5400.0),
        ("2d", 172800.0),
        ("1d2h3m4s5ms", 93784.005),
        (" 5m ", 300.0),
        (timedelta(minutes=2), 120.0),
    ],
)
def test_a_duration_is_seconds_or_text_with_units(written: object, expected: float):
    found = seconds(written, name="l1_ttl")
    assert found == expected
    assert type(found) is float


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "m",
        "5 m",
        "5 parsecs",
        "5M",
        "-5s",
        "5m1h",
        "5m5m",
        "1e3",
        "\u0665m",
        "5,5s",
        ".5s",
        "0x10",
        "nan",
        "inf",
        -1,
        -0.001,
        float("nan"),
        float("inf"),
        10**400,
        "9" * 5000,
        True,
        None,
        [5],
        b"5m",
        timedelta(seconds=-1),
    ],
)
def test_what_is_not_a_duration_is_refused_by_the_name_of_its_option(written: object):
    with pytest.raises(ConfigError) as caught:
        seconds(written, name="l1_ttl")
    text = str(caught.value)
    assert text.startswith("l1_ttl: found ")
    assert "expected seconds (0 or more), or text such as '500ms', '30s', '5m', '1h30m', '2d'" in text
    assert len(text) < 200


@given(st.integers(0, 999), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 9999))
def test_a_text_with_every_unit_is_the_sum_of_its_parts(days: int, hours: int, minutes: int, secs: int, ms: int):
    whole = timedelta(days=days, hours=hours, minutes=minutes, seconds=secs, milliseconds=ms)
    assert seconds(f"{days}d{hours}h{minutes}m{secs}s{ms}ms", name="x") == pytest.approx(
        whole.total_seconds(), abs=1e-9
    )


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False))
def test_seconds_that_were_read_once_are_read_again_unchanged(value: float):
    assert seconds(seconds(value, name="x"), name="x") == value


@given(st.text() | st.floats() | st.integers() | st.booleans() | st.none() | st.timedeltas())
def test_anything_is_a_finite_duration_or_a_config_error(value: object):
    try:
        found = seconds(value, name="x")
    except ConfigError:
        return
    assert 0 <= found < float("inf")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (0, 0),
        (1024, 1024),
        ("1024", 1024),
        ("512B", 512),
        ("64MB", 64_000_000),
        ("1MiB", 1 << 20),
        ("1 mib", 1 << 20),
        ("2kB", 2000),
        ("2KiB", 2048),
        ("1.5GiB", 3 << 29),
        ("1TB", 10**12),
        ("1TiB", 1 << 40),
    ],
)
def test_a_size_is_bytes_or_text_with_units(written: object, expected: int):
    assert byte_size(written, name="max_value_bytes") == expected


@pytest.mark.parametrize(
    "written", ["", "MB", "5M", "5 m b", "-1", "0.5B", "1.0000001KB", "1PB", 1.5, -1, True, None, b"1"]
)
def test_what_is_not_a_size_is_refused_by_the_name_of_its_option(written: object):
    with pytest.raises(ConfigError, match=r"max_value_bytes: found .*, expected a whole number of bytes"):
        byte_size(written, name="max_value_bytes")


@given(st.integers(0, 10**6), st.sampled_from(["B", "KB", "KiB", "MB", "MiB", "GB", "GiB"]))
def test_a_size_in_units_is_that_many_units(number: int, unit: str):
    assert byte_size(f"{number}{unit}", name="x") == number * byte_size(f"1{unit}", name="x")


@given(st.text() | st.floats() | st.integers() | st.none())
def test_anything_is_a_size_or_a_config_error(value: object):
    try:
        found = byte_size(value, name="x")
    except ConfigError:
        return
    assert type(found) is int
    assert found >= 0


def test_a_password_in_the_wrong_option_does_not_reach_the_error():
    with pytest.raises(ConfigError) as caught:
        seconds("redis://:hunter2@cache:6379", name="l1_ttl")
    assert "hunter2" not in str(caught.value)
