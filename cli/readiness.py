"""Reports which parts of the service are missing while a command waits for them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cli.client import Client
from cli.errors import ServiceError
from cli.status import StatusLine

CHECK_EVERY_S = 2.0  # with QUICK's 4 s, a missing part is reported about 5 s after a command needs it
FIRST_CHECK_AFTER_S = 0.5  # an answer that comes at once needs no check
STORES = ("state", "cache", "archive")
FOR_VIDEOS = (*STORES, "ingest", "encode")
FOR_ANSWERS = (*STORES, "ingest", "encode", "reason")


@contextmanager
def missing_parts_said(client: Client, parts: tuple[str, ...], line: StatusLine) -> Iterator[threading.Event]:
    """Reports on `line` which of `parts` are missing, and when they are back, until the event is set."""
    done = threading.Event()
    threading.Thread(target=_watch, args=(client.base_url, parts, line, done), daemon=True).start()
    try:
        yield done
    finally:
        done.set()


def _watch(base_url: str, parts: tuple[str, ...], line: StatusLine, done: threading.Event) -> None:
    said: dict[str, str] = {}
    with Client(base_url) as client:  # a second client: the other one is busy with a stream
        pause_s = FIRST_CHECK_AFTER_S
        while not done.wait(pause_s):
            missing = _find_missing(client, parts)
            if not done.is_set():
                for part in sorted(missing.keys() - said.keys()):
                    line.note(f"waiting: {missing[part]}")
                if said and not missing:
                    line.note("nothing is missing any more")
            said, pause_s = missing, CHECK_EVERY_S


def _find_missing(client: Client, parts: tuple[str, ...]) -> dict[str, str]:
    try:
        missing = client.missing_parts()
    except ServiceError as error:
        return {"service": str(error)}
    return {part: message for part, message in missing.items() if part in parts}
