"""The line that says what a command waits for: rewritten in place in a terminal, printed now and then in a file."""

import io
import os
import pty

from cli.status import ERASE_LINE, StatusLine


def test_a_terminal_shows_one_line_and_erases_it_at_the_end() -> None:
    reader, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream, StatusLine(stream) as line:
        line.update("waiting for frames: 1 of 9 encoded")
        line.update("waiting for frames: 1 of 9 encoded")
        line.update("x" * 500)
        line.note("no reason worker\x1b[2J")
        line.clear()
        shown = ""
        while shown.count(ERASE_LINE) < 5:
            shown += os.read(reader, 10_000).decode()
    os.close(reader)
    first, second, erased, again, cleared = shown.split(ERASE_LINE)[1:]
    assert first == "waiting for frames: 1 of 9 encoded"
    assert second == "x" * 79  # cut, so that it does not wrap
    assert (erased, again, cleared) == ("no reason worker\\x1b[2J\r\n", "x" * 79, "")


def test_a_file_gets_a_line_now_and_then() -> None:
    stream = io.StringIO()
    with StatusLine(stream) as line:
        for number in range(100):
            line.update(f"{number} of 100")
        line.note("no encode worker")
    assert stream.getvalue() == "0 of 100\nno encode worker\n"
