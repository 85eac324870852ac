"""Runs the whole service as real processes: API, all workers, two real Redis servers, the tiny checkpoint."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from redis import Redis

from configs.settings import Settings
from storage.store import Store
from tests.waiting import wait_until
from training.files import write_video
from training.world import generate

ROOT = Path(__file__).parent.parent.parent
WORKERS = {"ingest": "ingest", "encode": "encoder_worker", "reason": "reasoner"}
MODULES = WORKERS | {"capture": "ingest.cameras"}
WORLD_S = 150  # three segments, the last one short


@dataclass
class Service:
    """Running processes, and a client of their API."""

    settings: Settings
    store: Store
    config: Path
    http: httpx.Client
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, kind: str, name: str | None = None) -> None:
        """Starts a worker."""
        self._spawn(name or kind, [sys.executable, "-m", MODULES[kind], "--config", str(self.config)])

    def start_api(self) -> None:
        """Starts the API."""
        self._spawn("api", [sys.executable, "-m", "api", "--config", str(self.config)])

    def kill(self, name: str) -> None:
        """Kills a process as the kernel would."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def submit(self, **body: str) -> str:
        """Submits a video; returns its id."""
        response = self.http.post("/v1/videos", json=body)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def settled(self, video_id: str) -> dict[str, Any]:
        """Waits until the video is completely encoded or has failed, and returns it."""
        video: dict[str, Any] = {}

        def look() -> bool:
            video.update(self.http.get(f"/v1/videos/{video_id}").json())
            return bool(video.get("progress") and video["progress"]["complete"])

        wait_until(look, within_s=120, step_s=0.2)
        return video

    def ask(self, video_id: str, question: str, **body: Any) -> dict[str, Any]:
        """Asks, and waits for the answer."""
        path = f"/v1/videos/{video_id}/questions"
        headers = {"prefer": "wait=60"}
        response = self.http.post(path, json={"question": question, **body}, headers=headers)
        assert response.status_code == 200, response.text
        asked: dict[str, Any] = response.json()
        return asked

    def _spawn(self, name: str, command: list[str]) -> None:
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
        log = self.config.with_name(f"{name}.log")
        with log.open("ab") as file:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
        self.processes[name] = process


Launch = Callable[..., Service]


@pytest.fixture
def service(settings: Settings, tmp_path: Path) -> Iterator[Service]:
    """The whole service, ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = settings.model_dump(mode="json", exclude_unset=True) | {"api": {"port": port}}
    values.setdefault("ingest", {})["camera_networks"] = ["127.0.0.0/8"]
    values["model"] = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text())["model"]
    config = tmp_path / "test.yaml"
    config.write_text(yaml.safe_dump(values))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=90, trust_env=False) as http:
        service = Service(settings, Store.open(settings), config, http)
        try:
            service.start_api()
            for kind in WORKERS:
                service.start(kind)
            wait_until(lambda: _is_ready(http), within_s=90, step_s=0.2)
            yield service
        finally:
            for name in list(service.processes):
                service.kill(name)


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder with a video of a generated world, and the address that serves it."""
    folder = tmp_path_factory.mktemp("media")
    write_video(generate(7, WORLD_S), folder / "world.mp4", fps=5)
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Logs nothing: the tests' output is for results."""

    def do_GET(self) -> None:
        """Serves files. `/inward` redirects to an address that is not allowed."""
        if self.path == "/inward":
            self.send_response(302)
            self.send_header("location", "http://127.0.0.2:9/secret.mp4")
            self.end_headers()
        else:
            super().do_GET()


def _is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def flush(settings: Settings) -> None:
    """Empties both Redis servers, as a restart without their files would."""
    for url in (settings.state_url, settings.cache_url):
        with Redis.from_url(url) as redis:
            redis.flushall()
