"""Connections to checked addresses only. They end at a deadline, or when the file is no longer wanted."""

import math
import os
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

import httpcore

from configs.settings import IngestSettings
from ingest.errors import SourceInterrupted, SourceTooLarge, SourceUnavailable
from ingest.files.network import allowed_addresses
from storage.text import escape_controls

SLICE_S = 0.25  # the longest that any call waits before it checks the clock
ASK_INTERVAL_S = 1.0
CONNECT_LATE = "no connection in time (ingest.connect_timeout_s)"
READ_LATE = "no answer in time (ingest.read_timeout_s)"

Result = TypeVar("Result")


class Patience:
    """How long a download may still take, and whether it is still wanted.

    `check` is called in every slice of waiting. It raises SourceTooLarge or SourceInterrupted at a deadline. Every
    second it calls `still_wanted`, and lets its exceptions through.
    """

    def __init__(self, settings: IngestSettings, still_wanted: Callable[[], object]) -> None:
        self._settings = settings
        self._still_wanted = still_wanted
        self._ends_at = time.monotonic() + settings.download_timeout_s
        self._headers_end_at = math.inf
        self._body_began_at = math.inf
        self._asked_at = time.monotonic()
        self.body_bytes = 0  # content received; chunk headers and trailers do not count

    def await_headers(self) -> None:
        """Starts the deadline for the next answer's headers (`header_timeout_s`)."""
        self._headers_end_at = time.monotonic() + self._settings.header_timeout_s
        self._body_began_at = math.inf

    def begin_body(self) -> None:
        """Ends that deadline: the headers have arrived. The body has to come at `min_download_bytes_per_s`."""
        self._headers_end_at, self._body_began_at, self.body_bytes = math.inf, time.monotonic(), 0

    def check(self) -> None:
        """Raises if it is time to stop."""
        now = time.monotonic()
        if now > self._ends_at:
            limit_s = self._settings.download_timeout_s
            raise SourceTooLarge(f"the download took longer than {limit_s:g} s (ingest.download_timeout_s)")
        if now > self._headers_end_at:
            limit_s = self._settings.header_timeout_s
            raise SourceInterrupted(f"the server's headers took longer than {limit_s:g} s (ingest.header_timeout_s)")
        least = self._settings.min_download_bytes_per_s
        if now - self._body_began_at > self._settings.read_timeout_s + self.body_bytes / least:
            raise SourceInterrupted(
                f"the server sends less than {least} bytes a second (ingest.min_download_bytes_per_s)"
            )
        if now - self._asked_at >= ASK_INTERVAL_S:
            self._asked_at = now
            self._still_wanted()


def open_pool(
    settings: IngestSettings, patience: Patience, listed_in: str = "ingest.allowed_private_hosts"
) -> httpcore.ConnectionPool:
    """A pool that connects only to what `settings` allow, keeps nothing open, and waits no longer than `patience`."""
    return httpcore.ConnectionPool(
        ssl_context=ssl.create_default_context(),
        max_keepalive_connections=0,
        network_backend=_GuardedBackend(settings, patience, listed_in),
    )


class _GuardedBackend(httpcore.NetworkBackend):
    """Resolves each host once, checks all its addresses, and connects only to them, so no later look-up can differ."""

    def __init__(self, settings: IngestSettings, patience: Patience, listed_in: str) -> None:
        self._settings = settings
        self._patience = patience
        self._listed_in = listed_in

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        ends_at = time.monotonic() + self._settings.connect_timeout_s
        found = self._look_up(host, port)
        addresses = allowed_addresses(host, port, found, self._settings.allowed_private_hosts, self._listed_in)
        for left in range(len(addresses), 1, -1):
            try:
                return self._connect(addresses[-left], port, (ends_at - time.monotonic()) / left)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._connect(addresses[-1], port, ends_at - time.monotonic())

    def _look_up(self, host: str, port: int) -> list[Any]:
        """Asks the system's resolver, which cannot be interrupted: if it hangs, its thread is left behind."""
        answer = Future[list[Any]]()

        def ask() -> None:
            try:
                answer.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            except (OSError, UnicodeError) as error:
                answer.set_exception(SourceUnavailable(f"cannot resolve {escape_controls(host)}: {error}; check it"))

        threading.Thread(target=ask, name="resolver", daemon=True).start()
        limit_s = self._settings.connect_timeout_s
        return _wait_for(lambda: answer.result(SLICE_S), self._patience, limit_s, httpcore.ConnectTimeout(CONNECT_LATE))

    def _connect(self, address: str, port: int, limit_s: float) -> httpcore.NetworkStream:
        with ExitStack() as unless_connected, _translate(httpcore.ConnectError):
            connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
            unless_connected.callback(connection.close)
            connection.setblocking(False)
            with suppress(BlockingIOError):
                connection.connect((address, port))
            _wait_for(
                lambda: _finish_connecting(connection), self._patience, limit_s, httpcore.ConnectTimeout(CONNECT_LATE)
            )
            connection.settimeout(SLICE_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            unless_connected.pop_all()
        return _PatientStream(connection, self._settings, self._patience)


class _PatientStream(httpcore.NetworkStream):
    """A connection that waits in slices and checks after each whether to continue."""

    def __init__(self, connection: socket.socket, settings: IngestSettings, patience: Patience) -> None:
        self._connection = connection
        self._settings = settings
        self._patience = patience

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _translate(httpcore.ReadError):
            return self._wait_for(lambda: self._connection.recv(max_bytes), httpcore.ReadTimeout(READ_LATE))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _translate(httpcore.WriteError):
            while buffer:
                buffer = buffer[self._send(buffer) :]

    def close(self) -> None:
        self._connection.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        with ExitStack() as unless_secured, _translate(httpcore.ConnectError):
            unless_secured.callback(self.close)
            secured = ssl_context.wrap_socket(
                self._connection, server_hostname=server_hostname, do_handshake_on_connect=False
            )
            self._connection = secured
            limit_s = self._settings.connect_timeout_s
            _wait_for(secured.do_handshake, self._patience, limit_s, httpcore.ConnectTimeout(CONNECT_LATE))
            unless_secured.pop_all()
        return self

    def get_extra_info(self, info: str) -> Any:
        """Returns None: httpcore asks about HTTP/2 and about open connections, and neither is used here."""

    def _send(self, buffer: bytes) -> int:
        return self._wait_for(lambda: self._connection.send(buffer), httpcore.WriteTimeout(READ_LATE))

    def _wait_for(self, operation: Callable[[], Result], late: httpcore.TimeoutException) -> Result:
        return _wait_for(operation, self._patience, self._settings.read_timeout_s, late)


def _finish_connecting(connection: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_WRITE)
        if not selector.select(SLICE_S):
            raise TimeoutError
    error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def _wait_for(
    operation: Callable[[], Result], patience: Patience, limit_s: float, late: httpcore.TimeoutException
) -> Result:
    """Repeats `operation`, which raises TimeoutError after each slice, until it returns; raises `late` at `limit_s`."""
    ends_at = time.monotonic() + limit_s
    while True:
        patience.check()
        try:
            return operation()
        except TimeoutError as error:
            if error.errno is not None:
                raise  # ETIMEDOUT: the connection is dead
            if time.monotonic() > ends_at:
                raise late from error


@contextmanager
def _translate(into: type[httpcore.NetworkError]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise into(str(error)) from error
