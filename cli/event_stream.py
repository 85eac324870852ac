"""Reads server-sent events (WHATWG HTML, 9.2.6) from pieces of text."""

from collections.abc import Callable, Iterable, Iterator


def parse_events(lines: Iterable[str], note_id: Callable[[str], None] | None = None) -> Iterator[tuple[str, str]]:
    """(event, data) from the lines of an event stream; skips comments.

    `note_id` gets the id to resume from, after the event with this id was handled.
    """
    event, data, last_id = "message", list[str](), ""
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield event, "\n".join(data)
            if note_id is not None and last_id:
                note_id(last_id)
            event, data = "message", []
        elif name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif name == "id":
            last_id = value


def split_lines(texts: Iterable[str]) -> Iterator[str]:
    """Complete lines, split at newlines only; httpx would also split at separators inside a text, such as U+2028."""
    rest = ""
    for text in texts:
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            yield line.removesuffix("\r")
