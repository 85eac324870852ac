"""Turns the packets of one connection into spooled frames, recordings and messages. Knows nothing of networks."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from ingest.cameras.arrival_clock import FrameTime, SenderClock, WallAnchor, fill_first_timestamps
from ingest.cameras.camera_messages import (
    CameraPlan,
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
from ingest.cameras.coded_frames import CodedFrame, FrameReader
from ingest.cameras.live_pictures import FreezeWatch, PictureMaker, fingerprint_frame
from ingest.cameras.live_sampling import LiveSampler, SampledPicture
from ingest.cameras.recording import Recorder, VideoForm, find_audio_to_copy, name_codec
from ingest.cameras.spool import SpooledFrame, SpoolWriter
from storage.timeline import Grid, locate

STATISTICS_S = 1.0
RATE_OVER_S = 5.0  # of the input's frames per second

Send = Callable[[Message], None]


@dataclass(frozen=True, eq=False)
class Arrival:
    """A packet, and what both clocks of the host showed when it arrived."""

    packet: "Packet[Any]"
    monotonic_s: float
    utc_s: float


class CameraCapture:
    """Takes the packets of one connection in order of arrival."""

    def __init__(
        self, plan: CameraPlan, video: VideoStream, streams: "Sequence[Stream]", has_timestamps: bool, send: Send
    ) -> None:
        self._plan = plan
        self._video = video
        self._audio = find_audio_to_copy(streams) if plan.record else None
        self._has_timestamps = has_timestamps
        self._send = send
        self._grid = Grid(plan.sample_fps)
        folder = Path(plan.spool_folder)
        decoder = video.codec_context
        self._codec = name_codec(decoder.name)
        self._reader = FrameReader(self._codec, decoder.extradata)
        self._sampler = LiveSampler(decoder, self._grid, plan.mode, plan.first_slot, plan.max_held_bytes)
        self._pictures = PictureMaker(plan, plan.static_threshold)
        self._freeze = FreezeWatch(plan.frozen_s)
        self._spool = SpoolWriter(folder)
        self._recorder = Recorder(folder, self._grid, video, self._audio) if plan.record else None
        self._recording = threading.Lock()
        self._form = VideoForm(self._codec, decoder.width, decoder.height, decoder.extradata or b"")
        self._anchor = WallAnchor(plan.start_epoch_s)
        self._clocks = {stream.index: SenderClock() for stream in self.streams}
        self._tick_s = {stream.index: float(stream.time_base or 0) for stream in self.streams}
        self._arrived_s: deque[float] = deque()  # of video packets, for the rate
        self._counted_at_s = 0.0
        self._packets = self._sampled = self._static = self._unwritten = 0
        self._last: tuple[int, int] | None = None  # (number, fingerprint) of the last sampled frame
        self._noticed: set[str] = set()
        self._announce(streams)

    @property
    def streams(self) -> "list[Stream]":
        """The streams whose packets are wanted."""
        return [self._video] if self._audio is None else [self._video, self._audio]

    def begin(self, first: Sequence[Arrival], opened_at: tuple[float, float]) -> None:
        """Takes the first packets together: those that queued up while the connection was opened, and one more.

        `opened_at` is what both clocks showed when the opening began.
        """
        least_s, _ = self._anchor.place_arrival(*opened_at)
        pts_s: dict[int, float | None] = {}
        for index, clock in self._clocks.items():
            own = [arrival for arrival in first if arrival.packet.stream.index == index]
            times = fill_first_timestamps([self._seconds(a.packet, a.packet.pts) for a in own])
            pts_s |= {id(arrival): time for arrival, time in zip(own, times, strict=True)}
            placed = [
                (self._anchor.place_arrival(arrival.monotonic_s, arrival.utc_s)[0], time)
                for arrival, time in zip(own, times, strict=True)
                if time is not None
            ]
            clock.prepare(least_s, placed)
        if self._recorder is not None and self._audio is not None:
            sound = (arrival.packet for arrival in first if arrival.packet.stream is self._audio)
            self._recorder.learn_audio(next(sound, None))
        for arrival in first:
            self._take(arrival, pts_s.get(id(arrival)))

    def take_packet(self, arrival: Arrival) -> None:
        """Takes the next packet."""
        self._take(arrival, self._seconds(arrival.packet, arrival.packet.pts))

    def finish_recording(self) -> None:
        """Finishes the present recording. The next keyframe begins another."""
        self._record(lambda recorder: recorder.end_file())

    def stop_recording(self, wait_s: float) -> None:
        """Finishes the present recording for good; another thread may call this. Waits `wait_s` at most."""
        if self._recording.acquire(timeout=wait_s):
            try:
                if self._recorder is not None:
                    self._tell_recorded(self._recorder, self._recorder.end_file)
                    self._recorder = None
            finally:
                self._recording.release()

    def close(self) -> None:
        """Finishes the recording and closes the spool. Slots that are not decided stay gaps."""
        self.finish_recording()
        self._spool.close()
        self._count(self._counted_at_s)

    def _take(self, arrival: Arrival, pts_s: float | None) -> None:
        packet = arrival.packet
        at_s, step_s = self._anchor.place_arrival(arrival.monotonic_s, arrival.utc_s)
        if step_s:
            self._step(step_s, at_s)
        dts_s = self._seconds(packet, packet.dts) if pts_s is not None else None
        time = self._clocks[packet.stream.index].time_packet(at_s, pts_s, dts_s)
        if packet.stream.index != self._video.index:
            self._record(lambda recorder: recorder.add_audio(packet, time.t_s))
            return
        if time.jump is not None:
            self._send(SenderJumped(time.jump.kind, time.jump.seconds, at_s))
            self.finish_recording()
        self._take_video(packet, time)
        self._packets += 1
        self._count_rate(arrival.monotonic_s)
        if arrival.monotonic_s - self._counted_at_s >= STATISTICS_S:
            self._count(arrival.monotonic_s)

    def _take_video(self, packet: "Packet[VideoStream]", time: FrameTime) -> None:
        coded = self._reader.read_frame(bytes(packet))
        if packet.is_keyframe:
            self._note_form(packet, coded)
        if coded.has_picture:
            self._record(lambda recorder: recorder.add_video(packet, time.t_s, time.decoded_s, self._form))
        for sample in self._sampler.add_packet(packet, time.t_s, coded):
            self._keep(sample)

    def _seconds(self, packet: "Packet[Any]", ticks: int | None) -> float | None:
        if ticks is None or not self._has_timestamps:
            return None
        return ticks * self._tick_s[packet.stream.index]

    def _step(self, step_s: float, at_s: float) -> None:
        """The host's clock was set: all begins anew at the new time."""
        self._send(HostClockStepped(step_s, at_s))
        for clock in self._clocks.values():
            clock.restart()
        self._sampler.restart_display(at_s)
        self.finish_recording()

    def _keep(self, sample: SampledPicture) -> None:
        """Makes the pictures of a slot, and spools them."""
        if self._last is None or self._last[0] != sample.number:
            self._last = sample.number, fingerprint_frame(sample.frame)
            self._watch_freeze(self._last[1], sample.t_s)
            self._note_size(sample.frame.width, sample.frame.height)
        picture = self._pictures.make_picture(sample.frame, self._last[1], self._find_aspect())
        segment, place = locate(sample.slot)
        time_s = self._grid.time_s(sample.slot)
        if picture is None:
            self._unwritten += 1
            return
        frame = SpooledFrame(place, time_s, picture.static, picture.model_jpeg, picture.view_jpeg)
        try:
            written = self._spool.append_frame(segment, frame)
        except OSError as error:
            self._unwritten += 1
            self._notice("spool-failed", f"frames cannot be written ({error.strerror}): check the disk of data_dir")
            return
        self._noticed.discard("spool-failed")
        if not written:
            self._unwritten += 1
            return
        self._sampled += 1
        self._static += picture.static
        self._send(FrameSpooled(sample.slot, segment, time_s, picture.static))

    def _watch_freeze(self, fingerprint: int, t_s: float) -> None:
        news = self._freeze.watch_frame(fingerprint, t_s)
        if news is not None:
            self._send(PictureFrozen(news.since_s) if news.frozen else PictureMoving(news.since_s))

    def _find_aspect(self) -> Any:
        return self._video.codec_context.sample_aspect_ratio or self._video.sample_aspect_ratio

    def _note_form(self, keyframe: "Packet[VideoStream]", coded: CodedFrame) -> None:
        """Notices other parameter sets: the camera was set to another resolution or quality."""
        if not coded.parameters or coded.parameters == self._form.parameters:
            return
        size = _measure_keyframe(self._video, keyframe, self._plan.max_pixels)
        if size is not None:
            old = self._form
            self._form = VideoForm(self._codec, *size, coded.parameters)
            if (old.width_px, old.height_px) != size:
                self._tell_opened()

    def _note_size(self, width_px: int, height_px: int) -> None:
        """Notices another size in codecs without parameter sets."""
        if (self._form.width_px, self._form.height_px) != (width_px, height_px):
            self._form = VideoForm(self._codec, width_px, height_px, self._form.parameters)
            self._tell_opened()

    def _announce(self, streams: "Sequence[Stream]") -> None:
        audio = next((stream for stream in streams if stream.type == "audio"), None)
        known = audio is not None and audio.codec_context is not None
        self._audio_codec = name_codec(audio.codec_context.name) if audio is not None and known else None
        self._tell_opened()
        if audio is not None and self._plan.record and self._audio is None:
            self._notice("audio-left-out", f"the recordings are silent: MP4 cannot hold {self._audio_codec} sound")

    def _tell_opened(self) -> None:
        rate = self._video.average_rate
        fps = float(rate) if rate else None
        self._send(Opened(self._codec, self._form.width_px, self._form.height_px, fps, self._audio_codec))

    def _record(self, add: Callable[[Recorder], Any]) -> None:
        with self._recording:
            recorder = self._recorder
            if recorder is not None:
                self._tell_recorded(recorder, lambda: add(recorder) or [])

    def _tell_recorded(self, recorder: Recorder, work: Callable[[], Sequence[Message]]) -> None:
        """Runs work on the recording. If it fails, capturing goes on, and the next keyframe begins another file."""
        try:
            ended = work()
        except (OSError, ValueError, av.FFmpegError) as error:
            recorder.abandon_file()
            reason = getattr(error, "strerror", None) or type(error).__name__
            self._notice("recording-failed", f"the camera is not recorded ({reason}): check the disk of data_dir")
            return
        for recorded in ended:
            self._noticed.discard("recording-failed")
            self._send(recorded)

    def _notice(self, code: str, message: str) -> None:
        """Reports once, until it goes well again."""
        if code not in self._noticed:
            self._noticed.add(code)
            self._send(Noticed(code, message))

    def _count_rate(self, monotonic_s: float) -> None:
        self._arrived_s.append(monotonic_s)
        while self._arrived_s[0] < monotonic_s - RATE_OVER_S:
            self._arrived_s.popleft()

    def _count(self, monotonic_s: float) -> None:
        self._counted_at_s = monotonic_s
        span_s = self._arrived_s[-1] - self._arrived_s[0] if self._arrived_s else 0.0
        sampler = self._sampler
        self._send(
            Statistics(
                input_fps=(len(self._arrived_s) - 1) / span_s if span_s > 0 else 0.0,
                packets=self._packets,
                decoded=sampler.decoded,
                sampled=self._sampled,
                static=self._static,
                damaged=sampler.damaged,
                late=sampler.late,
                unfilled=sampler.unfilled + self._unwritten,
                held_bytes=sampler.held_bytes,
                recorded_bytes=self._recorder.recorded_bytes if self._recorder is not None else 0,
            )
        )


def _measure_keyframe(video: VideoStream, keyframe: "Packet[VideoStream]", max_pixels: int) -> tuple[int, int] | None:
    """(width, height) of a keyframe, which is decoded for this; None if it cannot be."""
    decoder: Any = av.CodecContext.create(video.codec_context.name, "r")
    decoder.thread_count = 1
    decoder.options = {"max_pixels": str(max_pixels)}
    try:
        for frame in [*decoder.decode(keyframe), *decoder.decode(None)]:
            return frame.width, frame.height
    except av.FFmpegError:
        pass
    return None
