"""Ids that sort by creation time and are safe as a path, a Redis key and a job id."""

import re
import secrets
from datetime import UTC, datetime

from storage.errors import NotFound

_STAMP = r"\d{8}-\d{9}-[0-9a-f]{6}"  # date, time to the millisecond (UTC), random digits
VIDEO_ID = re.compile(rf"{_STAMP}")
QUESTION_ID = re.compile(rf"({_STAMP})_({_STAMP})")  # a question's id contains its video's, so no index is needed


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


def _stamp() -> str:
    now = datetime.now(UTC)
    return f"{now:%Y%m%d-%H%M%S}{now.microsecond // 1000:03d}-{secrets.token_hex(3)}"
