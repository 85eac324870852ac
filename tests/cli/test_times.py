"""Times as people type and read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.times import format_time, parse_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("0", 0), (".5", 0.5), ("0:30", 30), ("90:00", 5400), ("1:02:03", 3723), ("0:17.5", 17.5)],
)
def test_seconds_can_be_typed_as_a_clock_shows_them(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


def test_a_wall_clock_time_needs_its_zone() -> None:
    assert parse_time("2026-11-21T13:00:00Z") == "2026-11-21T13:00:00+00:00"
    assert parse_time("2026-11-21 13:00:00.5+01:00") == "2026-11-21T13:00:00.500000+01:00"
    with pytest.raises(ValueError, match=r"add Z \(UTC\)"):
        parse_time("2026-11-21T13:00:00")


@pytest.mark.parametrize("text", ["", "-5", "nan", "inf", "1e3", "1:60", "1:75:00", "1:2", "noon", "٣", "9" * 400])
def test_an_invalid_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="1:02:03"):
        parse_time(text)


@given(st.integers(0, 10**9))
def test_a_formatted_time_can_be_typed_again(milliseconds: int) -> None:
    assert parse_time(format_time(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=1e-6)
