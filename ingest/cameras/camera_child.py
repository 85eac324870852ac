"""The child process of one camera: opens it, captures it, and tells the supervisor. Ends with the connection."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import av.logging
import cv2
from av.packet import Packet

from ingest.cameras.camera_capture import Arrival, CameraCapture
from ingest.cameras.camera_messages import CameraPlan, Failed, Message
from ingest.cameras.camera_opening import CameraProblem, open_camera, read_packets
from ingest.cameras.recording import finish_partial_recordings

AWAITED_S = 0.01  # a packet that took longer was awaited: the queue of the opening is empty
OPENING_PACKETS, OPENING_S = 1000, 1.0  # that are looked at together, at most
LEAVING_S = 2.0  # for finishing the recording after the parent is gone
CLOCK_READ_S = 0.01  # both clocks are read within this time, or read again


class _Pipe:
    """The supervisor's end of the connection, as seen from here. Several threads may send."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Sends a message. If the supervisor is gone, nobody hears it, and `wait_for_end` returns."""
        with suppress(OSError), self._lock:
            self._connection.send(message)

    def wait_for_end(self) -> None:
        """Returns when the supervisor is gone, or has closed the connection."""
        try:
            while True:
                self._connection.recv_bytes()
        except (EOFError, OSError):
            return


def run_camera(connection: "Connection[Any, Any]", plan: CameraPlan) -> None:
    """Captures the camera until its stream ends or breaks. The target of a process.

    The last message is `Failed`. Ends at once when the connection is closed, and soon after SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the supervisor decides
    signal.signal(signal.SIGTERM, _leave)
    av.logging.set_level(None)  # FFmpeg's messages contain the URL with the password
    cv2.setNumThreads(1)
    pipe = _Pipe(connection)
    leaver = _Leaver(pipe)
    threading.Thread(target=leaver.wait, name="parent", daemon=True).start()
    try:
        for recorded in finish_partial_recordings(Path(plan.spool_folder)):
            pipe.send(recorded)
        _capture(plan, pipe, leaver)
    except CameraProblem as problem:
        pipe.send(Failed(problem.code, problem.message))
    except Exception as error:  # noqa: BLE001 - whatever it is, the supervisor must hear of it, without the URL
        pipe.send(Failed("camera-internal", f"the capture failed ({_locate(error)}): this is a bug, please report it"))


class _Leaver:
    """Ends the process when the supervisor is gone, after finishing the recording."""

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe
        self.capture: CameraCapture | None = None

    def wait(self) -> None:
        self._pipe.wait_for_end()
        threading.Timer(LEAVING_S, os._exit, (0,)).start()
        if self.capture is not None:
            self.capture.stop_recording(LEAVING_S)
        os._exit(0)


def _capture(plan: CameraPlan, pipe: _Pipe, leaver: _Leaver) -> None:
    opened_at = _read_clocks()
    with open_camera(plan) as camera:
        streams = list(camera.container.streams)
        capture = CameraCapture(plan, camera.video, streams, camera.has_timestamps, pipe.send)
        leaver.capture = capture
        packets = read_packets(camera, capture.streams, plan)
        try:
            capture.begin(list(_read_first(packets)), opened_at)
            for packet in packets:
                capture.take_packet(Arrival(packet, *_read_clocks()))
        finally:
            capture.close()


def _read_first(packets: "Iterator[Packet[Any]]") -> Iterator[Arrival]:
    """The packets that queued up while the camera was opened, up to the first that was awaited."""
    began_at = before = time.monotonic()
    for count, packet in enumerate(packets):
        arrival = Arrival(packet, *_read_clocks())
        yield arrival
        awaited = arrival.monotonic_s - before > AWAITED_S and packet.pts is not None and count > 0
        if awaited or count >= OPENING_PACKETS or arrival.monotonic_s - began_at > OPENING_S:
            return
        before = time.monotonic()


def _read_clocks() -> tuple[float, float]:
    """(monotonic clock, UTC), both of the same moment."""
    while True:
        before, utc_s = time.monotonic(), time.time()
        if time.monotonic() - before < CLOCK_READ_S:
            return before, utc_s


def _leave(*_: object) -> NoReturn:
    sys.exit(0)


def _locate(error: BaseException) -> str:
    """The error's kind and place. Its text may contain the camera's URL."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    place = f"{Path(frames.tb_frame.f_code.co_filename).name}:{frames.tb_lineno}" if frames is not None else "?"
    return f"{type(error).__name__} at {place}"
