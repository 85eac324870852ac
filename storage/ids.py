"""Ids that sort by creation time and are safe as a path, a Redis key and a job id."""

import re
import secrets
from datetime import UTC, datetime, timedelta

from storage.errors import NotFound

_STAMP = r"\d{8}-\d{9}-[0-9a-f]{6}"  # date, time to the millisecond (UTC), random digits
VIDEO_ID = re.compile(rf"{_STAMP}")
QUESTION_ID = re.compile(rf"({_STAMP})_({_STAMP})")  # a question's id contains its video's, so no index is needed

EVENT_ID = re.compile(r"\d{8}-\d{12}")  # date, time to the microsecond (UTC): an event's number in a readable form
EVENT_NUMBER = re.compile(r"[1-9]\d{15}")  # the same as microseconds since 1970
WATCH_ID = re.compile(r"[0-9a-z][0-9a-z_-]{0,79}")
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def new_video_id() -> str:
    """A fresh id such as 20261121-020851123-4f2a9c."""
    return _stamp()


def new_question_id(video_id: str) -> str:
    """A fresh id for a question about `video_id`; it begins with that id."""
    return f"{video_id}_{_stamp()}"


def created_at(video_id: str) -> datetime:
    """When a video was submitted, read from its id."""
    return datetime.strptime(video_id[:18] + "000", "%Y%m%d-%H%M%S%f").replace(tzinfo=UTC)


def check_video_id(video_id: str) -> str:
    """Returns `video_id`; raises NotFound if it does not look like an id, so that foreign text never becomes a path."""
    if not VIDEO_ID.fullmatch(video_id):
        raise NotFound(f"no video {video_id!r}: `longwatch list` shows the ids")
    return video_id


def video_of(question_id: str) -> str:
    """The id of the video that `question_id` asks about; raises NotFound."""
    match = QUESTION_ID.fullmatch(question_id)
    if not match:
        raise NotFound(f"no question {question_id!r}")
    return match[1]


def event_id_of(number: int) -> str:
    """The id of the event with this number (microseconds since 1970), such as 20261121-020851123456."""
    return f"{_EPOCH + timedelta(microseconds=number):%Y%m%d-%H%M%S%f}"


def event_number(event_id: str) -> int:
    """The number in an event's id; raises NotFound."""
    try:
        if not EVENT_ID.fullmatch(event_id):
            raise ValueError("it does not look like an id")
        number = (datetime.strptime(event_id, "%Y%m%d-%H%M%S%f").replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
        if not EVENT_NUMBER.fullmatch(str(number)):
            raise ValueError("it is out of range")
    except ValueError as error:
        raise NotFound(f"no event {event_id!r}: {error}") from error
    return number


def check_watch_id(watch_id: str) -> str:
    """Returns `watch_id`; raises NotFound if it does not look like an id."""
    if not WATCH_ID.fullmatch(watch_id):
        raise NotFound(f"no watch {watch_id!r}")
    return watch_id


def _stamp() -> str:
    now = datetime.now(UTC)
    return f"{now:%Y%m%d-%H%M%S}{now.microsecond // 1000:03d}-{secrets.token_hex(3)}"
