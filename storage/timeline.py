"""Turns times into slots, segments and masks, and back. Pure; nothing else does this arithmetic.

A video is a grid of slots, `sample_fps` of them a second. Slot `i` stands for the time `(i + 0.5) / sample_fps` seconds
after the start. A segment is 64 consecutive slots, so one 64-bit mask names any set of its slots (bit `i` = place `i`).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from storage.errors import BadRequest

SEGMENT_SLOTS = 64
FULL_MASK = (1 << SEGMENT_SLOTS) - 1
EPSILON_SLOTS = 1e-6  # times are decimal fractions: 0.1 + 0.2 must not miss its slot

Masks = tuple[tuple[int, int], ...]  # (segment, mask of some of its frames) of neighbouring segments
Moment = float | datetime  # seconds from the start, or a time of day


@dataclass(frozen=True)
class Grid:
    """The slots of one video."""

    sample_fps: float
    starts_at: datetime | None = None  # the wall-clock time of the start, if it is known

    def time_s(self, slot: int) -> float:
        """The time that a slot stands for, in seconds from the start."""
        return (slot + 0.5) / self.sample_fps

    def slot_at(self, t_s: float) -> int:
        """The slot on display at `t_s`."""
        return math.floor(t_s * self.sample_fps + EPSILON_SLOTS)

    def slots_between(self, start_s: float, end_s: float) -> range:
        """The slots, from 0 on, whose time lies in [start_s, end_s]."""
        first = math.ceil(start_s * self.sample_fps - 0.5 - EPSILON_SLOTS)
        last = math.floor(end_s * self.sample_fps - 0.5 + EPSILON_SLOTS)
        return range(max(first, 0), max(last + 1, 0))

    def segment_start_s(self, segment: int) -> float:
        """When a segment begins, in seconds from the start."""
        return segment * SEGMENT_SLOTS / self.sample_fps

    def clock(self, t_s: float) -> datetime | None:
        """The wall-clock time of `t_s` (UTC); None without a wall clock, or beyond the calendar's end."""
        try:
            return self.starts_at and self.starts_at + timedelta(seconds=t_s)
        except OverflowError:
            return None

    def seconds(self, moment: Moment) -> float:
        """Seconds from the start; raises BadRequest for a time of day if the video has no wall clock."""
        if not isinstance(moment, datetime):
            return moment
        if self.starts_at is None:
            raise BadRequest("this video has no wall clock: give seconds, or submit it with recorded_at")
        return (moment - self.starts_at).total_seconds()


def parse_moment(value: str | float) -> Moment:
    """Seconds (a number, or its text) or an RFC 3339 time with its offset; raises BadRequest."""
    try:
        seconds = float(value)
    except ValueError:
        return parse_clock(str(value))
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds < 0:
        raise BadRequest(f"{value} is not a time: give seconds from the start, zero or more")
    return seconds


def parse_clock(text: str) -> datetime:
    """An RFC 3339 time with its offset, in UTC; raises BadRequest."""
    try:
        when = datetime.fromisoformat(text)
        in_utc = when.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadRequest(
            f"{text!r} is not a time: give seconds from the start, or RFC 3339 such as 2026-11-21T14:02:00Z"
        ) from error
    if when.tzinfo is None:
        raise BadRequest(f"{text!r} has no time zone: end it with Z for UTC, or an offset such as +01:00")
    return in_utc


def locate(slot: int) -> tuple[int, int]:
    """(segment, place within it) of a slot."""
    return divmod(slot, SEGMENT_SLOTS)


def segments_of(slots: range) -> range:
    """The segments that a range of slots touches."""
    if not slots:
        return range(0)
    return range(slots.start // SEGMENT_SLOTS, (slots.stop - 1) // SEGMENT_SLOTS + 1)


def mask_within(slots: range, segment: int) -> int:
    """The mask of the segment's slots that lie in the range."""
    first = segment * SEGMENT_SLOTS
    low, high = max(slots.start - first, 0), min(slots.stop - first, SEGMENT_SLOTS)
    return ((1 << high) - 1) & ~((1 << low) - 1) if high > low else 0


def mask_of(places: Iterable[int]) -> int:
    """The mask whose bits are the given places (0..63)."""
    mask = 0
    for place in places:
        mask |= 1 << place
    return mask


def places_in(mask: int) -> list[int]:
    """The places (0..63, ascending) whose bits are set."""
    return [place for place in range(SEGMENT_SLOTS) if mask >> place & 1]


def slots_in(masks: dict[int, int]) -> Iterator[int]:
    """The slots in the masks (segment -> mask), in time order."""
    for segment in sorted(masks):
        yield from (segment * SEGMENT_SLOTS + place for place in places_in(masks[segment]))


def masks_of(slots: Iterable[int]) -> dict[int, int]:
    """Segment -> mask of the given slots."""
    masks: dict[int, int] = {}
    for slot in slots:
        segment, place = locate(slot)
        masks[segment] = masks.get(segment, 0) | 1 << place
    return masks


def find_gaps(masks: Mapping[int, int], slots: range) -> list[range]:
    """The runs of slots in the range that no mask (segment -> mask) has, ascending."""
    gaps: list[range] = []
    for segment in segments_of(slots):
        lacking = mask_within(slots, segment) & ~masks.get(segment, 0)
        for place in places_in(lacking) if lacking else ():
            slot = segment * SEGMENT_SLOTS + place
            if gaps and gaps[-1].stop == slot:
                gaps[-1] = range(gaps[-1].start, slot + 1)
            else:
                gaps.append(range(slot, slot + 1))
    return gaps


def cut_portions(masks: Iterable[tuple[int, int]]) -> list[Masks]:
    """Groups neighbouring segments until a portion has at least 64 frames; the last portion has the rest."""
    portions: list[Masks] = []
    portion: list[tuple[int, int]] = []
    for segment, mask in masks:
        portion.append((segment, mask))
        if count_frames(portion) >= SEGMENT_SLOTS:
            portions.append(tuple(portion))
            portion = []
    return [*portions, tuple(portion)] if portion else portions


def count_frames(masks: Iterable[tuple[int, int]]) -> int:
    """How many frames the masks name."""
    return sum(mask.bit_count() for _, mask in masks)
