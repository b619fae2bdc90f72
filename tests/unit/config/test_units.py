import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.units import Duration, Size, parse_duration, parse_size, within


@pytest.mark.parametrize(
    ("written", "ns"),
    [
        ("500ms", 500_000_000),
        ("10s", 10_000_000_000),
        ("1.5s", 1_500_000_000),
        ("0.1ms", 100_000),
        ("1m30s", 90_000_000_000),
        ("5m", 300_000_000_000),
        ("1h", 3_600_000_000_000),
        ("7d", 604_800_000_000_000),
        ("0", 0),
        (0, 0),
        ("0s", 0),
    ],
)
def test_a_duration_is_parsed(written: object, ns: int) -> None:
    assert parse_duration(written) == Duration(ns)


@pytest.mark.parametrize(
    "written",
    ["", "s", "10 s", "10S", "10sec", "-1s", "1e3s", "1s-", "٣s", "1.s", None, True, "1" * 99 + "s"],
)
def test_an_invalid_duration_is_refused_with_an_example(written: object) -> None:
    with pytest.raises(ValueError, match='"10s" or "500ms"'):
        parse_duration(written)


@pytest.mark.parametrize("written", [10, 10.5, "10", " 7 ", "-3"])
def test_a_duration_without_a_unit_is_refused_with_a_correction(written: object) -> None:
    with pytest.raises(ValueError, match=r'has no unit; write ".*s", or use ms, m, h or d'):
        parse_duration(written)


@pytest.mark.parametrize(
    ("written", "size_bytes"),
    [("1B", 1), ("64KiB", 65_536), ("1.5KiB", 1536), ("64MiB", 67_108_864), ("1GiB", 2**30), ("1TiB", 2**40)],
)
def test_a_size_is_parsed(written: str, size_bytes: int) -> None:
    assert parse_size(written) == Size(size_bytes)


@pytest.mark.parametrize("written", ["", "64MB", "64 MiB", "MiB", "-1B", None, True])
def test_an_invalid_size_is_refused_with_an_example(written: object) -> None:
    with pytest.raises(ValueError, match='"64MiB"'):
        parse_size(written)


@pytest.mark.parametrize("written", [64, "64", 0])
def test_a_size_without_a_unit_is_refused_with_a_correction(written: object) -> None:
    with pytest.raises(ValueError, match=r'has no unit; write ".*B", or use KiB, MiB, GiB or TiB'):
        parse_size(written)


@given(st.integers(min_value=0, max_value=10**12 - 1).map(lambda ms: Duration(ms * 1_000_000)))
def test_a_duration_is_parsed_back_from_its_text(duration: Duration) -> None:
    assert parse_duration(str(duration)) == duration


@given(st.integers(min_value=0, max_value=10**12 - 1).map(Size))
def test_a_size_is_parsed_back_from_its_text(size: Size) -> None:
    assert parse_size(str(size)) == size


def test_a_duration_is_written_in_the_largest_whole_unit() -> None:
    shown = [str(Duration(ns)) for ns in (0, 10**6, 10**9, 90 * 10**9, 3600 * 10**9, 86_400 * 10**9, 100)]

    assert shown == ["0ms", "1ms", "1s", "90s", "1h", "1d", "0.0001ms"]


def test_a_range_is_written_with_units() -> None:
    assert str(within("100ms", "1h")) == "100ms to 1h"
    assert str(within("64KiB", "1GiB")) == "64KiB to 1GiB"
