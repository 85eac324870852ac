"""Finds the video or question whose id begins as given, so that nobody has to type 25 characters."""

import re
from typing import Any

from cli.client import Client
from cli.errors import NoMatch
from storage.ids import QUESTION_ID, VIDEO_ID

BEGINNING = re.compile(r"\d[0-9a-f_-]*", re.ASCII)
BETWEEN = "_"  # a question's id is its video's id, this, and a stamp of its own


def find_video(client: Client, beginning: str) -> str:
    """The id of the one video whose id begins so; a whole id is taken as it is. Raises NoMatch."""
    if VIDEO_ID.fullmatch(beginning):
        return beginning
    if QUESTION_ID.fullmatch(beginning):
        raise NoMatch(f"{beginning} is a question; its video is {beginning.partition(BETWEEN)[0]}")
    page = _matching(client, "/v1/videos", beginning, "no video {}; `longwatch list` shows the ids")
    names = {video["id"]: video["title"] or video["source"] for video in page["videos"]}
    return _only(names, beginning, "videos", more=bool(page["next_cursor"]))


def find_question(client: Client, beginning: str) -> str:
    """The id of the one question whose id begins so; a whole id is taken as it is. Raises NoMatch.

    The beginning of a video's id will do if one question was asked about that video.
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
    page = _matching(client, f"/v1/videos/{video_id}/questions", prefix, nothing)
    names = {question["id"]: question["question"] for question in page["questions"]}
    return _only(names, beginning, "questions", more=bool(page["next_cursor"]))


def _matching(client: Client, path: str, prefix: str, nothing: str) -> Any:
    """The page of what begins so; raises NoMatch with the words of `nothing` if that is empty."""
    page = client.call("GET", path, params={"prefix": prefix}) if BEGINNING.fullmatch(prefix) else {}
    if not any(page.get(name) for name in ("videos", "questions")):
        raise NoMatch(nothing.format(f"has an id that begins with {prefix!r}"))
    return page


def _only(names: dict[str, str], beginning: str, kind: str, *, more: bool) -> str:
    if len(names) == 1 and not more:
        return next(iter(names))
    lines = [f"{found}  {name}" for found, name in names.items()] + ["..."] * more
    raise NoMatch("\n  ".join([f"several {kind} begin with {beginning!r}; give more of the id:", *lines]))
