"""Reads times as people type them (`90`, `1:30`, RFC 3339), and writes them as people read them."""

import math
import re
from datetime import datetime

CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d{2}(?:\.\d+)?)", re.ASCII)  # hours, minutes, seconds
SECONDS = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)
EXAMPLES = "give seconds (90), minutes (1:30), hours (1:02:03) or a time with its zone (2026-11-21T13:00:00Z)"


def parse_time(text: str) -> float | str:
    """Seconds from the start, or a wall-clock time in RFC 3339. Raises ValueError with valid examples."""
    if SECONDS.fullmatch(text):
        return _finite(float(text), text)
    clock = CLOCK.fullmatch(text)
    if clock:
        hours, minutes, seconds = clock[1], int(clock[2]), float(clock[3])
        if seconds >= 60 or (hours is not None and minutes >= 60):
            raise ValueError(f"{text!r} has more than 59 seconds or minutes: {EXAMPLES}")
        return _finite(int(hours or 0) * 3600 + minutes * 60 + seconds, text)
    return parse_wall_clock(text)


def parse_wall_clock(text: str) -> str:
    """A time with its zone, in RFC 3339. Raises ValueError with valid examples."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a time: {EXAMPLES}") from error
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone: add Z (UTC) or an offset such as +02:00")
    return moment.isoformat()


def format_time(seconds: float) -> str:
    """`0:30`, `1:02:03` or `0:17.5`: seconds from the start, as `parse_time` reads them."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    words = f"{rest / 1000:06.3f}".rstrip("0").rstrip(".")  # 17.500 -> 17.5
    return f"{hours}:{minutes:02}:{words}" if hours else f"{minutes}:{words}"


def _finite(seconds: float, text: str) -> float:
    if not math.isfinite(seconds):
        raise ValueError(f"{text!r} is too large: {EXAMPLES}")
    return seconds
