"""Runs cameras: their time, and the ports on which they answer."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from demo.cameras.clips import Clip
from demo.cameras.digest import Accounts
from demo.cameras.faults import Faults
from demo.cameras.file_loop import FileLoop
from demo.cameras.http_live import HttpConnection
from demo.cameras.rtsp_server import RtspConnection

T = TypeVar("T")


def reserve_port(host: str, port: int) -> socket.socket:
    """Binds a port (0: any free one) for as long as the socket is open, so that nobody takes it while no one listens.

    Connections to it are refused until a server with SO_REUSEADDR listens there too, as asyncio's and GStreamer's do.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((host, port))
    return reserved


class _Connection(Protocol):
    async def serve(self, reader: asyncio.StreamReader) -> None: ...

    def end_cleanly(self) -> None: ...

    def send_garbage(self, data: bytes) -> None: ...


_Protocol = Callable[[Mapping[str, FileLoop], Accounts, Faults, asyncio.StreamWriter], _Connection]


class CameraServer:
    """Several cameras behind one RTSP port and one HTTP port. All methods belong to the event loop that opened it."""

    def __init__(
        self,
        clips: Mapping[str, Clip],
        *,
        host: str = "127.0.0.1",
        rtsp_port: int = 0,
        http_port: int = 0,
        accounts: Accounts | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.host = host
        self.rtsp_port, self.http_port = rtsp_port, http_port  # 0 until it is open: any free one
        self.accounts, self.faults = accounts or Accounts(), faults or Faults()
        self.sources = {name: FileLoop(clip, self.faults) for name, clip in clips.items()}
        self.connection_count = 0
        self._connections: dict[_Connection, asyncio.StreamWriter] = {}
        self._listeners: list[asyncio.Server] = []
        self._reserved: list[socket.socket] = []
        self._handlers: set[asyncio.Task[None]] = set()
        self._clocks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Listens. The first call also starts the cameras' time, which goes on until `close`."""
        if not self._clocks:
            self._clocks = [asyncio.create_task(source.run()) for source in self.sources.values()]
            self._reserved = [reserve_port(self.host, port) for port in (self.rtsp_port, self.http_port)]
            self.rtsp_port, self.http_port = (reserved.getsockname()[1] for reserved in self._reserved)
        await self._listen(self.rtsp_port, RtspConnection)
        await self._listen(self.http_port, HttpConnection)

    async def die(self) -> None:
        """Drops all connections and stops listening, as a killed process does. `open` listens on the same ports."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        for writer in self._connections.values():
            writer.transport.abort()
        if self._handlers:
            await asyncio.wait(self._handlers)

    async def close(self) -> None:
        """Ends everything."""
        await self.die()
        for reserved in self._reserved:
            reserved.close()
        for clock in self._clocks:
            clock.cancel()
        for ended in await asyncio.gather(*self._clocks, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                raise ended or AssertionError("a camera's time ended by itself")

    def end_cleanly(self) -> None:
        """Ends all streams with a goodbye, and goes on listening."""
        for connection, writer in list(self._connections.items()):
            connection.end_cleanly()
            writer.close()

    def send_garbage(self, data: bytes) -> None:
        """Sends bytes that mean nothing to all clients."""
        for connection in self._connections:
            connection.send_garbage(data)

    async def _listen(self, port: int, protocol: _Protocol) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._handle(protocol, reader, writer)

        self._listeners.append(await asyncio.start_server(handle, self.host, port))

    async def _handle(self, protocol: _Protocol, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self.connection_count += 1
        connection = protocol(self.sources, self.accounts, self.faults, writer)
        self._connections[connection] = writer
        try:
            if self.faults.is_silent:
                while await reader.read(4096):
                    pass
            else:
                await connection.serve(reader)
        except (OSError, OverflowError, asyncio.IncompleteReadError):
            pass  # the client left, or asked for a port that does not exist
        finally:
            self._connections.pop(connection)
            self._handlers.discard(task)
            writer.close()


class CameraThread:
    """An event loop in a thread of its own, for programs that have none."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine there and returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    def call(self, work: Callable[[], object]) -> None:
        """Calls a function there, and returns when it has run."""

        async def run_it() -> None:
            work()

        self.run(run_it())

    def close(self) -> None:
        """Ends the loop and the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=30)
        self._loop.close()


@contextmanager
def running_cameras(server: CameraServer) -> Iterator[CameraThread]:
    """Runs a server in the background. Its methods are called through the thread."""
    thread = CameraThread()
    try:
        thread.run(server.open())
        yield thread
    finally:
        thread.run(server.close())
        thread.close()
