"""A client that does not send or does not read keeps nobody else out. Uses real sockets."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import Response

from api.app import create_app
from configs.settings import ApiSettings, Settings
from jobs.intake import Intake
from storage.store import Store
from tests.api.conftest import Seed, new_question, require_problem, serving
from tests.waiting import wait_until

HALF = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-more: "
UPLOAD = "multipart/form-data; boundary=x"
PART = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nabc'  # the beginning of an upload
LARGE_BYTES = 64 << 20  # more than the sockets' buffers hold


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Short time-outs and few connections."""
    limits = {
        "max_connections": 8,
        "header_timeout_s": 1.0,
        "body_timeout_s": 1.0,
        "send_timeout_s": 1.0,
        "max_uploads": 1,
    }
    return settings.model_copy(update={"api": settings.api.model_copy(update=limits)})


@contextmanager
def connection(http: httpx.Client, first: bytes = b"") -> Iterator[socket.socket]:
    """A plain socket to the service, after it has sent `first`."""
    with socket.create_connection((http.base_url.host, http.base_url.port or 80), timeout=10) as peer:
        peer.sendall(first)
        yield peer


def read_all(peer: socket.socket) -> bytes:
    """What the service sends until it closes."""
    got = bytearray()
    while piece := peer.recv(65536):
        got += piece
    return bytes(got)


def problem_in(answer: bytes) -> tuple[bytes, str]:
    """The status line and the problem's type."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    return head.split(b"\r\n")[0], json.loads(body)["type"].rsplit(":", 1)[-1]


def test_an_incomplete_header_times_out_even_if_bytes_keep_coming(http: httpx.Client) -> None:
    with connection(http) as silent, connection(http, HALF) as half, connection(http, HALF) as slow:
        slow.settimeout(0.2)
        answer = b""
        for _ in range(40):  # a byte now and then does not extend the time
            try:
                slow.sendall(b"x")
                answer = slow.recv(65536)
                break
            except TimeoutError:
                continue
        assert problem_in(answer) == (b"HTTP/1.1 408 Request Timeout", "timed-out")
        assert problem_in(read_all(half)) == (b"HTTP/1.1 408 Request Timeout", "timed-out")
        assert read_all(silent) == b""


def test_a_kept_alive_connection_has_the_full_time_for_each_request(http: httpx.Client) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with connection(http, whole) as peer:
        answers = peer.recv(65536)
        peer.sendall(whole + whole)  # two at once
        while answers.count(b'"ok"') < 3:
            answers += peer.recv(65536)
        peer.sendall(HALF)
        assert problem_in(read_all(peer)) == (b"HTTP/1.1 408 Request Timeout", "timed-out")


def test_invalid_http_gets_a_problem_too(http: httpx.Client) -> None:
    with connection(http, b"hello\r\n\r\n") as peer:
        assert problem_in(read_all(peer)) == (b"HTTP/1.1 400 Bad Request", "bad-request")


def test_many_incomplete_requests_keep_nobody_out(http: httpx.Client, settings: Settings) -> None:
    with ExitStack() as held:
        for _ in range(5 * settings.api.max_connections):
            held.enter_context(connection(http, HALF))
        for _ in range(5):
            assert httpx.get(f"{http.base_url}/healthz", trust_env=False).status_code == 200


def test_when_all_connections_are_busy_the_next_is_told_to_retry(
    http: httpx.Client, seed: Seed, intake: Intake, settings: Settings
) -> None:
    question = intake.add_question(new_question(seed()))
    url, follow = f"{http.base_url}/v1/questions/{question.id}", {"accept": "text/event-stream"}
    with ExitStack() as held:
        client = held.enter_context(httpx.Client(trust_env=False, timeout=10))
        for _ in range(settings.api.max_connections):
            held.enter_context(client.stream("GET", url, headers=follow))
        refused = httpx.get(f"{http.base_url}/healthz", trust_env=False)
        require_problem(refused, 503, "overloaded")
        assert int(refused.headers["retry-after"]) > 0
    wait_until(lambda: httpx.get(f"{http.base_url}/healthz", trust_env=False).status_code == 200)


def post(path: str, content_type: str, length: int) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
    )
    return head.encode()


def test_a_body_that_does_not_arrive_times_out(http: httpx.Client, settings: Settings) -> None:
    upload = post("/v1/videos", UPLOAD, 200_000)
    with (
        connection(http, post("/v1/videos", "application/json", 20) + b'{"url":') as body,
        connection(http, upload + PART) as file,
    ):
        wait_until(lambda: list(settings.work_dir.glob("*")))
        for peer in (body, file):
            status, kind = problem_in(read_all(peer))
            assert (status, kind) == (b"HTTP/1.1 408 Request Timeout", "timed-out")
    assert list(settings.work_dir.iterdir()) == []


def test_an_upload_may_take_long_while_it_makes_progress(settings: Settings, store: Store) -> None:
    api = settings.api.model_copy(update={"min_body_bytes_per_s": 10_000, "body_timeout_s": 0.5})
    body = PART + b"y" * 60_000 + b"\r\n--x--\r\n"
    with serving(create_app(settings.model_copy(update={"api": api}), store), api) as http:
        with connection(http, post("/v1/videos", UPLOAD, len(body))) as peer:
            for at in range(0, len(body), 10_000):
                threading.Event().wait(0.25)  # 40,000 bytes a second: 1.75 s, more than body_timeout_s
                peer.sendall(body[at : at + 10_000])
            assert peer.recv(65536).startswith(b"HTTP/1.1 202 ")
        assert len(http.get("/v1/videos").json()["videos"]) == 1


def test_an_endless_body_is_refused_and_its_connection_closed(http: httpx.Client) -> None:
    head = b"POST /v1/videos HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with connection(http, head + b"transfer-encoding: chunked\r\n\r\n") as peer:
        peer.settimeout(0.02)
        answer, closed = b"", False
        for _ in range(1000):
            try:
                peer.sendall(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
                answer += peer.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                closed = True
                break
        assert closed
    assert problem_in(answer) == (b"HTTP/1.1 413 Request Entity Too Large", "too-large")


def test_a_client_that_reads_nothing_is_disconnected(settings: Settings) -> None:
    app = FastAPI()

    @app.get("/large")
    def large() -> Response:
        return Response(b"x" * LARGE_BYTES)

    with serving(app, settings.api) as http, connection(http, b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n") as peer:
        threading.Event().wait(2 * settings.api.send_timeout_s)
        assert len(read_all(peer)) < LARGE_BYTES  # only what was in the sockets' buffers
        assert len(http.get("/large").content) == LARGE_BYTES  # a client that reads gets all of it


def test_uploads_over_the_limit_are_told_to_retry(http: httpx.Client, settings: Settings) -> None:
    upload = post("/v1/videos", UPLOAD, 200_000)
    with connection(http, upload + PART):
        wait_until(lambda: list(settings.work_dir.glob("*")))
        second = http.post("/v1/videos", files={"file": ("a.mp4", b"x")})
        require_problem(second, 429, "too-many")
        assert int(second.headers["retry-after"]) > 0
    wait_until(lambda: http.post("/v1/videos", files={"file": ("a.mp4", b"x")}).status_code == 202)


def test_the_disk_is_never_filled(settings: Settings, store: Store) -> None:
    full = settings.api.model_copy(update={"min_free_disk_bytes": 1 << 60})
    with serving(create_app(settings.model_copy(update={"api": full}), store), full) as http:
        for refused in (
            http.post("/v1/videos", files={"file": ("a.mp4", b"x")}),
            http.post("/v1/videos", json={"url": "http://example.org/a.mp4"}),
        ):
            assert "api.min_free_disk_bytes" in require_problem(refused, 507, "disk-full")["detail"]
            assert int(refused.headers["retry-after"]) > 0
    assert list(settings.work_dir.glob("*")) == []
    assert ApiSettings().min_free_disk_bytes > 0
