"""Downloads a video over http(s): only from allowed, pinned addresses, and bounded in bytes, time and disk."""

import base64
import errno
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urljoin

import httpcore
import httpx

from configs.settings import IngestSettings
from ingest.errors import (
    FetchRefused,
    SourceError,
    SourceInterrupted,
    SourceTooLarge,
    SourceUnavailable,
)
from ingest.files.transport import Patience, open_pool
from storage.errors import DiskFull
from storage.text import escape_controls
from storage.urls import redact

REDIRECTS = (301, 302, 303, 307, 308)
LOOK_AT_DISK_EVERY_BYTES = 16 * 1024**2
SHOWN_CHARS = 200  # of a server's text in our messages
HTTPCORE_ERRORS = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
    httpcore.ConnectionNotAvailable,
)


@dataclass(frozen=True)
class Fetched:
    """A whole download: its hash and size."""

    sha256: str
    size_bytes: int


def fetch_file(url: str, into: Path, settings: IngestSettings, still_wanted: Callable[[], object]) -> Fetched:
    """Downloads `url` to the file `into`, which appears only once it is whole.

    Follows redirects itself and checks every address. Calls `still_wanted` every second, even while no data arrives; it
    raises if the file is no longer wanted. Raises FetchRefused, SourceUnavailable, SourceInterrupted,
    SourceTooLarge, DiskFull.
    """
    partial = into.with_name(f"{into.name}.part")
    into.parent.mkdir(parents=True, exist_ok=True)
    patience = Patience(settings, still_wanted)
    try:
        with _translate_errors(url), open_pool(settings, patience) as pool:
            fetched = _follow_redirects(pool, url, partial, settings, patience)
        still_wanted()
        partial.replace(into)
        return fetched
    finally:
        partial.unlink(missing_ok=True)


def _follow_redirects(
    pool: httpcore.ConnectionPool, url: str, partial: Path, settings: IngestSettings, patience: Patience
) -> Fetched:
    for _ in range(settings.max_redirects + 1):
        address, headers = prepare_request(url)
        patience.await_headers()
        with pool.stream("GET", address, headers=headers) as response:
            patience.begin_body()
            location = _read_header(response, b"location")
            if response.status in REDIRECTS and location:
                url = urljoin(url, location)
                continue
            _check_status(response, url)
            return _receive_body(response, partial, settings, patience)
    raise FetchRefused(f"{redact(url)} redirects more than {settings.max_redirects} times (ingest.max_redirects)")


def prepare_request(url: str) -> tuple[httpcore.URL, list[tuple[bytes, bytes]]]:
    """The request's address and headers; raises FetchRefused if it is not an http address."""
    parsed = httpx.URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        scheme = escape_controls(parsed.scheme) or "this"
        raise FetchRefused(f"only http and https addresses are fetched, not {scheme}: {redact(url)}")
    headers = [
        (b"Host", parsed.netloc),
        (b"User-Agent", b"longwatch"),
        (b"Accept", b"*/*"),
        (b"Accept-Encoding", b"identity"),
    ]
    if parsed.userinfo:
        credentials = f"{parsed.username}:{parsed.password}"
        headers.append((b"Authorization", b"Basic " + base64.b64encode(credentials.encode())))
    target = httpcore.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path)
    return target, headers


def _check_status(response: httpcore.Response, url: str) -> None:
    if response.status == HTTPStatus.OK:
        return
    busy = response.status >= HTTPStatus.INTERNAL_SERVER_ERROR or response.status == HTTPStatus.TOO_MANY_REQUESTS
    reason = response.extensions["reason_phrase"].decode("latin-1")[:SHOWN_CHARS]
    raise (SourceInterrupted if busy else SourceUnavailable)(
        f"{redact(url)} answers {response.status} {escape_controls(reason)}".rstrip()
    )


def _receive_body(response: httpcore.Response, partial: Path, settings: IngestSettings, patience: Patience) -> Fetched:
    packed = _read_header(response, b"content-encoding") or "identity"
    if packed.lower() != "identity":
        shown = escape_controls(packed[:SHOWN_CHARS])
        raise SourceUnavailable(
            f"the server sends the file compressed ({shown}), although it was asked not to; give another address"
        )
    promised = _read_header(response, b"content-length") or "0"
    _check_size(int(promised), settings)
    _check_disk(partial.parent, int(promised), settings)
    digest, size, looked_at = hashlib.sha256(), 0, 0
    with partial.open("wb") as file:
        for chunk in response.iter_stream():  # as sent: nothing is decompressed, so nothing can grow
            size += len(chunk)
            _check_size(size, settings)
            patience.body_bytes = size
            if size - looked_at >= LOOK_AT_DISK_EVERY_BYTES:
                _check_disk(partial.parent, 0, settings)
                looked_at = size
            digest.update(chunk)
            file.write(chunk)
    return Fetched(digest.hexdigest(), size)


def _read_header(response: httpcore.Response, name: bytes) -> str | None:
    values = (value for key, value in response.headers if key.lower() == name)
    return next((value.decode("utf-8", "replace").strip() for value in values), None)


def _check_size(size_bytes: int, settings: IngestSettings) -> None:
    if size_bytes > settings.max_download_bytes:
        raise SourceTooLarge(f"the file is larger than {settings.max_download_bytes} bytes (ingest.max_download_bytes)")


def _check_disk(folder: Path, coming_bytes: int, settings: IngestSettings) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes - coming_bytes < settings.min_free_disk_bytes:
        raise DiskFull(
            f"the disk of {folder} has {free_bytes} bytes free; with the download it would fall below "
            f"{settings.min_free_disk_bytes} (ingest.min_free_disk_bytes); make room there"
        )


@contextmanager
def _translate_errors(url: str) -> Iterator[None]:
    try:
        yield
    except SourceError:
        raise
    except (httpcore.ReadError, httpcore.ReadTimeout, httpcore.RemoteProtocolError) as error:
        raise SourceInterrupted(f"{redact(url)} broke off: {describe_error(error)}") from error
    except (*HTTPCORE_ERRORS, httpx.InvalidURL, ValueError) as error:
        raise SourceUnavailable(f"cannot fetch {redact(url)}: {describe_error(error)}") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(f"the disk is full: {error}; make room there") from error


def describe_error(error: Exception) -> str:
    """The error in words that are safe to show."""
    return escape_controls(str(error)[:SHOWN_CHARS]) or type(error).__name__
