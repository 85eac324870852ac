"""A web server on loopback that answers as real servers do, good and bad."""

import base64
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = bytes(range(256)) * 1024
LOCAL = "127.0.0.1"
LOGIN = "Basic " + base64.b64encode(b"anna:p@ss:word").decode()


class Site(BaseHTTPRequestHandler):
    """Each path is a way to answer."""

    def log_message(self, *args: object) -> None:
        """Logs nothing: the tests' output is for results."""

    def do_GET(self) -> None:
        route, _, rest = self.path.partition("?")[0][1:].partition("/")
        if route == "file":
            self._send(len(CONTENT), CONTENT)
        elif route == "pausing":
            self._send(len(CONTENT), CONTENT[:1000], CONTENT[1000:], pause_s=0.7)
        elif route == "login":
            self._send(len(CONTENT), CONTENT) if self.headers["authorization"] == LOGIN else self.send_error(401)
        elif route == "cut":
            self._send(len(CONTENT) + 1, CONTENT)
        elif route == "hops":
            self._redirect("/file" if rest == "0" else f"/hops/{int(rest) - 1}")
        elif route == "loop":
            self._redirect(self.path)
        elif route == "to":
            self._redirect(rest)
        elif route == "endless":
            self._send(None, *([CONTENT] * 1000))
        elif route == "huge":
            self._send(10**12, CONTENT)
        elif route == "packed":
            self._send(None, gzip.compress(CONTENT), encoding="gzip")
        elif route == "trickle":
            self._trickle(b"HTTP/1.1 200 OK\r\n\r\n")
        elif route == "trickled-chunk":
            self._trickle(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=")
        elif route == "trickled-header":
            self._trickle(b"HTTP/1.1 200 OK\r\nX: ")
        elif route == "steering":
            self._write(b"HTTP/1.1 404 \x9b2Jgone\xc2\x85\r\nContent-Length: 0\r\n\r\n")
        elif route == "steering-more":
            self._write(b"HTTP/1.1 404 \x1b[2Jgone\r\nContent-Length: 0\r\n\r\n")
        else:
            self.send_error(int(route))

    def _send(self, promised: int | None, *parts: bytes, encoding: str | None = None, pause_s: float = 0.0) -> None:
        self.send_response(200)
        if encoding is not None:
            self.send_header("content-encoding", encoding)
        if promised is not None:
            self.send_header("content-length", str(promised))
        self.end_headers()
        for part in parts:
            self._write(part)
            time.sleep(pause_s)

    def _redirect(self, location: str) -> None:
        self.send_response(302)
        self.send_header("location", location)
        self.send_header("content-length", "0")
        self.end_headers()

    def _trickle(self, head: bytes) -> None:
        self._write(head)
        for _ in range(1000):
            if not self._write(b"x"):
                return
            time.sleep(0.02)

    def _write(self, part: bytes) -> bool:
        try:
            self.wfile.write(part)
        except OSError:
            return False  # the client has closed the connection
        return True


@contextmanager
def serve_site(certificate: str | None = None) -> Iterator[int]:
    """The port of a running site; over TLS with a `certificate` (a file that holds its key too)."""
    with ThreadingHTTPServer((LOCAL, 0), Site) as server:
        server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def listen_silently() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.create_server((LOCAL, 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def listen_with_a_full_queue() -> Iterator[int]:
    """A port at which connecting never ends: Linux drops what does not fit into the queue."""
    with ExitStack() as open_sockets:
        server = open_sockets.enter_context(socket.create_server((LOCAL, 0), backlog=0))
        for _ in range(3):
            waiting = open_sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        time.sleep(0.1)
        yield server.getsockname()[1]
