"""A real HTTP server with scripted answers, and the command as a separate process."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
VIDEO_ID = "20261121-020851123-4f2a9c"
OTHER_ID = "20261121-020900000-000000"
QUESTION_ID = f"{VIDEO_ID}_20261121-030000000-aaaaaa"
Longwatch = Callable[..., subprocess.CompletedProcess[str]]


@dataclass
class Request:
    """What a command sent."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = tuple[int, dict[str, str], bytes | Iterator[bytes]]
Route = Callable[[Request], Answer]


@dataclass
class Service:
    """Scripted routes, and the requests received."""

    url: str = ""
    routes: dict[tuple[str, str], Route] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)

    def on(self, method: str, path: str, value: Any = None, status: int = 200, **headers: str) -> None:
        """Answers with JSON."""
        content = b"" if value is None else json.dumps(value).encode()
        kind = "application/problem+json" if status >= 400 else "application/json"
        self.routes[method, path] = lambda _: (status, {"content-type": kind, **headers}, content)

    def fail(self, method: str, path: str, status: int, detail: str, **extra: Any) -> None:
        """Answers with a problem."""
        self.on(method, path, {"type": "urn:longwatch:problem:x", "status": status, "detail": detail, **extra}, status)

    def stream(self, method: str, path: str, events: Callable[[], Iterator[tuple[str, Any]]]) -> None:
        """Answers with server-sent events as they come."""

        def pieces() -> Iterator[bytes]:
            for name, data in events():
                text = data if isinstance(data, str) else json.dumps(data)
                lines = "".join(f"data: {line}\n" for line in text.split("\n"))
                yield f"event: {name}\n{lines}\n".encode()

        self.routes[method, path] = lambda _: (200, {"content-type": "text/event-stream"}, pieces())

    def requests(self, method: str) -> list[Request]:
        return [request for request in self.asked if request.method == method]


@pytest.fixture
def service() -> Iterator[Service]:
    """The server; /readyz reports nothing missing unless a test changes that."""
    service = Service()
    service.on("GET", "/readyz", {"status": "ok", "workers": {}, "notes": []})
    service.on("GET", "/v1/videos", {"videos": [], "next_cursor": None})
    service.on("GET", "/v1/streams", {"streams": [], "next_cursor": None})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # a stream ends with its connection

        def answer(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            request = Request(self.command, parts.path, dict(parse_qsl(parts.query)), body)
            service.asked.append(request)
            missing = {"detail": f"no route {request.method} {request.path}"}
            route = service.routes.get((request.method, request.path))
            status, headers, content = route(request) if route else (404, {}, json.dumps(missing).encode())
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            for piece in (content,) if isinstance(content, bytes) else content:
                self.wfile.write(piece)
                self.wfile.flush()

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the names that http.server calls

        def log_message(self, *args: object) -> None:
            """Logs nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        service.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield service
        server.shutdown()


@pytest.fixture
def config(service: Service, tmp_path: Path) -> Path:
    """Settings with the server's address."""
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump({"data_dir": str(tmp_path / "data"), "api": {"port": urlsplit(service.url).port}}))
    return path


def spawn(config: Path, *words: str, **options: Any) -> subprocess.Popen[str]:
    """Starts the command as a separate process, as a shell does."""
    line = [sys.executable, "-m", "cli", "--config", str(config), *words]
    given: dict[str, Any] = {
        "cwd": ROOT,
        "env": {**os.environ, "PYTHONPATH": str(ROOT)},
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    return subprocess.Popen(line, text=True, encoding="utf-8", **(given | options))


@pytest.fixture
def longwatch(config: Path) -> Longwatch:
    """Runs a command to its end."""

    def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        process = spawn(config, *words, **options)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    return run


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """Restores the umask after each test."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket's path holds 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="lw") as name:
        yield Path(name)


def line_with(words: str, stream: IO[str]) -> str:
    """The next line that contains these words."""
    for line in stream:
        if words in line:
            return line
    raise AssertionError(f"nothing says {words!r}")


def a_video(**fields: Any) -> dict[str, Any]:
    """A video as the service shows it."""
    return {
        "id": VIDEO_ID,
        "kind": "url",
        "media": "video",
        "source": "https://example.org/films/garden.mp4",
        "title": None,
        "status": "ready",
        "created_at": "2026-11-21T02:08:51Z",
        "recorded_at": None,
        "sample_fps": 1.0,
        "mode": "exact",
        "duration_s": 600.0,
        "width_px": 1280,
        "height_px": 720,
        "source_fps": 30.0,
        "codec": "h264",
        "duplicate_of": None,
        "truncated": None,
        "problem": None,
        "progress": progress(600),
    } | fields


def progress(encoded: int, expected: int = 600, **fields: Any) -> dict[str, Any]:
    """A video's progress."""
    return {
        "frames_sampled": expected,
        "frames_expected": expected,
        "frames_encoded": encoded,
        "frames_failed": 0,
        "encoded_until_s": float(encoded),
        "eta_s": None,
        "complete": encoded == expected,
    } | fields


def a_question(**fields: Any) -> dict[str, Any]:
    """A question as the service shows it."""
    return {
        "id": QUESTION_ID,
        "video_id": VIDEO_ID,
        "question": "where is it ?",
        "start_s": 0.0,
        "end_s": None,
        "start_at": None,
        "end_at": None,
        "fusion": "focused",
        "partial": False,
        "options": {},
        "status": "queued",
        "waiting": None,
        "created_at": "2026-11-21T03:00:00Z",
        "previous_question_id": None,
        "answer": None,
        "problem": None,
    } | fields


def an_answer(text: str, **fields: Any) -> dict[str, Any]:
    """An answer as the service shows it."""
    return {
        "text": text,
        "finish_reason": "stop",
        "start_s": 0.0,
        "end_s": 600.0,
        "start_at": None,
        "end_at": None,
        "frames": 600,
        "fusion": "focused",
        "fusion_frames": 32,
        "evidence": [{"slot": 17, "t_s": 17.5, "at": None, "score": 0.4, "picture": "/x.jpg"}],
        "encoded_until_s": 600.0,
        "video_complete": True,
        "frames_missing": 0,
        "tokens": {"text": 10, "vision": 600, "answer": 2},
        "timings": {"queue_s": 0.1, "fusion_s": 0.1, "prefill_s": 0.1, "first_token_s": 0.3, "total_s": 0.4},
    } | fields
