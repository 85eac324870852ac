"""Browsers can use the service only under its own names, and change things only from its own pages."""

import httpx
import pytest
from pydantic import ValidationError

from api.app import create_app
from api.hosts import allowed_hosts, host_name
from configs.settings import ApiSettings, Settings
from storage.store import Store
from tests.api.conftest import Seed, require_problem, serving


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.", "[::2]"])
def test_a_foreign_name_that_points_here_is_refused(http: httpx.Client, seed: Seed, host: str) -> None:
    video = seed()
    for method in ("GET", "DELETE"):
        refusal = require_problem(
            http.request(method, f"/v1/videos/{video.id}", headers={"host": host}), 421, "host-refused"
        )
        assert "api.allowed_hosts" in refusal["detail"]
    assert http.get(f"/v1/videos/{video.id}").status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]", "[::1]:8000"])
def test_loopback_names_are_allowed_on_any_port(http: httpx.Client, host: str) -> None:
    assert http.get("/healthz", headers={"host": host}).status_code == 200


def test_the_settings_can_allow_more_hosts(settings: Settings, store: Store) -> None:
    api = settings.api.model_copy(update={"allowed_hosts": ("Video.example.org",)})
    with serving(create_app(settings.model_copy(update={"api": api}), store), api) as http:
        assert http.get("/healthz", headers={"host": "video.EXAMPLE.org"}).status_code == 200
        assert http.get("/healthz").status_code == 200  # api.host itself
        require_problem(http.get("/healthz", headers={"host": "localhost"}), 421, "host-refused")
    with pytest.raises(ValidationError, match="allowed_hosts"):
        ApiSettings(allowed_hosts=("https://video.example.org",))


def test_the_listening_address_is_allowed_unless_it_means_every_address() -> None:
    def more(host: str) -> set[str]:
        return set(allowed_hosts(ApiSettings(host=host))) - {"localhost", "127.0.0.1", "[::1]"}

    assert [more(host) for host in ("192.168.1.5", "nas.local", "fe80::1")] == [
        {"192.168.1.5"},
        {"nas.local"},
        {"[fe80::1]"},
    ]
    assert [more(host) for host in ("0.0.0.0", "::", "127.0.0.1", "::1")] == [set()] * 4


@pytest.mark.parametrize("host", ["", ":80", "a:b", "[::1", "[::1]x", "[::1]:", "a:80:90", "user@a"])
def test_an_invalid_host_names_no_allowed_one(host: str) -> None:
    assert host_name(host) not in allowed_hosts(ApiSettings(allowed_hosts=("a",)))


FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},  # another service on this machine
    {"origin": "http://["},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "origin": "{own}"},
    {"sec-fetch-site": "anything"},
]
OWN = [
    {},
    {"origin": "{own}"},
    {"origin": "{own}", "sec-fetch-site": "same-origin"},
    {"sec-fetch-site": "none"},
    {"origin": "https://video.example.org", "sec-fetch-site": "same-origin"},  # a proxy renamed the host
]


def sent(http: httpx.Client, headers: dict[str, str]) -> dict[str, str]:
    return {name: value.format(own=str(http.base_url).rstrip("/")) for name, value in headers.items()}


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_page_of_another_site_cannot_change_anything(http: httpx.Client, seed: Seed, headers: dict[str, str]) -> None:
    video, headers = seed(), sent(http, headers)
    require_problem(http.delete(f"/v1/videos/{video.id}", headers=headers), 403, "origin-refused")
    upload = http.post("/v1/videos", files={"file": ("a.mp4", b"x")}, headers=headers)
    require_problem(upload, 403, "origin-refused")
    assert [each["id"] for each in http.get("/v1/videos", headers=headers).json()["videos"]] == [video.id]


@pytest.mark.parametrize("headers", OWN)
def test_our_own_pages_and_clients_can_change_things(http: httpx.Client, seed: Seed, headers: dict[str, str]) -> None:
    assert http.delete(f"/v1/videos/{seed().id}", headers=sent(http, headers)).status_code == 204
