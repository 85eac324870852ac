"""Downloads a video over http(s), guarded: allowed addresses only, pinned, bounded in bytes and time."""

import hashlib
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpcore
import httpx

from configs.settings import IngestSettings
from ingest.errors import FetchRefused, SourceError, SourceTooLarge, SourceUnavailable
from storage.urls import redact

CHUNK_BYTES = 1 << 20
REDIRECTS = (301, 302, 303, 307, 308)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Fetched:
    """A whole download: its hash and size."""

    sha256: str
    size_bytes: int


def fetch(url: str, into: Path, settings: IngestSettings) -> Fetched:
    """Downloads `url` to the file `into`, which appears only once it is whole.

    Redirects are followed by hand and every address is checked. Raises FetchRefused, SourceUnavailable, SourceTooLarge.
    """
    partial = into.with_name(f"{into.name}.part")
    into.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + settings.download_timeout_s
    try:
        with _translated(url), _client(settings) as client:
            fetched = _follow(client, url, partial, settings, deadline)
        partial.replace(into)
        return fetched
    finally:
        partial.unlink(missing_ok=True)


def allowed_address(host: str, port: int, allowed_private_hosts: Iterable[str]) -> str:
    """The address to connect to for `host`. Every address it resolves to must be public, or listed in the settings.

    Raises FetchRefused, SourceUnavailable.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SourceUnavailable(f"cannot resolve {host}: {error}; check the address") from error
    addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
    for text in addresses:
        address = ipaddress.ip_address(text)
        if not (_is_public(address) or _is_listed(host, address, allowed_private_hosts)):
            raise FetchRefused(
                f"{host} is {text}, not a public address; add it to ingest.allowed_private_hosts if it may be fetched"
            )
    return addresses[0]


class _PinnedBackend(httpcore.NetworkBackend):
    """Resolves and checks each host itself and connects to just that address: no second look-up can differ."""

    def __init__(self, allowed_private_hosts: Iterable[str]) -> None:
        self._allowed = tuple(allowed_private_hosts)
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        address = allowed_address(host, port, self._allowed)
        return self._sockets.connect_tcp(address, port, timeout, local_address, socket_options)


def _client(settings: IngestSettings) -> httpx.Client:
    transport = httpx.HTTPTransport(trust_env=False)
    transport._pool = httpcore.ConnectionPool(
        ssl_context=ssl.create_default_context(),
        network_backend=_PinnedBackend(settings.allowed_private_hosts),
    )
    timeout = httpx.Timeout(settings.read_timeout_s, connect=settings.connect_timeout_s)
    return httpx.Client(transport=transport, timeout=timeout, trust_env=False, follow_redirects=False)


def _follow(client: httpx.Client, url: str, partial: Path, settings: IngestSettings, deadline: float) -> Fetched:
    for _ in range(settings.max_redirects + 1):
        _check_scheme(url)
        with client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response:
            if response.status_code in REDIRECTS and "location" in response.headers:
                url = urljoin(url, response.headers["location"])
                continue
            if response.status_code != httpx.codes.OK:
                raise SourceUnavailable(f"{redact(url)} answers {response.status_code} {response.reason_phrase}")
            return _receive(response, partial, settings, deadline)
    raise FetchRefused(f"{redact(url)} redirects more than {settings.max_redirects} times (ingest.max_redirects)")


def _check_scheme(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FetchRefused(f"only http and https addresses are fetched, not {parts.scheme or 'this'}: {redact(url)}")


def _receive(response: httpx.Response, partial: Path, settings: IngestSettings, deadline: float) -> Fetched:
    promised = response.headers.get("content-length", "")
    if promised.isdecimal():
        _check_size(int(promised), settings)
    digest, size = hashlib.sha256(), 0
    with partial.open("wb") as file:
        for chunk in response.iter_bytes(CHUNK_BYTES):
            size += len(chunk)
            _check_size(size, settings)
            if time.monotonic() > deadline:
                raise SourceTooLarge(
                    f"the download took longer than {settings.download_timeout_s:g} s (ingest.download_timeout_s)"
                )
            digest.update(chunk)
            file.write(chunk)
    return Fetched(digest.hexdigest(), size)


def _check_size(size_bytes: int, settings: IngestSettings) -> None:
    if size_bytes > settings.max_download_bytes:
        raise SourceTooLarge(f"the file is larger than {settings.max_download_bytes} bytes (ingest.max_download_bytes)")


def _is_public(address: Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_global and not address.is_multicast


def _is_listed(host: str, address: Address, listed: Iterable[str]) -> bool:
    for entry in listed:
        try:
            if address in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            if entry.lower() == host.lower():
                return True
    return False


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except SourceError:
        raise
    except (httpx.HTTPError, httpx.InvalidURL, httpcore.ProtocolError, ValueError) as error:
        raise SourceUnavailable(f"cannot fetch {redact(url)}: {error or type(error).__name__}") from error
