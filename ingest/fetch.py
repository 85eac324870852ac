"""Downloads a video over http(s), guarded: allowed addresses only, pinned, bounded in bytes and time."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpcore
import httpx

from configs.settings import IngestSettings
from ingest.errors import FetchRefused, SourceError, SourceInterrupted, SourceTooLarge, SourceUnavailable
from ingest.network import guarded_client
from storage.urls import redact

ASK_INTERVAL_S = 1.0
REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Fetched:
    """A whole download: its hash and size."""

    sha256: str
    size_bytes: int


def fetch(url: str, into: Path, settings: IngestSettings, still_wanted: Callable[[], object]) -> Fetched:
    """Downloads `url` to the file `into`, which appears only once it is whole.

    Redirects are followed by hand and every address is checked. `still_wanted` is called every second; it raises where
    the download has become pointless. Raises FetchRefused, SourceUnavailable, SourceInterrupted, SourceTooLarge.
    """
    partial = into.with_name(f"{into.name}.part")
    into.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + settings.download_timeout_s
    try:
        with _translated(url), guarded_client(settings, deadline) as client:
            fetched = _follow(client, url, partial, settings, still_wanted)
        partial.replace(into)
        return fetched
    finally:
        partial.unlink(missing_ok=True)


def _follow(
    client: httpx.Client, url: str, partial: Path, settings: IngestSettings, still_wanted: Callable[[], object]
) -> Fetched:
    for _ in range(settings.max_redirects + 1):
        _check_scheme(url)
        with client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response:
            if response.status_code in REDIRECTS and "location" in response.headers:
                url = urljoin(url, response.headers["location"])
                continue
            if response.status_code != httpx.codes.OK:
                busy = response.is_server_error or response.status_code == httpx.codes.TOO_MANY_REQUESTS
                raise (SourceInterrupted if busy else SourceUnavailable)(
                    f"{redact(url)} answers {response.status_code} {response.reason_phrase}"
                )
            return _receive(response, partial, settings, still_wanted)
    raise FetchRefused(f"{redact(url)} redirects more than {settings.max_redirects} times (ingest.max_redirects)")


def _check_scheme(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FetchRefused(f"only http and https addresses are fetched, not {parts.scheme or 'this'}: {redact(url)}")


def _receive(
    response: httpx.Response, partial: Path, settings: IngestSettings, still_wanted: Callable[[], object]
) -> Fetched:
    packed = response.headers.get("content-encoding", "identity")
    if packed != "identity":
        raise SourceUnavailable(f"the server packs the file ({packed}), although it was asked not to")
    promised = response.headers.get("content-length", "")
    if promised.isdecimal():
        _check_size(int(promised), settings)
    digest, size, asked = hashlib.sha256(), 0, time.monotonic()
    with partial.open("wb") as file:
        for chunk in response.iter_raw():  # as sent: nothing is unpacked, so nothing can swell
            if time.monotonic() - asked > ASK_INTERVAL_S:
                still_wanted()
                asked = time.monotonic()
            size += len(chunk)
            _check_size(size, settings)
            digest.update(chunk)
            file.write(chunk)
    return Fetched(digest.hexdigest(), size)


def _check_size(size_bytes: int, settings: IngestSettings) -> None:
    if size_bytes > settings.max_download_bytes:
        raise SourceTooLarge(f"the file is larger than {settings.max_download_bytes} bytes (ingest.max_download_bytes)")


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except SourceError:
        raise
    except (httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError) as error:
        raise SourceInterrupted(f"{redact(url)} broke off: {error or type(error).__name__}") from error
    except (httpx.HTTPError, httpx.InvalidURL, httpcore.ProtocolError, ValueError) as error:
        raise SourceUnavailable(f"cannot fetch {redact(url)}: {error or type(error).__name__}") from error
