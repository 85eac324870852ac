"""How the client treats services that are slow, foreign or gone."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from cli import client
from cli.client import Client
from cli.errors import Busy, ServiceError, Unreachable
from configs.settings import ApiSettings, Settings
from tests.cli.conftest import Service


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts requests and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_the_client_does_not_wait_forever_for_a_service_that_hangs(
    silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is QUICK for every request, even for those that may take long."""
    assert client.QUICK.read is not None
    assert client.QUICK.read < 5
    monkeypatch.setattr(client, "QUICK", httpx.Timeout(0.3))
    file = tmp_path / "a.mp4"
    file.write_bytes(b"a film")
    asks: list[Callable[[Client], object]] = [
        lambda hung: hung.call("GET", "/v1/videos"),
        lambda hung: hung.call("DELETE", "/v1/videos/x"),
        lambda hung: hung.upload(file, {}),
        lambda hung: hung.download("/v1/videos/x/frame"),
        lambda hung: list(hung.events("GET", "/v1/videos/x/events")),
        lambda hung: hung.missing_parts(),
    ]
    with Client(silent) as hung:
        for ask in asks:
            with pytest.raises(Unreachable, match="does not answer in time: it hangs or is overloaded"):
                ask(hung)


def test_after_a_lost_connection_the_service_must_show_again_that_it_answers(service: Service) -> None:
    service.routes["GET", "/broken"] = lambda _: (200, {"content-length": "1000"}, b"{")
    with Client(service.url) as breaking:
        with pytest.raises(Unreachable, match="closed the connection"):
            breaking.call("GET", "/broken")
        breaking.call("GET", "/v1/videos")
        breaking.call("GET", "/v1/videos")
    assert [request.path for request in service.asked] == ["/healthz", "/broken", "/healthz"] + ["/v1/videos"] * 2


def test_a_busy_service_says_when_to_retry(service: Service) -> None:
    with Client(service.url) as busy:
        service.on("GET", "/v1/videos", {"detail": "enough"}, 429, retry_after="7")
        with pytest.raises(Busy, match="enough") as raised:
            busy.call("GET", "/v1/videos")
        assert raised.value.retry_after_s == 7
        service.on("GET", "/v1/videos", {"detail": "enough"}, 429, retry_after="Sat, 21 Nov 2026 14:00:00 GMT")
        with pytest.raises(Busy):
            busy.call("GET", "/v1/videos")


def test_a_foreign_service_is_recognised(service: Service) -> None:
    with Client(service.url) as foreign:
        service.routes["GET", "/readyz"] = lambda _: (502, {}, b"<html>bad gateway")
        with pytest.raises(ServiceError, match="is this Longwatch"):
            foreign.missing_parts()
        with pytest.raises(ServiceError, match="no route GET /v1/none"):
            foreign.call("GET", "/v1/none")


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:8000"), ("::", "http://[::1]:8000"), ("10.0.0.5", "http://10.0.0.5:8000")],
)
def test_a_service_that_listens_everywhere_is_reached_on_this_machine(host: str, url: str) -> None:
    with Client.of(Settings(api=ApiSettings(host=host))) as here:
        assert here.base_url == url


def test_events_are_read_whatever_their_text_contains(service: Service) -> None:
    pieces = ["two\nlines", "a\u2028separator", " leading space", ""]
    service.stream("GET", "/events", lambda: ((f"e{number}", piece) for number, piece in enumerate(pieces)))
    with Client(service.url) as reader:
        assert [data for _, data in reader.events("GET", "/events")] == pieces
    service.stream("GET", "/events", lambda: iter([("text", "a"), ("problem", {"detail": "the archive is away"})]))
    with Client(service.url) as reader, pytest.raises(ServiceError, match="the archive is away"):
        list(reader.events("GET", "/events"))
