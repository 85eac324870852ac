"""An archive in a folder and one behind a real server that speaks S3, which can be stopped and started."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from storage.archive import Archive

BUCKET = "longwatch"


@dataclass
class S3:
    """A server on its own port; its contents survive a stop."""

    port: int
    server: ThreadedMotoServer | None = field(default=None)

    @property
    def options(self) -> dict[str, Any]:
        return {
            "key": "key",
            "secret": "secret",
            "endpoint_url": f"http://127.0.0.1:{self.port}",
            "client_kwargs": {"region_name": "eu-west-1"},
            "config_kwargs": {"retries": {"max_attempts": 1}, "connect_timeout": 2, "read_timeout": 5},
        }

    def start(self) -> None:
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.server.start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()
        self.server = None


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = S3(free.getsockname()[1])
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The server, running, with an empty bucket."""
    if s3_server.server is None:
        s3_server.start()
    filesystem = fsspec.filesystem("s3", **s3_server.options, use_listings_cache=False)
    monkeypatch.setattr(type(filesystem), "retries", 2)
    if filesystem.exists(BUCKET):
        filesystem.rm(BUCKET, recursive=True)
    filesystem.mkdir(BUCKET)
    yield s3_server
    if s3_server.server is None:
        s3_server.start()


@pytest.fixture(params=["folder", "s3"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    """Both kinds of archive."""
    if request.param == "folder":
        return Archive(str(tmp_path / "archive"))
    return Archive(f"s3://{BUCKET}/archive", request.getfixturevalue("s3").options)
