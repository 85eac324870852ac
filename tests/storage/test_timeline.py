"""Times, slots, segments and masks: one arithmetic, checked against its definition."""

import math
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import BadRequest
from storage.timeline import (
    FULL_MASK,
    SEGMENT_SLOTS,
    Grid,
    locate,
    mask_of,
    mask_within,
    masks_of,
    parse_clock,
    parse_moment,
    places_in,
    segments_of,
    slots_in,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
RATES = st.sampled_from([0.1, 0.2, 0.25, 1 / 3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 29.97])
SLOTS = st.integers(0, 10 * 86400)
RANGES = st.tuples(st.integers(0, 5000), st.integers(0, 400)).map(lambda at: range(at[0], at[0] + at[1]))


@given(RATES, SLOTS)
def test_a_slot_is_found_again_by_its_own_time(fps: float, slot: int) -> None:
    grid = Grid(fps)
    assert grid.slot_at(grid.time_s(slot)) == slot
    assert list(grid.slots_between(grid.time_s(slot), grid.time_s(slot))) == [slot]


@given(RATES, SLOTS, st.integers(1, 500))
def test_a_slot_begins_exactly_where_the_one_before_ends(fps: float, slot: int, later: int) -> None:
    assert Grid(fps).slot_at(slot / fps) == slot
    assert Grid(fps).slots_between(slot / fps, (slot + later) / fps) == range(slot, slot + later)


@given(st.integers(0, 100_000), st.integers(0, 3000))
def test_a_stretch_holds_the_slots_whose_time_lies_in_it(start_ms: int, length_ms: int) -> None:
    """Compared with exact fractions, at a rate whose slot times are inexact as floats."""
    fps = Fraction(10)
    start, end = Fraction(start_ms, 1000), Fraction(start_ms + length_ms, 1000)
    first = math.floor(start * fps) - 2
    true = [k for k in range(first, first + 40) if k >= 0 and start <= (k + Fraction(1, 2)) / fps <= end]
    assert list(Grid(10.0).slots_between(start_ms / 1000, (start_ms + length_ms) / 1000)) == true


def test_decimal_sums_do_not_miss_their_slot() -> None:
    assert Grid(10.0).slot_at(0.1 + 0.2) == Grid(10.0).slot_at(0.3) == 3
    assert Grid(1.0).slots_between(0.1 + 0.2 + 0.2, 1.5) == range(2)
    assert Grid(5.0).slots_between(0.1 + 0.2, 0.7 + 0.2) == range(1, 5)


@pytest.mark.parametrize(("start_s", "end_s"), [(5, 4), (0.6, 1.4), (0, 0.4), (0, 0), (-9, -1)])
def test_a_stretch_without_frames_is_empty(start_s: float, end_s: float) -> None:
    slots = Grid(1.0).slots_between(start_s, end_s)
    assert len(slots) == 0
    assert segments_of(slots) == range(0)


def test_a_stretch_never_begins_before_the_video() -> None:
    assert Grid(1.0).slots_between(-100, 2) == range(2)


@given(RANGES)
def test_segments_and_masks_name_exactly_the_slots_of_a_range(slots: range) -> None:
    masks = {segment: mask_within(slots, segment) for segment in segments_of(slots)}
    assert all(masks.values())
    assert list(slots_in(masks)) == list(slots)
    assert masks == masks_of(slots)
    for beside in (-1, 1):
        outside = (segments_of(slots).start if beside < 0 else segments_of(slots).stop - 1) + beside
        assert not slots or outside < 0 or mask_within(slots, outside) == 0


@given(st.sets(st.integers(0, 63)))
def test_masks_and_places_are_equivalent(places: set[int]) -> None:
    assert places_in(mask_of(places)) == sorted(places)
    assert 0 <= mask_of(places) <= FULL_MASK


@given(SLOTS)
def test_a_slot_lies_at_one_place_of_one_segment(slot: int) -> None:
    segment, place = locate(slot)
    assert segment * SEGMENT_SLOTS + place == slot
    assert mask_within(range(slot, slot + 1), segment) == 1 << place


@given(st.floats(0, 10**7), st.integers(-14 * 60, 14 * 60))
def test_the_wall_clock_and_seconds_convert_into_each_other(t_s: float, offset_min: int) -> None:
    grid = Grid(1.0, NOON.astimezone(timezone(timedelta(minutes=offset_min))))
    clock = grid.clock(t_s)
    assert clock is not None
    assert grid.seconds(clock) == pytest.approx(t_s, abs=1e-6)
    assert parse_moment(clock.isoformat()) == clock


def test_a_time_of_day_is_refused_without_a_wall_clock() -> None:
    assert Grid(1.0).clock(5) is None
    assert Grid(1.0).seconds(5.5) == 5.5
    with pytest.raises(BadRequest, match="recorded_at"):
        Grid(1.0).seconds(NOON)


def test_no_number_of_seconds_breaks_the_clock() -> None:
    assert Grid(1.0, NOON).clock(1e300) is None
    assert Grid(1.0, NOON).clock(1e12) is None


@pytest.mark.parametrize("value", ["-1", -0.5, "nan", "inf", "1e999", 10**400, "", "noon", "2026-11-21T12:00:00"])
def test_an_invalid_moment_is_refused_with_a_valid_example(value: str | float) -> None:
    with pytest.raises(BadRequest, match=r"give seconds|time zone"):
        parse_moment(value)


def test_times_of_day_are_read_with_their_offset() -> None:
    assert parse_moment("12.5") == 12.5
    assert parse_clock("2026-11-21T13:00:00+01:00") == NOON == parse_moment("2026-11-21T12:00:00Z")
    with pytest.raises(BadRequest, match="not a time"):
        parse_clock("0001-01-01T00:00:00+14:00")
