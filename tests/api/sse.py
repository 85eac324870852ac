"""Follows a stream of server-sent events, as a browser reads it."""

import json
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import httpx

STREAM = {"accept": "text/event-stream"}


class Reader(threading.Thread):
    """Follows a stream in a thread of its own."""

    def __init__(self, http: httpx.Client, method: str, path: str, **request: Any) -> None:
        super().__init__(daemon=True)
        self.events: list[tuple[str, str]] = []
        self._request = (http, method, path, request)
        self.start()

    def run(self) -> None:
        http, method, path, request = self._request
        with http.stream(method, path, headers=STREAM, **request) as response:
            for event in parse_events(response.iter_bytes()):
                self.events.append(event)

    @property
    def names(self) -> list[str]:
        """The events' names so far."""
        return [name for name, _ in self.events]

    @property
    def text(self) -> str:
        """The answer's text so far: what came since the last restart."""
        last = max((k for k, name in enumerate(self.names) if name == "restart"), default=0)
        return "".join(data for name, data in self.events[last:] if name == "text")

    def data_of(self, name: str) -> list[Any]:
        """The data of all events of this name."""
        return [json.loads(data) for event, data in self.events if event == name]

    def finish(self) -> Any:
        """Waits for the end of the stream; returns the last event's data."""
        self.join(timeout=30)
        assert not self.is_alive()
        return json.loads(self.events[-1][1])


def parse_events(received: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """(event, data) of each event; skips comments. The service ends lines with CR LF."""
    rest, name, data = b"", "", list[str]()
    for piece in received:
        *lines, rest = (rest + piece).split(b"\r\n")
        for line in lines:
            field, _, value = line.decode().partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                name = value
            elif field == "data":
                data.append(value)
            elif not line and name:
                yield name, "\n".join(data)
                name, data = "", []
