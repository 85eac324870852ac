"""Downloads: bounded, pinned to checked addresses, and without a trace where they fail."""

import gzip
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from configs.settings import IngestSettings
from ingest.errors import FetchRefused, SourceInterrupted, SourceTooLarge, SourceUnavailable
from ingest.fetch import fetch
from ingest.network import allowed_addresses
from storage.errors import NotFound

CONTENT = bytes(range(256)) * 1024
LOCAL = "127.0.0.1"
INNER = (
    "127.0.0.1",
    "10.1.2.3",
    "192.168.0.9",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "::1",
    "fd00::1",
)
INNER_IN_DISGUISE = ("::10.0.0.1", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "2002:a00:1::", "fec0::1")


class Site(BaseHTTPRequestHandler):
    """Answers as servers do, the bad ones too."""

    def log_message(self, *args: object) -> None:
        """Nothing: the tests' output is for results."""

    def do_GET(self) -> None:
        route, _, rest = self.path.partition("?")[0][1:].partition("/")
        if route == "file":
            self._send(len(CONTENT), CONTENT)
        elif route == "cut":
            self._send(len(CONTENT) + 1, CONTENT)
        elif route == "hops":
            self._redirect("/file" if rest == "0" else f"/hops/{int(rest) - 1}")
        elif route == "loop":
            self._redirect(self.path)
        elif route == "to":
            self._redirect(rest)
        elif route == "endless":
            self._send(None, *([CONTENT] * 1000))
        elif route == "huge":
            self._send(10**12, CONTENT)
        elif route == "packed":
            self._send(None, gzip.compress(CONTENT), encoding="gzip")
        elif route == "trickle":
            self._trickle(b"HTTP/1.1 200 OK\r\n\r\n")
        elif route == "trickled-header":
            self._trickle(b"HTTP/1.1 200 OK\r\nX: ")
        else:
            self.send_error(int(route))

    def _send(self, promised: int | None, *parts: bytes, encoding: str | None = None) -> None:
        self.send_response(200)
        if encoding is not None:
            self.send_header("content-encoding", encoding)
        if promised is not None:
            self.send_header("content-length", str(promised))
        self.end_headers()
        for part in parts:
            self._write(part)

    def _redirect(self, location: str) -> None:
        self.send_response(302)
        self.send_header("location", location)
        self.send_header("content-length", "0")
        self.end_headers()

    def _trickle(self, head: bytes) -> None:
        self._write(head)
        for _ in range(1000):
            if not self._write(b"x"):
                return
            time.sleep(0.02)

    def _write(self, part: bytes) -> bool:
        try:
            self.wfile.write(part)
        except (BrokenPipeError, ConnectionResetError):
            return False  # the client has had enough
        return True


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ThreadingHTTPServer((LOCAL, 0), Site) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "work" / "video"


def settings(**values: Any) -> IngestSettings:
    base = {"allowed_private_hosts": (LOCAL,), "connect_timeout_s": 5, "read_timeout_s": 5}
    return IngestSettings.model_validate(base | values)


def wanted() -> None:
    """The video is there still."""


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Has `video.example` resolve to each of the answers in turn (there is no network here); lists its look-ups."""
    asked: list[str] = []

    def look_up(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        found = [host]
        if host == "video.example":
            asked.append(host)
            found = answers[min(len(asked), len(answers)) - 1]
        if not found:
            raise socket.gaierror("no such name")
        return [(socket.AF_INET6 if ":" in text else socket.AF_INET, 1, 6, "", (text, port)) for text in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def test_a_file_comes_whole_with_its_hash(port: int, into: Path) -> None:
    fetched = fetch(f"http://{LOCAL}:{port}/file", into, settings(), wanted)
    assert into.read_bytes() == CONTENT
    assert (fetched.size_bytes, fetched.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


@pytest.mark.parametrize("hops", [0, 2])
def test_redirects_are_followed(hops: int, port: int, into: Path) -> None:
    assert fetch(f"http://{LOCAL}:{port}/hops/{hops}", into, settings(), wanted).size_bytes == len(CONTENT)


@pytest.mark.parametrize(
    ("path", "limits", "error", "says"),
    [
        ("hops/3", {}, FetchRefused, "more than 3 times (ingest.max_redirects)"),
        ("loop", {}, FetchRefused, "more than 3 times"),
        ("to/http://127.0.0.2:9/file", {}, FetchRefused, "127.0.0.2 is not a public address"),
        ("to/file:///etc/passwd", {}, FetchRefused, "only http and https"),
        ("to/ftp://127.0.0.1/file", {}, FetchRefused, "only http and https"),
        ("404", {}, SourceUnavailable, "answers 404"),
        ("429", {}, SourceInterrupted, "answers 429"),
        ("500", {}, SourceInterrupted, "answers 500"),
        ("cut", {}, SourceInterrupted, "broke off"),
        ("huge", {}, SourceTooLarge, "ingest.max_download_bytes"),
        ("endless", {"max_download_bytes": 10**6}, SourceTooLarge, "larger than 1000000 bytes"),
        ("packed", {}, SourceUnavailable, "the server packs the file (gzip)"),
        ("trickle", {"download_timeout_s": 0.3}, SourceTooLarge, "longer than 0.3 s (ingest.download_timeout_s)"),
        ("trickled-header", {"download_timeout_s": 0.3}, SourceTooLarge, "longer than 0.3 s"),
    ],
)
def test_what_goes_wrong_is_named_and_leaves_nothing(
    path: str, limits: dict[str, float], error: type[Exception], says: str, port: int, into: Path
) -> None:
    with pytest.raises(error) as raised:
        fetch(f"http://anna:secret@{LOCAL}:{port}/{path}?token=secret", into, settings(**limits), wanted)
    assert says in str(raised.value)
    assert "secret" not in str(raised.value)
    assert list(into.parent.iterdir()) == []


def test_a_download_ends_with_the_wish_for_it(port: int, into: Path) -> None:
    def deleted() -> None:
        raise NotFound("the video was deleted")

    with pytest.raises(NotFound):
        fetch(f"http://{LOCAL}:{port}/trickle", into, settings(), deleted)
    assert list(into.parent.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://example.org/a.mp4", "rtsp://example.org/a", "/etc/passwd", "http://", "http:a"]
)
def test_only_http_is_fetched(url: str, into: Path) -> None:
    with pytest.raises(FetchRefused, match="only http and https"):
        fetch(url, into, settings(), wanted)


@pytest.mark.parametrize("address", [*INNER, *INNER_IN_DISGUISE])
def test_an_address_that_is_not_public_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, [address])
    with pytest.raises(FetchRefused, match="not a public address"):
        allowed_addresses("video.example", 80, ())
    assert allowed_addresses("video.example", 80, [address]) == [address]


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111", "64:ff9b::93.184.216.34"])
def test_a_public_address_is_taken(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, [address])
    assert allowed_addresses("video.example", 80, ()) == [address]


def test_every_address_of_a_name_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["93.184.216.34", "10.0.0.1"])
    with pytest.raises(FetchRefused, match=r"10\.0\.0\.1"):
        allowed_addresses("video.example", 80, ())


@pytest.mark.parametrize("listed", ["10.0.0.1", "10.0.0.0/8", "Video.Example"])
def test_a_listed_host_or_network_is_taken(listed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["10.0.0.1"])
    assert allowed_addresses("video.example", 80, [listed]) == ["10.0.0.1"]


def test_a_name_that_changes_its_mind_is_connected_as_checked(
    monkeypatch: pytest.MonkeyPatch, port: int, into: Path
) -> None:
    asked = names(monkeypatch, [LOCAL], ["10.0.0.1"])
    assert fetch(f"http://video.example:{port}/file", into, settings(), wanted).size_bytes == len(CONTENT)
    assert len(asked) == 1
    with pytest.raises(FetchRefused, match=r"10\.0\.0\.1"):
        fetch(f"http://video.example:{port}/file", into, settings(), wanted)


def test_an_address_that_does_not_answer_gives_way_to_the_next(
    monkeypatch: pytest.MonkeyPatch, port: int, into: Path
) -> None:
    names(monkeypatch, ["127.0.0.3", LOCAL])  # nothing listens on the first
    allowed = settings(allowed_private_hosts=("127.0.0.0/8",))
    assert fetch(f"http://video.example:{port}/file", into, allowed, wanted).size_bytes == len(CONTENT)


def test_a_host_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, into: Path) -> None:
    names(monkeypatch, [])
    with pytest.raises(SourceUnavailable, match=r"cannot resolve video\.example"):
        fetch("http://video.example/a.mp4", into, settings(), wanted)
    with pytest.raises(SourceUnavailable, match=r"cannot fetch http://127\.0\.0\.1:1/a\.mp4"):
        fetch("http://127.0.0.1:1/a.mp4", into, settings(), wanted)
