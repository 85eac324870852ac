"""How the command line prints videos, progress and answers. Nothing of a video's or answer's own text is markup."""

import os
import sys
from collections.abc import Iterator
from textwrap import shorten
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

MAX_QUESTION_CHARS = 120  # of each in a list
WIDTH_OF_FILES = 160  # a file or a pipe has no width of its own; rich would take 80 and break tables up
console = Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH_OF_FILES)
aside = Console(highlight=False, stderr=True)  # what is not the result: standard output may go to a program


def videos(rows: list[dict[str, Any]]) -> None:
    """A table of videos."""
    table = Table("id", "source", "status", "frames", "encoded", box=None)
    for row in rows:
        reason = row["problem"]["message"] if row["problem"] else row["truncated"]
        if row["duplicate_of"]:
            reason = f"of {row['duplicate_of']}"
        status = row["status"] + (f": {reason}" if reason else "")
        counted = row["progress"] or {"frames_sampled": "?", "frames_encoded": "?"}
        frames, encoded = str(counted["frames_sampled"]), str(counted["frames_encoded"])
        table.add_row(Text(row["id"], no_wrap=True), Text(row["source"]), Text(status), frames, encoded)
    console.print(table)


def video(row: dict[str, Any], questions: list[dict[str, Any]]) -> None:
    """One video and its questions, a line for each thing known."""
    table = Table(box=None, show_header=False)
    known = {name: value for name, value in row.items() if value is not None and name not in ("progress", "problem")}
    for name, value in [*known.items(), *(row["progress"] or {}).items(), *(row["problem"] or {}).items()]:
        table.add_row(name, Text("" if value is None else str(value)))
    console.print(table)
    for question in questions:
        text = question["answer"]["text"] if question["answer"] else f"({question['status']})"
        asked = shorten(question["question"], MAX_QUESTION_CHARS, placeholder=" ...")
        console.print(Text(f"{question['id']}  {asked}  {text}"), soft_wrap=True)


def progress(states: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """A bar for sampling and one for encoding while `states` (the video at each change) come; the last of them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    state: dict[str, Any] = {}
    with Progress(*columns, console=aside) as bars:
        sampled, encoded = bars.add_task("sampled", total=None), bars.add_task("encoded", total=None)
        for state in states:
            now = state["progress"]
            bars.update(sampled, completed=now["frames_sampled"], total=now["frames_expected"])
            bars.update(encoded, completed=now["frames_encoded"], total=now["frames_expected"])
    return state


def grounds(question: dict[str, Any]) -> None:
    """What an answer rests on, in two lines; nothing where the question was cancelled before it had one."""
    answer = question["answer"]
    if answer is None:
        note(question["status"])
        return
    times = answer["timings"]
    seen = ", ".join(f"{item['t_s']:g} s" for item in answer["evidence"])
    whole = "" if answer["video_complete"] else f"; encoded up to {answer['encoded_until_s']:g} s so far"
    cut = "" if answer["finish_reason"] == "stop" else f"; ended by {answer['finish_reason']}"
    note(
        f"{answer['frames']} frames, {answer['start_s']:g} to {answer['end_s']:g} s{whole}"
        f"{f'; looked at {seen}' if seen else ''}{cut}\n"
        f"{answer['fusion']} over {answer['fusion_frames']} frames; first token {times['first_token_s']:.2f} s, "
        f"total {times['total_s']:.2f} s; {question['id']}"
    )


def note(words: str) -> None:
    """A remark beside the result."""
    aside.print(Text(words, style="dim"), soft_wrap=True)


def finding(part: str, words: str, *, fine: bool, needed: bool) -> None:
    """A line of `doctor`."""
    mark, style = ("ok", "green") if fine else ("no", "red") if needed else ("--", "yellow")
    console.print(Text.assemble((f"{mark:4}", style), f"{part:12}{words}"), soft_wrap=True)
