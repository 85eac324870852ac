"""A download from a slow server ends when the settings say, or when it is no longer wanted."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from ingest.errors import SourceError, SourceInterrupted, SourceUnavailable
from ingest.files.fetch import fetch_file
from storage.errors import NotFound
from tests.ingest.conftest import fetch_settings, wanted
from tests.ingest.hostile_site import LOCAL, listen_silently, listen_with_a_full_queue, serve_site


@contextmanager
def hanging_resolver() -> Iterator[int]:
    """Inside it, no name is resolved."""
    ended, look_up = threading.Event(), socket.getaddrinfo
    socket.getaddrinfo = lambda *_, **__: ended.wait() and []  # type: ignore[assignment]
    try:
        yield 80
    finally:
        ended.set()
        socket.getaddrinfo = look_up


PATIENT = {"connect_timeout_s": 60, "header_timeout_s": 60, "read_timeout_s": 60}
SLOW: dict[str, tuple[Callable[[], AbstractContextManager[int]], str]] = {
    "resolving": (hanging_resolver, "http://video.example:{port}/"),
    "connecting": (listen_with_a_full_queue, "http://{local}:{port}/"),
    "TLS": (listen_silently, "https://{local}:{port}/"),
    "silence": (listen_silently, "http://{local}:{port}/"),
    "headers": (serve_site, "http://{local}:{port}/trickled-header"),
    "body": (serve_site, "http://{local}:{port}/trickle"),
}


@pytest.mark.parametrize("what", SLOW)
def test_a_download_ends_soon_after_it_is_no_longer_wanted(what: str, into: Path) -> None:
    def deleted() -> None:
        raise NotFound("the video was deleted")

    listen, url = SLOW[what]
    with listen() as port:
        began = time.monotonic()
        with pytest.raises(NotFound):
            fetch_file(url.format(local=LOCAL, port=port), into, fetch_settings(**PATIENT), deleted)
        assert time.monotonic() - began < 10  # not the minute that the settings allow
    assert list(into.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("what", "limit", "error", "says"),
    [
        ("resolving", "connect_timeout_s", SourceUnavailable, "ingest.connect_timeout_s"),
        ("connecting", "connect_timeout_s", SourceUnavailable, "ingest.connect_timeout_s"),
        ("TLS", "connect_timeout_s", SourceUnavailable, "ingest.connect_timeout_s"),
        ("silence", "read_timeout_s", SourceInterrupted, "ingest.read_timeout_s"),
        ("silence", "header_timeout_s", SourceInterrupted, "ingest.header_timeout_s"),
    ],
)
def test_every_wait_has_an_end(what: str, limit: str, error: type[SourceError], says: str, into: Path) -> None:
    listen, url = SLOW[what]
    with listen() as port, pytest.raises(error, match=says):
        fetch_file(url.format(local=LOCAL, port=port), into, fetch_settings(**PATIENT | {limit: 0.5}), wanted)
