"""One line on stderr that says what a command waits for, rewritten in place; and remarks beside the result."""

import os
import shutil
import sys
import threading
import time
from types import TracebackType
from typing import Self, TextIO

from rich.cells import set_cell_size

from cli.safe_text import escape_lines
from storage.text import escape_controls

LEAST_BETWEEN_LINES_S = 5.0  # for a file or a pipe, where nothing can be rewritten
ERASE_LINE = "\r\x1b[2K"


class StatusLine:
    """The line, shown until the `with` block ends. Threads may share it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._rewrites = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._lock = threading.Lock()
        self._shown = ""
        self._written_at = -LEAST_BETWEEN_LINES_S

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.clear()

    def update(self, text: str) -> None:
        """Shows `text` instead of the current text."""
        text = escape_controls(" ".join(text.split()))
        with self._lock:
            if text == self._shown:
                return
            if self._rewrites:
                self._draw(text)
                self._shown = text
            elif time.monotonic() - self._written_at >= LEAST_BETWEEN_LINES_S:
                self._write(f"{text}\n")
                self._shown, self._written_at = text, time.monotonic()

    def note(self, text: str) -> None:
        """Prints a remark that stays, above the line."""
        with self._lock:
            erase = ERASE_LINE if self._rewrites and self._shown else ""
            self._write(f"{erase}{escape_lines(text)}\n")
            if self._rewrites and self._shown:
                self._draw(self._shown)

    def clear(self) -> None:
        """Removes the line."""
        with self._lock:
            if self._rewrites and self._shown:
                self._write(ERASE_LINE)
            self._shown = ""

    def _draw(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1  # the last column would wrap
        self._write(ERASE_LINE + set_cell_size(text, width).rstrip())

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
