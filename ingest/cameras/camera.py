"""One camera of this host: its child process, and what is known of its state. Knows nothing of Redis."""

import logging
import math
import multiprocessing
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import NamedTuple

from configs.settings import CameraSettings, Settings
from ingest.cameras.camera_child import run_camera
from ingest.cameras.camera_messages import (
    CameraPlan,
    Failed,
    FrameSpooled,
    HostClockStepped,
    Message,
    Noticed,
    Opened,
    PictureFrozen,
    PictureMoving,
    SenderJumped,
    Statistics,
)
from storage.documents import Credentials, Problem, Video
from storage.live_documents import Event, EventType, StreamState
from storage.text import escape_controls

log = logging.getLogger(__name__)

GAP_REPORTED_S = 5.0  # shorter gaps are in the stream's `gaps` only
REPEAT_S = 60.0  # the same kind of trouble is not reported more often
SETTLED_S = 30.0  # a camera that stayed online this long is connected again without a long pause
NEVER = -math.inf
Tell = Callable[[Event], None]
Take = Callable[[str, int], None]  # (stream, segment) that has a new frame


class Wanted(NamedTuple):
    """A stream that this host should capture."""

    stream: Video
    credentials: Credentials


def start_forkserver() -> ForkServerContext:
    """The context whose processes begin as copies of one that has loaded the decoders.

    They start in milliseconds and share its memory.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([run_camera.__module__])
    return context


@dataclass
class Totals:
    """Counts of the children that ended."""

    sampled: int = 0
    static: int = 0
    lost: int = 0


class Camera:
    """Call `tick` often, and `receive` when the connection has something to read."""

    def __init__(
        self, wanted: Wanted, settings: Settings, context: ForkServerContext, tell: Tell, take: Take, last_slot: int
    ) -> None:
        self.wanted = wanted
        self.connection: Connection | None = None
        self._settings = settings
        self._context = context
        self._tell_event = tell
        self._take = take
        self._process: ForkServerProcess | None = None
        self._last_slot = last_slot  # that was filled, by whatever host
        self._began = NEVER  # monotonic: when the child was started
        self._packet_at = self._frame_at = NEVER  # monotonic
        self._online_since = NEVER
        self._next_try = NEVER
        self._failures = 0  # in a row
        self._starts = 0
        self._counts, self._ended = Statistics(0.0, *([0] * 9)), Totals()
        self._opened: Opened | None = None
        self._told_at: dict[str, float] = {}
        self._state = StreamState(state="connecting", since=datetime.now(UTC))

    @property
    def stream(self) -> Video:
        """The stream's document."""
        return self.wanted.stream

    def describe(self) -> StreamState:
        """What the API shows."""
        counts, opened = self._counts, self._opened
        return self._state.model_copy(
            update={
                "input_fps": counts.input_fps if self._state.state == "online" else None,
                "codec": opened and opened.codec,
                "width_px": (opened and opened.width_px) or None,
                "height_px": (opened and opened.height_px) or None,
                "has_audio": bool(opened and opened.audio_codec),
                "frames_sampled": self._ended.sampled + counts.sampled,
                "frames_static": self._ended.static + counts.static,
                "frames_lost": self._ended.lost + counts.unfilled + counts.late,
                "reconnects": max(self._starts - 1, 0),
            }
        )

    def tick(self) -> None:
        """Starts the child when it is time to, and gives it up if it is silent."""
        now, limits = time.monotonic(), self._settings.cameras
        if self._process is None:
            if now >= self._next_try:
                self._start()
            return
        slot_s = 1 / self.stream.sample_fps
        if self._packet_at == NEVER:
            if now - self._began > 2 * limits.connect_timeout_s + limits.stall_s:
                self._fail("camera-timeout", f"the camera said nothing within {now - self._began:.0f} s of connecting")
        elif now - self._packet_at > limits.stall_s:
            self._fail("camera-timeout", f"the camera sent nothing for {limits.stall_s:g} s (cameras.stall_s)")
        elif now - max(self._frame_at, self._began) > limits.stall_s + limits.connect_timeout_s + slot_s:
            self._fail("camera-damaged", f"no whole picture came for {limits.stall_s + slot_s:g} s, though data did")

    def receive(self) -> None:
        """Handles what the child sent."""
        try:
            while self.connection is not None and self.connection.poll():
                self._handle(self.connection.recv())
        except (EOFError, OSError):
            self._fail("camera-crashed", "its capture process died; logs/capture.log may say why")

    def stop(self) -> None:
        """Ends the child. Frames that it captured are in the spool."""
        process, connection = self._process, self.connection
        self._process = self.connection = None
        self._ended.sampled += self._counts.sampled
        self._ended.static += self._counts.static
        self._ended.lost += self._counts.unfilled + self._counts.late
        self._counts = Statistics(0.0, *([0] * 9))
        if connection is not None:
            connection.close()
        if process is not None:
            process.kill()
            process.join(5)
            process.close()

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        self._process = self._context.Process(target=run_camera, args=(theirs, self._plan()), daemon=True)
        self._process.start()
        theirs.close()
        self.connection = ours
        self._began, self._packet_at, self._frame_at = time.monotonic(), NEVER, NEVER
        self._starts += 1
        self._state = self._state.model_copy(update={"next_try_at": None})

    def _plan(self) -> CameraPlan:
        stream, ingest, cameras = self.stream, self._settings.ingest, self._settings.cameras
        capture, starts_at = stream.capture, stream.recorded_at
        assert capture is not None
        assert starts_at is not None, "a stream has a grid in wall-clock time"
        return CameraPlan(
            url=stream.location,
            username=self.wanted.credentials.username,
            password=self.wanted.credentials.password,
            transport=capture.transport,
            networks=ingest.camera_networks,
            start_epoch_s=starts_at.timestamp(),
            sample_fps=stream.sample_fps,
            mode=stream.mode,
            first_slot=self._last_slot + 1,
            spool_folder=str(self._settings.spool_dir / stream.id),
            record=capture.record,
            model_side_px=ingest.model_side_px,
            jpeg_quality=ingest.jpeg_quality,
            view_long_side_px=ingest.view_long_side_px,
            view_jpeg_quality=ingest.view_jpeg_quality,
            static_threshold=capture.static_threshold,
            frozen_s=cameras.frozen_s,
            connect_timeout_s=cameras.connect_timeout_s,
            silence_s=cameras.stall_s,
            max_pixels=ingest.max_frame_pixels,
            max_held_bytes=cameras.max_gop_mb * 1024**2,
        )

    def _handle(self, message: Message) -> None:
        self._packet_at = time.monotonic()
        match message:
            case FrameSpooled():
                self._note_frame(message)
            case Statistics():
                self._counts = message
            case Opened():
                self._opened = message
            case Failed():
                self._fail(message.code, message.message)
            case PictureFrozen():
                since = self._clock(message.since_s)
                self._state = self._state.model_copy(update={"frozen_since": since})
                self._tell("frozen", f"the picture has not changed by a single bit since {since:%H:%M:%S} UTC", since)
            case PictureMoving():
                self._state = self._state.model_copy(update={"frozen_since": None})
            case SenderJumped():
                what = (
                    f"the camera's timestamps jumped ({message.kind}, {message.seconds:.1f} s); a new timeline begins"
                )
                self._tell_rarely("sender-jumped", what, self._clock(message.at_s))
            case HostClockStepped():
                what = f"the clock of this host was set by {message.seconds:+.1f} s"
                self._tell_rarely("clock-stepped", what, self._clock(message.at_s))
            case Noticed():
                self._tell_rarely(message.code, message.message, datetime.now(UTC))

    def _note_frame(self, frame: FrameSpooled) -> None:
        self._frame_at = time.monotonic()
        self._take(self.stream.id, frame.segment)
        at = self._clock(frame.t_s)
        if self._state.state != "online":
            if self._starts > 1 or self._last_slot >= 0:
                self._tell("online", "the camera sends pictures again", at)
            else:
                self._tell("online", "the camera sends pictures", at)
            self._online_since = self._frame_at
            self._state = self._state.model_copy(
                update={"state": "online", "since": datetime.now(UTC), "problem": None, "next_try_at": None}
            )
        missed = frame.slot - self._last_slot - 1
        if self._last_slot >= 0 and missed / self.stream.sample_fps >= GAP_REPORTED_S:
            start, end = (self._clock(slot / self.stream.sample_fps) for slot in (self._last_slot + 1, frame.slot))
            self._tell("gap", f"no frames for {(end - start).total_seconds():.0f} s", end, start, end)
        self._last_slot = frame.slot
        self._state = self._state.model_copy(update={"last_frame_at": at})

    def _fail(self, code: str, message: str) -> None:
        """Ends the child, and plans the next try."""
        message = escape_controls(message)
        log.warning("stream %s: %s (%s)", self.stream.id, message, code)
        self.stop()
        now, limits = time.monotonic(), self._settings.cameras
        if self._state.state == "online" and now - self._online_since > SETTLED_S:
            self._failures = 0
        pause_s = choose_pause_s(self._failures, limits, random.random())  # noqa: S311 - no secret
        self._failures += 1
        self._next_try = now + pause_s
        problem, before = Problem(code=code, message=message), self._state.problem
        if before is None or before.code != code:
            self._tell("offline", message, datetime.now(UTC))
        since = self._state.since if self._state.state == "offline" else datetime.now(UTC)
        self._state = self._state.model_copy(
            update={
                "state": "offline",
                "since": since,
                "problem": problem,
                "next_try_at": datetime.now(UTC) + timedelta(seconds=pause_s),
                "frozen_since": None,
            }
        )

    def _tell_rarely(self, kind: str, message: str, at: datetime) -> None:
        now = time.monotonic()
        if now - self._told_at.get(kind, NEVER) >= REPEAT_S:
            self._told_at[kind] = now
            self._tell("error", message, at)

    def _tell(
        self, kind: EventType, message: str, at: datetime, start: datetime | None = None, end: datetime | None = None
    ) -> None:
        self._tell_event(
            Event(id="", type=kind, stream_id=self.stream.id, at=at, message=message, start_at=start, end_at=end)
        )

    def _clock(self, t_s: float) -> datetime:
        at = self.stream.grid.clock(t_s)
        assert at is not None, "a stream has a grid in wall-clock time"
        return at


def choose_pause_s(failures: int, limits: CameraSettings, chance: float) -> float:
    """The pause before the next try after so many failures in a row: doubled each time, with jitter of a quarter."""
    pause_s = min(limits.retry_least_s * 2 ** min(failures, 30), limits.retry_most_s)
    return float(pause_s * (0.75 + 0.25 * chance))
