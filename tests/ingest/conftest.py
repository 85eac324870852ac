"""Keeps the tests of ingest on this machine, whatever addresses they are about."""

import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.settings import IngestSettings
from tests.ingest.hostile_site import LOCAL, serve_site


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test before it connects to another machine."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or ipaddress.ip_address(address[0]).is_loopback, address
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of the hostile site."""
    with serve_site() as port:
        yield port


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """The file that a download goes to."""
    return tmp_path / "work" / "video"


def fetch_settings(**values: Any) -> IngestSettings:
    """Settings that allow this machine."""
    base = {"allowed_private_hosts": (LOCAL,), "connect_timeout_s": 5, "read_timeout_s": 5, "min_free_disk_bytes": 0}
    return IngestSettings.model_validate(base | values)


def wanted() -> None:
    """Raises nothing: the video still exists."""


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Makes `video.example` resolve to each answer in turn, without a network; returns the list of its look-ups."""
    asked: list[str] = []

    def look_up(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        found = [host]
        if host == "video.example":
            asked.append(host)
            found = answers[min(len(asked), len(answers)) - 1]
        if not found:
            raise socket.gaierror("no such name")
        return found_addresses(found, port)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def found_addresses(addresses: list[str], port: int) -> list[tuple[object, ...]]:
    """What `socket.getaddrinfo` would return for a name with these addresses."""
    return [(socket.AF_INET6 if ":" in text else socket.AF_INET, 1, 6, "", (text, port)) for text in addresses]
