"""The web server of the run: serves media, at full speed or slowly, and is hostile on other paths."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

from tests.ingest.hostile_site import LOCAL, Site

HOSTILE = (
    "cut",
    "loop",
    "huge",
    "packed",
    "trickled-header/",
    "steering",
    "404",
    "500",
    "to/http://10.0.0.1/x",
    "file",
)
SLOW_PARTS, SLOW_PAUSE_S = 20, 0.2


class MediaServer(ThreadingHTTPServer):
    """Serves `files` by name as /media/NAME and /slow/NAME."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((LOCAL, 0), MediaSite)
        self.files: dict[str, bytes] = {}

    def url(self, route: str) -> str:
        """The address of a route."""
        return f"http://{LOCAL}:{self.server_address[1]}/{route}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores errors, because clients are killed in the middle of downloads."""


class MediaSite(Site):
    """The hostile site with media."""

    server: MediaServer

    def do_GET(self) -> None:  # noqa: N802 - http.server calls it so
        """Sends a medium, or a hostile response."""
        route, _, name = self.path[1:].partition("/")
        content = self.server.files.get(name)
        if route not in ("media", "slow") or content is None:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        parts = SLOW_PARTS if route == "slow" else 1
        size = -(-len(content) // parts)
        for first in range(0, len(content), size):
            if not self._write(content[first : first + size]):
                return
            time.sleep(SLOW_PAUSE_S if parts > 1 else 0)


@contextmanager
def serve_media() -> Iterator[MediaServer]:
    """Runs the server until the block ends."""
    with MediaServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
