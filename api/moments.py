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

LastSeconds = Annotated[
    float | None, Query(gt=0, allow_inf_nan=False, description="Of a stream, instead of a time: the last seconds.")
]


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


def find_past_s(
    video: Video,
    start: str | float | None,
    end: str | float | None,
    last_s: float | None = None,
    default_s: float | None = None,
) -> tuple[float, float | None]:
    """(start, end) in seconds, as `find_stretch_s`. A stream's stretch ends now unless `end` says otherwise.

    `last_s` are the seconds before now; without any time a stream's stretch has `default_s` seconds.
    """
    if not video.is_live:
        if last_s is not None:
            raise BadRequest("last_s is for streams: a video has no present; give start and end")
        return find_stretch_s(video, start, end)
    now_s = video.grid.seconds(datetime.now(UTC))
    if start is None and end is None:
        last_s = last_s or default_s
    if last_s is not None:
        return max(now_s - last_s, 0.0), now_s
    start_s, end_s = find_stretch_s(video, start, end)
    if end_s is None and start_s >= now_s:
        raise BadRequest(f"start ({start}) lies in the future: give an end too, and the question waits for it")
    return start_s, now_s if end_s is None else end_s


def end_of(grid: Grid, slot: int) -> float:
    """When a slot ends, in seconds from the start."""
    return grid.time_s(slot) + 0.5 / grid.sample_fps
