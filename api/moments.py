"""Times in requests: seconds from the start, or RFC 3339 if the video has a wall clock."""

import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query
from pydantic import AfterValidator, AwareDatetime, Field

from storage.documents import Video
from storage.errors import BadRequest
from storage.timeline import Grid, parse_clock, parse_moment

LONGEST_S = 1e9  # 32 years: longer than any video, and well within what dates and bitmaps can hold
EARLIEST, LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
_LOST_PLUS = re.compile(r"(T.*) (\d\d:\d\d)$")  # an unescaped `+` in a query arrives as a space

TEXT = "Seconds from the start, or RFC 3339 (2026-11-21T14:02:00Z) if the video has a wall clock."
QueryMoment = Annotated[str | None, Query(max_length=64, description=TEXT)]


def _known_century(when: datetime) -> datetime:
    if not EARLIEST <= when <= LATEST:
        raise ValueError(f"give a time between {EARLIEST.year} and {LATEST.year}")
    return when.astimezone(UTC)


Clock = Annotated[AwareDatetime, Field(strict=True), AfterValidator(_known_century)]


def find_second(video: Video, given: str | float, name: str) -> float:
    """Converts a request's time to seconds from the start of the video; raises BadRequest that names the field."""
    text = _LOST_PLUS.sub(r"\1+\2", given) if isinstance(given, str) else given
    try:
        second = video.grid.seconds(parse_moment(text))
    except OverflowError as error:
        raise BadRequest(f"{name}: {given} is out of range") from error
    except BadRequest as error:
        raise BadRequest(f"{name}: {error}") from error
    if abs(second) > LONGEST_S:
        raise BadRequest(f"{name}: {given} is out of range: no video lasts {LONGEST_S:g} s")
    return second


def read_clock(given: str, name: str) -> datetime:
    """A request's RFC 3339 time; raises BadRequest that names the field."""
    try:
        return parse_clock(_LOST_PLUS.sub(r"\1+\2", given))
    except BadRequest as error:
        raise BadRequest(f"{name}: {error}") from error


def find_stretch_s(video: Video, start: str | float | None, end: str | float | None) -> tuple[float, float | None]:
    """(start, end) in seconds; a start before the video counts as 0. Raises BadRequest."""
    start_s = 0.0 if start is None else max(find_second(video, start, "start"), 0.0)
    end_s = None if end is None else find_second(video, end, "end")
    if end_s is not None and end_s <= start_s:
        raise BadRequest(f"end ({end}) must be after start ({0 if start is None else start}) and after 0 s")
    return start_s, end_s


def end_of(grid: Grid, slot: int) -> float:
    """When a slot ends, in seconds from the start."""
    return grid.time_s(slot) + 0.5 / grid.sample_fps
