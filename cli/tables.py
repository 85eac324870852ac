"""Turns the service's answers into lines of text. Knows nothing of the terminal but its width."""

from collections.abc import Iterator
from datetime import datetime
from textwrap import shorten
from typing import Any
from urllib.parse import urlsplit

from rich.cells import cell_len, set_cell_size

from cli.times import format_time

View = dict[str, Any]  # a VideoView or a QuestionView

MAX_TEXT_CHARS = 240  # of a question or an answer in a list
COLUMNS = {"id": 25, "status": 9, "length": 8, "encoded": 11}  # 25: an id, which is never cut
FIXED_WIDTH = sum(COLUMNS.values()) + 2 * len(COLUMNS)
LEAST_NAME_WIDTH = 12  # below that a video takes two lines


def video_header(width: int | None) -> str:
    """The header of `video_lines`."""
    return _row([*COLUMNS, "name"], width)


def video_lines(video: View, width: int | None) -> Iterator[str]:
    """One line for a video, or two in a narrow terminal; one more if there is something to explain."""
    yield from _row([video["id"], status_word(video), _length(video), _encoded(video), _name(video)], width).split("\n")
    reason = _reason(video)
    if reason:
        yield f"  {reason}"


def video_details(video: View) -> Iterator[tuple[str, str]]:
    """(name, value) of all that is known of a video."""
    known = {
        "id": video["id"],
        "status": status_word(video),
        "title": video["title"],
        "source": video["source"],
        "kind": f"{video['media']} by {video['kind']}",
        "added": video["created_at"],
        "recorded": video["recorded_at"],
        "length": format_time(video["duration_s"]) if video["duration_s"] is not None else None,
        "picture": f"{video['width_px']}x{video['height_px']} {video['codec'] or ''}" if video["width_px"] else None,
        "sampling": f"{video['sample_fps']:g} fps, {video['mode']}" if video["media"] == "video" else None,
        "frames": progress_words(video),
        "note": _reason(video),
    }
    return ((name, str(value).strip()) for name, value in known.items() if value)


def progress_words(video: View) -> str:
    """How far a video is."""
    progress = video["progress"]
    if progress is None:
        return "being counted again"
    expected = f" of {progress['frames_expected']}" if progress["frames_expected"] is not None else ""
    words = f"{progress['frames_sampled']}{expected} sampled, {progress['frames_encoded']} encoded"
    if progress["frames_failed"]:
        words += f", {progress['frames_failed']} failed"
    if progress["eta_s"] is not None and not progress["complete"]:
        words += f", {format_time(round(progress['eta_s']))} left"
    return words


def known_words(video: View, fields: dict[str, str]) -> str:
    """Says which video already has an upload's content, and which of `fields` that video ignored."""
    words = [f"its content is already there, as {video['id']}"]
    for name, given in fields.items():
        kept, said = video[name], name.replace("_", "-")
        if kept is None:
            words.append(f"--{said} is ignored while that video is {status_word(video)}")
        elif not _are_same(kept, given):
            words.append(f"--{said} is ignored: that video keeps {kept!r}")
    return "; ".join(words)


def question_lines(question: View) -> Iterator[str]:
    """A question's id, what was asked, and the beginning of its answer."""
    yield question["id"]
    yield f"  {_stretch(question)}: {_short(question['question'])}"
    if question["answer"]:
        yield f"  {_short(question['answer']['text'])}"
    else:
        yield f"  ({_question_status(question)})"


def event_line(event: View) -> str:
    """When an event happened, to which stream, and what it was."""
    probability = "" if event["probability"] is None else f" ({event['probability']:.2f})"
    words = event["message"] or event["answer"] or ""
    answer = f": {event['answer']}" if event["answer"] and event["answer"] not in words else ""
    return f"{event['at']}  {event['stream_id']}  {event['type']:9}  {_short(words + answer)}{probability}".rstrip()


def waiting_words(question: View) -> str:
    """What a question that has no answer yet waits for."""
    waiting = question["waiting"]
    if question["status"] != "waiting" or not waiting:
        return str(question["status"])
    expected = f" of {waiting['frames_expected']}" if waiting["frames_expected"] is not None else ""
    return f"waiting for {waiting['for']}: {waiting['frames_encoded']}{expected} encoded"


def grounds_lines(question: View) -> Iterator[str]:
    """What an answer rests on; how the question ended if it has none."""
    answer = question["answer"]
    if answer is None:
        yield f"{_question_status(question)}; {question['id']}"
        return
    missing = f"; {_frames(answer['frames_missing'])} not encoded" if answer["frames_missing"] else ""
    cut = f"; ended by {answer['finish_reason']}" if answer["finish_reason"] != "stop" else ""
    yield f"{_frames(answer['frames'])}, {_stretch(answer)}{missing}{cut}"
    if not answer["video_complete"]:
        yield f"the video is encoded up to {format_time(answer['encoded_until_s'])} so far"
    if answer["evidence"]:
        seen = ", ".join(f"{format_time(item['t_s'])} (score {item['score']:.2f})" for item in answer["evidence"])
        first = answer["evidence"][0]["t_s"]
        yield f"looked at {seen}; `longwatch frame {question['video_id']} {first:g}` fetches the first"
    times = answer["timings"]
    yield (
        f"{answer['fusion']} over {_frames(answer['fusion_frames'])}; first token {times['first_token_s']:.2f} s, "
        f"total {times['total_s']:.2f} s; {question['id']}"
    )


def _are_same(kept: str, given: str) -> bool:
    """Whether two titles, or two times in RFC 3339, are the same."""
    try:
        return datetime.fromisoformat(kept) == datetime.fromisoformat(given)
    except ValueError:
        return kept == given.strip()


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _row(cells: list[str], width: int | None) -> str:
    """The cells in columns. The first is never cut; the last gets the rest of `width`. Two lines if that is little."""
    *fixed, name = cells
    sized = [set_cell_size(cell, max(size, cell_len(cell))) for cell, size in zip(fixed, COLUMNS.values(), strict=True)]
    left = None if width is None else width - FIXED_WIDTH
    if width is not None and left is not None and left < LEAST_NAME_WIDTH:
        rest = "  ".join([*(cell.strip() for cell in sized[1:]), name])
        return f"{sized[0].rstrip()}\n  {_cut(rest, max(width - 2, 1))}"
    return "  ".join([*sized, name if left is None else _cut(name, left)]).rstrip()


def _cut(text: str, cells: int) -> str:
    return text if cell_len(text) <= cells else set_cell_size(text, cells - 1).rstrip() + "…"


def _short(text: str) -> str:
    return shorten(text, MAX_TEXT_CHARS, placeholder=" ...")


def _name(video: View) -> str:
    """A video's title, or else the last part of its source."""
    path = urlsplit(video["source"]).path if "://" in video["source"] else video["source"]
    return str(video["title"] or path.rstrip("/").rpartition("/")[2] or video["source"])


def status_word(video: View) -> str:
    """A video's status in one word, the same in every command."""
    progress = video["progress"]
    encoding = video["status"] == "ready" and progress and not progress["complete"]
    return "encoding" if encoding else str(video["status"])


def _length(video: View) -> str:
    if video["media"] == "image":
        return "image"
    return "?" if video["duration_s"] is None else format_time(round(video["duration_s"]))


def _encoded(video: View) -> str:
    progress = video["progress"]
    if progress is None:
        return "?"
    expected = progress["frames_expected"]
    return f"{progress['frames_encoded']}/{'?' if expected is None else expected}"


def _reason(video: View) -> str:
    """What needs explaining: a problem, missing frames, or the video that it duplicates; empty if nothing does."""
    if video["problem"]:
        return str(video["problem"]["message"])
    if video["duplicate_of"]:
        return f"the same as {video['duplicate_of']}"
    if video["progress"] and video["progress"]["frames_failed"]:
        count = video["progress"]["frames_failed"]
        return f"{_frames(count)} could not be encoded; `longwatch retry {video['id']}` tries again"
    return f"partly sampled: {video['truncated']}" if video["truncated"] else ""


def _question_status(question: View) -> str:
    if question["problem"]:
        return f"{question['status']}: {question['problem']['message']}"
    return waiting_words(question)


def _stretch(view: View) -> str:
    """The stretch of a question or an answer, with its wall-clock times if there are any."""
    end = "the end" if view["end_s"] is None else format_time(view["end_s"])
    words = f"{format_time(view['start_s'])} to {end}"
    return f"{words} ({view['start_at']} to {view['end_at'] or 'the end'})" if view["start_at"] else words
