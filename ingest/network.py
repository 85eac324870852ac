"""Connections to allowed addresses only: every one checked, then pinned, and ended in time."""

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from configs.settings import IngestSettings
from ingest.errors import FetchRefused, SourceTooLarge, SourceUnavailable

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last four bytes are an IPv4 address
UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291: all that is handed out as global unicast so far
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def guarded_client(settings: IngestSettings, deadline: float) -> httpx.Client:
    """A client that reaches only what `settings` allow, and nothing after `deadline` (monotonic seconds).

    Its connections raise FetchRefused, SourceUnavailable, SourceTooLarge. Redirects are left to the caller.
    """
    transport = httpx.HTTPTransport(trust_env=False)
    transport._pool = httpcore.ConnectionPool(
        ssl_context=ssl.create_default_context(),
        network_backend=_PinnedBackend(settings, deadline),
    )
    timeout = httpx.Timeout(settings.read_timeout_s, connect=settings.connect_timeout_s)
    return httpx.Client(transport=transport, timeout=timeout, trust_env=False, follow_redirects=False)


def allowed_addresses(host: str, port: int, allowed_private_hosts: Iterable[str]) -> list[str]:
    """The addresses of `host`, the best first. Every one of them must be public, or listed in the settings.

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
            what = host if host == text else f"{host} ({text})"
            raise FetchRefused(
                f"{what} is not a public address; add it to ingest.allowed_private_hosts if it may be fetched"
            )
    return addresses


class _PinnedBackend(httpcore.NetworkBackend):
    """Resolves and checks each host itself and connects to just these addresses: no second look-up can differ."""

    def __init__(self, settings: IngestSettings, deadline: float) -> None:
        self._settings = settings
        self._deadline = deadline
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        *others, last = allowed_addresses(host, port, self._settings.allowed_private_hosts)
        for address in others:
            try:
                return self._connect(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._connect(last, port, timeout, local_address, socket_options)

    def _connect(self, address: str, port: int, *options: Any) -> httpcore.NetworkStream:
        return _BoundedStream(self._sockets.connect_tcp(address, port, *options), self._settings, self._deadline)


class _BoundedStream(httpcore.NetworkStream):
    """A connection that ends with the time for the whole download, however slowly the other side sends."""

    def __init__(self, stream: httpcore.NetworkStream, settings: IngestSettings, deadline: float) -> None:
        self._stream = stream
        self._settings = settings
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if time.monotonic() > self._deadline:
            raise SourceTooLarge(
                f"the download took longer than {self._settings.download_timeout_s:g} s (ingest.download_timeout_s)"
            )
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, timeout)
        return _BoundedStream(secured, self._settings, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _is_public(address: Address) -> bool:
    """Whether it is anyone's to reach; an IPv6 address that stands for an IPv4 one is what that one is."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = ipaddress.IPv4Address(address.packed[-4:])
        return _is_public(inner) if inner else address.is_global and address in UNICAST
    return address.is_global and not address.is_multicast


def _is_listed(host: str, address: Address, listed: Iterable[str]) -> bool:
    for entry in listed:
        try:
            if address in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            if entry.lower() == host.lower():
                return True
    return False
