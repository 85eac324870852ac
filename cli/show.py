"""Prints videos, questions and answers, with their text escaped so that it cannot control the terminal."""

import os
import sys
from collections.abc import Iterable
from itertools import chain
from typing import Any

from rich.console import Console
from rich.text import Text

from cli.stream_tables import STREAM_HEADER, stream_details, stream_lines, watch_lines
from cli.tables import event_line, grounds_lines, question_lines, video_details, video_header, video_lines
from storage.text import escape_controls

console = Console(highlight=False)
aside = Console(highlight=False, stderr=True)  # for all but the result: standard output may go to a program


def videos(rows: Iterable[dict[str, Any]]) -> None:
    """Prints a line for each video as it comes, and one more if there is something to explain."""
    width = console.width if sys.stdout.isatty() or "COLUMNS" in os.environ else None  # a file has no width
    lines = (line for row in rows for line in video_lines(row, width))
    first = next(lines, None)  # before the header, which is omitted if the service does not answer
    for line in video_header(width).split("\n"):
        _print(line, style="bold")
    for line in lines if first is None else chain([first], lines):
        _print(line)


def video(row: dict[str, Any], asked: list[dict[str, Any]]) -> None:
    """Prints all that is known of a video, and its latest questions."""
    for name, value in video_details(row):
        console.print(Text.assemble((f"{name:12}", "bold"), escape_controls(value)), soft_wrap=True)
    if asked:
        console.print()
        questions(asked)


def questions(rows: Iterable[dict[str, Any]]) -> None:
    """Prints questions with the beginning of their answers."""
    for row in rows:
        first, *rest = question_lines(row)
        _print(first, style="bold")
        for line in rest:
            _print(line)


def streams(rows: Iterable[dict[str, Any]]) -> None:
    """Prints a line for each stream as it comes, and one more if there is something to explain."""
    _print(STREAM_HEADER, style="bold")
    for row in rows:
        for line in stream_lines(row):
            _print(line)


def stream(row: dict[str, Any], watches: list[dict[str, Any]]) -> None:
    """Prints all that is known of a stream, and its standing questions."""
    for name, value in stream_details(row):
        console.print(Text.assemble((f"{name:12}", "bold"), escape_controls(value)), soft_wrap=True)
    for each in watches:
        console.print()
        for line in watch_lines(each):
            _print(line)


def event(row: dict[str, Any]) -> None:
    """Prints an event."""
    _print(event_line(row))


def grounds(question: dict[str, Any]) -> None:
    """Prints what an answer rests on."""
    for line in grounds_lines(question):
        note(line)


def note(words: str) -> None:
    """Prints a remark beside the result."""
    aside.print(Text(escape_controls(words), style="dim"), soft_wrap=True)


def finding(part: str, words: str, *, fine: bool, needed: bool) -> None:
    """Prints a line of `doctor`."""
    mark, style = ("ok", "green") if fine else ("no", "red") if needed else ("--", "yellow")
    console.print(Text.assemble((f"{mark:4}", style), f"{part:12}{escape_controls(words)}"), soft_wrap=True)


def _print(line: str, style: str = "") -> None:
    console.print(Text(escape_controls(line), style=style), soft_wrap=True)
