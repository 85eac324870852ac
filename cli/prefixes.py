"""Finds a video or question by the beginning of its id, so that nobody has to type 25 characters."""

import re
from typing import Any

from cli.client import Client
from cli.errors import NoMatch
from storage.ids import QUESTION_ID, VIDEO_ID

BEGINNING = re.compile(r"\d[0-9a-f_-]*", re.ASCII)
BETWEEN = "_"  # a question's id is its video's id, this, and its own stamp


def find_video(client: Client, beginning: str) -> str:
    """The id of the only video with this beginning, or of the stream with this name. Raises NoMatch.

    A complete id is returned unchecked.
    """
    if VIDEO_ID.fullmatch(beginning):
        return beginning
    if QUESTION_ID.fullmatch(beginning):
        raise NoMatch(f"{beginning} is a question's id; its video is {beginning.partition(BETWEEN)[0]}")
    if not BEGINNING.match(beginning) and (stream_id := _find_named(client, beginning)):
        return stream_id
    page = _read_matches(client, "/v1/videos", beginning, "no video {}; `longwatch list` shows the ids")
    names = {video["id"]: video["title"] or video["source"] for video in page["videos"]}
    return _require_one(names, beginning, "videos", more=bool(page["next_cursor"]))


def find_stream(client: Client, beginning: str) -> str:
    """The id of the only stream with this beginning or name; a complete id is returned unchecked. Raises NoMatch."""
    if VIDEO_ID.fullmatch(beginning):
        return beginning
    if stream_id := _find_named(client, beginning):
        return stream_id
    page = _read_matches(client, "/v1/streams", beginning, "no stream {}; `longwatch stream list` shows the ids")
    names = {stream["id"]: stream["name"] or stream["url"] for stream in page["streams"]}
    return _require_one(names, beginning, "streams", more=bool(page["next_cursor"]))


def _find_named(client: Client, name: str) -> str | None:
    """The id of the only stream with this name."""
    named = [str(row["id"]) for row in client.pages("/v1/streams", "streams") if row["name"] == name]
    return named[0] if len(named) == 1 else None


def find_question(client: Client, beginning: str) -> str:
    """The id of the only question with this beginning; a complete id is returned unchecked. Raises NoMatch.

    The beginning of a video's id is enough if only one question was asked about that video.
    """
    if QUESTION_ID.fullmatch(beginning):
        return beginning
    if not BEGINNING.fullmatch(beginning):
        raise NoMatch(
            f"no question has an id that begins with {beginning!r}; `longwatch questions ID` shows those of a video"
        )
    video_id = find_video(client, beginning.partition(BETWEEN)[0])
    prefix = beginning if BETWEEN in beginning else video_id + BETWEEN
    nothing = f"no question {{}}; `longwatch questions {video_id}` shows the ids"
    page = _read_matches(client, f"/v1/videos/{video_id}/questions", prefix, nothing)
    names = {question["id"]: question["question"] for question in page["questions"]}
    return _require_one(names, beginning, "questions", more=bool(page["next_cursor"]))


def _read_matches(client: Client, path: str, prefix: str, nothing: str) -> Any:
    """The page of items with this prefix; raises NoMatch with the text of `nothing` if it is empty."""
    page = client.call("GET", path, params={"prefix": prefix}) if BEGINNING.fullmatch(prefix) else {}
    if not any(page.get(name) for name in ("videos", "questions", "streams")):
        raise NoMatch(nothing.format(f"has an id that begins with {prefix!r}"))
    return page


def _require_one(names: dict[str, str], beginning: str, kind: str, *, more: bool) -> str:
    if len(names) == 1 and not more:
        return next(iter(names))
    lines = [f"{found}  {name}" for found, name in names.items()] + ["..."] * more
    raise NoMatch("\n  ".join([f"several {kind} begin with {beginning!r}; give more of the id:", *lines]))
