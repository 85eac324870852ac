"""Downloads are bounded, pinned to checked addresses, and leave nothing behind if they fail."""

import hashlib
import inspect
import subprocess
from pathlib import Path

import httpcore
import pytest

from ingest.errors import (
    FetchRefused,
    SourceError,
    SourceInterrupted,
    SourceTooLarge,
    SourceUnavailable,
)
from ingest.files.fetch import _translate_errors, fetch_file
from storage.errors import DiskFull
from tests.ingest.conftest import fetch_settings, resolve_to, wanted
from tests.ingest.hostile_site import CONTENT, LOCAL, serve_site


def test_a_file_arrives_whole_with_its_hash(port: int, into: Path) -> None:
    fetched = fetch_file(f"http://{LOCAL}:{port}/file", into, fetch_settings(), wanted)
    assert into.read_bytes() == CONTENT
    assert (fetched.size_bytes, fetched.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


@pytest.mark.parametrize("path", ["hops/0", "hops/2", "pausing", "file?a=ä b"])
def test_redirects_pauses_and_odd_addresses_do_no_harm(path: str, port: int, into: Path) -> None:
    fetch_file(f"http://{LOCAL}:{port}/{path}", into, fetch_settings(), wanted)
    assert into.read_bytes() == CONTENT


def test_the_credentials_in_an_address_are_sent(port: int, into: Path) -> None:
    fetch_file(f"http://anna:p%40ss:word@{LOCAL}:{port}/login", into, fetch_settings(), wanted)
    with pytest.raises(SourceUnavailable, match="answers 401"):
        fetch_file(f"http://{LOCAL}:{port}/login", into, fetch_settings(), wanted)


@pytest.mark.parametrize(
    ("path", "limits", "error", "says"),
    [
        ("hops/3", {}, FetchRefused, "more than 3 times (ingest.max_redirects)"),
        ("loop", {}, FetchRefused, "more than 3 times"),
        ("to/http://127.0.0.2:9/file", {}, FetchRefused, "127.0.0.2 is not a public address"),
        ("to/file:///etc/passwd", {}, FetchRefused, "only http and https"),
        ("to/ftp://127.0.0.1/file", {}, FetchRefused, "only http and https"),
        ("to/http://[::1", {}, SourceUnavailable, "cannot fetch"),
        ("404", {}, SourceUnavailable, "answers 404"),
        ("429", {}, SourceInterrupted, "answers 429"),
        ("500", {}, SourceInterrupted, "answers 500"),
        ("cut", {}, SourceInterrupted, "broke off"),
        ("huge", {}, SourceTooLarge, "ingest.max_download_bytes"),
        ("huge", {"max_download_bytes": 10**15, "min_free_disk_bytes": 10**15}, DiskFull, "ingest.min_free_disk_bytes"),
        ("endless", {"max_download_bytes": 10**6}, SourceTooLarge, "larger than 1000000 bytes"),
        ("packed", {}, SourceUnavailable, "the server sends the file compressed (gzip)"),
        ("trickle", {"download_timeout_s": 0.3}, SourceTooLarge, "longer than 0.3 s (ingest.download_timeout_s)"),
        ("trickle", {"read_timeout_s": 0.3}, SourceInterrupted, "(ingest.min_download_bytes_per_s)"),
        ("trickled-chunk", {"read_timeout_s": 0.3}, SourceInterrupted, "(ingest.min_download_bytes_per_s)"),
        ("trickled-header", {"download_timeout_s": 0.3}, SourceTooLarge, "longer than 0.3 s"),
        ("trickled-header", {"header_timeout_s": 0.3}, SourceInterrupted, "longer than 0.3 s (ingest.header_timeout_s"),
    ],
)
def test_every_failure_is_named_and_leaves_nothing(
    path: str, limits: dict[str, float], error: type[Exception], says: str, port: int, into: Path
) -> None:
    url = f"http://anna:secret@{LOCAL}:{port}/{path}?token=secret"
    with pytest.raises(error) as raised:
        fetch_file(url, into, fetch_settings(**limits), wanted)
    assert says in str(raised.value)
    assert "secret" not in str(raised.value)
    assert list(into.parent.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://example.org/a.mp4", "rtsp://example.org/a", "/etc/passwd", "http://", "http:a"]
)
def test_only_http_is_fetched(url: str, into: Path) -> None:
    with pytest.raises(FetchRefused, match="only http and https"):
        fetch_file(url, into, fetch_settings(), wanted)


@pytest.mark.parametrize("path", ["steering", "steering-more"])
def test_a_server_cannot_control_the_terminal(path: str, port: int, into: Path) -> None:
    with pytest.raises(SourceUnavailable, match="answers 404") as raised:
        fetch_file(f"http://{LOCAL}:{port}/{path}", into, fetch_settings(), wanted)
    assert "gone" in str(raised.value)
    assert str(raised.value).isprintable()


def test_a_disk_that_fills_up_is_not_the_sources_fault(port: int, into: Path) -> None:
    into.parent.mkdir()
    into.with_name("video.part").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match="No space left") as raised:
        fetch_file(f"http://{LOCAL}:{port}/file", into, fetch_settings(), wanted)
    assert not isinstance(raised.value, SourceError)
    assert list(into.parent.iterdir()) == []


def test_the_disk_is_checked_while_an_endless_file_arrives(
    port: int, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def fill_up(folder: Path, coming_bytes: int, _: object) -> None:
        looked.append(coming_bytes)
        if len(looked) == 3:
            raise DiskFull("no more room")

    monkeypatch.setattr("ingest.files.fetch._check_disk", fill_up)
    monkeypatch.setattr("ingest.files.fetch.LOOK_AT_DISK_EVERY_BYTES", 10**6)
    with pytest.raises(DiskFull):
        fetch_file(f"http://{LOCAL}:{port}/endless", into, fetch_settings(), wanted)
    assert looked == [0, 0, 0]


def test_a_name_that_resolves_differently_later_is_connected_as_checked(
    monkeypatch: pytest.MonkeyPatch, port: int, into: Path
) -> None:
    asked = resolve_to(monkeypatch, [LOCAL], ["10.0.0.1"])
    assert fetch_file(f"http://video.example:{port}/file", into, fetch_settings(), wanted).size_bytes == len(CONTENT)
    assert len(asked) == 1
    with pytest.raises(FetchRefused, match=r"10\.0\.0\.1"):
        fetch_file(f"http://video.example:{port}/file", into, fetch_settings(), wanted)


def test_the_next_address_is_tried_if_one_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, port: int, into: Path
) -> None:
    resolve_to(monkeypatch, ["127.0.0.3", LOCAL])  # nothing listens on the first
    allowed = fetch_settings(allowed_private_hosts=("127.0.0.0/8",))
    assert fetch_file(f"http://video.example:{port}/file", into, allowed, wanted).size_bytes == len(CONTENT)


def test_a_redirect_to_a_port_that_is_not_listed_is_refused(port: int, into: Path) -> None:
    listed = fetch_settings(allowed_private_hosts=(f"{LOCAL}:{port}",))
    fetch_file(f"http://{LOCAL}:{port}/to/http://{LOCAL}:{port}/file", into, listed, wanted)
    with pytest.raises(FetchRefused, match="its port 9"):
        fetch_file(f"http://{LOCAL}:{port}/to/http://{LOCAL}:9/file", into, listed, wanted)


def test_an_unreachable_host_is_named(monkeypatch: pytest.MonkeyPatch, into: Path) -> None:
    resolve_to(monkeypatch, [])
    with pytest.raises(SourceUnavailable, match=r"cannot resolve video\.example"):
        fetch_file("http://video.example/a.mp4", into, fetch_settings(), wanted)
    with pytest.raises(SourceUnavailable, match=r"cannot fetch http://127\.0\.0\.1:1/a\.mp4"):
        fetch_file("http://127.0.0.1:1/a.mp4", into, fetch_settings(), wanted)


def test_a_certificate_is_checked(tmp_path: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = tmp_path / "site.pem"
    line = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:{LOCAL}"
    subprocess.run([*line.split(), "-keyout", certificate, "-out", tmp_path / "public.pem"], check=True, stderr=-3)
    certificate.write_bytes(certificate.read_bytes() + (tmp_path / "public.pem").read_bytes())
    with serve_site(str(certificate)) as port:
        with pytest.raises(SourceUnavailable, match="certificate verify failed"):
            fetch_file(f"https://{LOCAL}:{port}/file", into, fetch_settings(), wanted)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        fetch_file(f"https://{LOCAL}:{port}/pausing", into, fetch_settings(), wanted)
    assert into.read_bytes() == CONTENT


def test_every_error_of_httpcore_is_translated() -> None:
    errors = [kind for _, kind in inspect.getmembers(httpcore, inspect.isclass) if issubclass(kind, Exception)]
    assert len(errors) > 10
    for kind in errors:
        with pytest.raises(SourceError), _translate_errors("http://video.example/"):
            raise kind("as it were")
