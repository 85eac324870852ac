"""Copies a camera's coded packets, without decoding them, into one fragmented MP4 file per segment.

A file begins with the first keyframe at or after its segment's start, and ends before the next file's. It is complete
up to its last fragment (a group of pictures) at any time, so a killed process loses a few seconds at most. The times in
it count from the stream's start, so that files can be played one after the other.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.packet import Packet as CodedPacket
from av.stream import Stream
from av.video.stream import VideoStream

from ingest.cameras.camera_messages import Recorded
from playback.boxes import cut_torn_tail
from storage.errors import DamagedFile
from storage.timeline import Grid, locate

TICKS = 90_000
PARTIAL = ".part"
ADTS_BYTES = 7
MP4_OPTIONS = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof+frag_discont+skip_trailer",
    "use_editlist": "0",  # with the next line and frag_discont: times stay as they are
    "avoid_negative_ts": "make_non_negative",
    "max_interleave_delta": "1000000",  # µs; without it, video waits 10 s for sound that stopped
    "flush_packets": "1",
}
COPIED_AUDIO = ("aac", "mp3", "mp3float", "opus", "libopus")  # what MP4 holds and browsers play
CODEC_NAMES = {"mp3float": "mp3", "libopus": "opus", "libdav1d": "av1"}


@dataclass(frozen=True)
class VideoForm:
    """What the head of a file says of the video."""

    codec: str
    width_px: int
    height_px: int
    parameters: bytes  # parameter sets: H.264 and H.265 cannot be decoded without


class Recorder:
    """Records one connection. A failure ends only the present file; it is tried again at the next keyframe."""

    def __init__(self, folder: Path, grid: Grid, video: VideoStream, audio: "Stream | None") -> None:
        self._folder = folder
        self._grid = grid
        self._video = video
        self._audio = audio
        self._file: _RecordingFile | None = None
        self._form: VideoForm | None = None
        self._sound_form = audio.codec_context.extradata or b"" if audio is not None else b""
        self.recorded_bytes = 0

    def add_video(
        self, packet: "CodedPacket[VideoStream]", t_s: float, decoded_s: float, form: VideoForm
    ) -> list[Recorded]:
        """Takes the next video packet; returns the file that it ended, if any. Raises OSError, av.FFmpegError."""
        ended: list[Recorded] = []
        if packet.is_keyframe:
            segment, _ = locate(self._grid.slot_at(t_s))
            if self._file is None or segment != self._file.segment or form != self._form:
                ended = self.end_file()
                self._form = form
                self._file = _RecordingFile(
                    self._folder, segment, t_s, self._video, self._audio, form, self._sound_form
                )
        if self._file is not None:
            size = packet.size
            self._file.write_video(packet, t_s, decoded_s)
            self.recorded_bytes += size
        return ended

    def learn_audio(self, packet: "CodedPacket[Any] | None") -> None:
        """Learns from an audio packet what the head of a file must say. Files that began before stay silent."""
        if packet is not None and not self._sound_form and _has_adts(data := bytes(packet)):
            self._sound_form = _describe_aac(data)

    def add_audio(self, packet: "CodedPacket[Any]", t_s: float) -> None:
        """Takes the next audio packet. Raises OSError, av.FFmpegError."""
        data = bytes(packet)
        if packet.stream.codec_context.name == "aac" and _has_adts(data):
            self.learn_audio(packet)
            data = data[ADTS_BYTES if data[1] & 1 else ADTS_BYTES + 2 :]  # with a checksum if the bit is 0
        if self._file is not None:
            self._file.write_audio(data, t_s)
            self.recorded_bytes += len(data)

    def end_file(self) -> list[Recorded]:
        """Finishes the present file; the next keyframe begins another. Raises OSError, av.FFmpegError."""
        file, self._file = self._file, None
        return [] if file is None else file.finish()

    def abandon_file(self) -> None:
        """Leaves the present file as it is, after an error; `finish_partial_recordings` finds what is in it."""
        self._file = None


def finish_partial_recordings(folder: Path) -> list[Recorded]:
    """Finishes the recordings that killed processes left in a stream's spool folder. Removes those without a frame."""
    found = []
    for path in sorted(folder.glob(f"*.mp4{PARTIAL}")):
        segment, _, start_ms = path.name.removesuffix(f".mp4{PARTIAL}").partition("-")
        if not (segment.isdecimal() and start_ms.isdecimal()):
            continue
        codec, duration_ms = _measure(path, int(start_ms))
        if duration_ms <= 0:
            path.unlink()
            continue
        found.append(_give_name(path, int(segment), int(start_ms), duration_ms, codec))
    return found


def find_audio_to_copy(streams: "Sequence[Stream]") -> "Stream | None":
    """The first audio stream if MP4 can hold it, else None."""
    audio = next((stream for stream in streams if stream.type == "audio"), None)
    if audio is None or audio.codec_context is None or audio.codec_context.name not in COPIED_AUDIO:
        return None
    return audio


def _has_adts(data: bytes) -> bool:
    """Whether the AAC packet has a head of its own, as in MPEG-TS (ISO/IEC 13818-7, 6.2)."""
    return len(data) > ADTS_BYTES and data[0] == 0xFF and data[1] & 0xF6 == 0xF0


def _describe_aac(data: bytes) -> bytes:
    """The AudioSpecificConfig (ISO/IEC 14496-3, 1.6.2.1) for what the ADTS head says."""
    kind, rate, channels = (data[2] >> 6) + 1, data[2] >> 2 & 15, (data[2] & 1) << 2 | data[3] >> 6
    return (kind << 11 | rate << 7 | channels << 3).to_bytes(2, "big")


def name_codec(name: str) -> str:
    """The codec's name, whatever its decoder is called."""
    return CODEC_NAMES.get(name, name)


class _RecordingFile:
    """One file in progress."""

    def __init__(
        self,
        folder: Path,
        segment: int,
        t_s: float,
        video: VideoStream,
        audio: "Stream | None",
        form: VideoForm,
        sound_form: bytes,
    ) -> None:
        self.segment = segment
        self._start_s = t_s
        self._start_ms = max(round(t_s * 1000), 0)
        self._codec = form.codec
        self._end_ticks = 0
        self._last_ticks: dict[int, int] = {}
        self._usual_ticks = TICKS // 25  # how long the last frame is shown
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{segment:06d}-{self._start_ms}.mp4{PARTIAL}"
        self._container = av.open(str(self._path), "w", format="mp4", options=dict(MP4_OPTIONS))
        try:
            self._video = self._container.add_stream_from_template(video)
            context = self._video.codec_context
            context.width, context.height = form.width_px, form.height_px
            if form.parameters:
                context.extradata = form.parameters
            if form.codec == "hevc":
                context.codec_tag = "hvc1"  # Apple plays no other
            self._video.time_base = context.time_base = Fraction(1, TICKS)
            self._audio = None
            if audio is not None and (sound_form or audio.codec_context.name != "aac"):
                self._audio = self._container.add_stream_from_template(audio)
                if sound_form:
                    self._audio.codec_context.extradata = sound_form
            self._container.start_encoding()
        except BaseException:
            self._container.close()
            self._path.unlink(missing_ok=True)
            raise

    def write_video(self, packet: "CodedPacket[VideoStream]", t_s: float, decoded_s: float) -> None:
        shown, decoded = self._ticks(t_s), self._ticks(min(decoded_s, t_s))
        last = self._last_ticks.get(0)
        if last is not None:
            decoded = max(decoded, last + 1)
            self._usual_ticks = min(max(decoded - last, 1), TICKS)
        self._last_ticks[0] = decoded
        packet.time_base = Fraction(1, TICKS)
        packet.pts, packet.dts, packet.duration = max(shown, decoded), decoded, self._usual_ticks
        self._end_ticks = max(self._end_ticks, packet.pts)
        packet.stream = self._video
        self._container.mux(packet)

    def write_audio(self, data: bytes, t_s: float) -> None:
        if self._audio is None or t_s < self._start_s:
            return
        ticks = self._ticks(t_s)
        last = self._last_ticks.get(1)
        ticks = ticks if last is None else max(ticks, last + 1)
        self._last_ticks[1] = ticks
        packet = CodedPacket(data)
        packet.time_base, packet.pts, packet.dts = Fraction(1, TICKS), ticks, ticks
        packet.stream = self._audio
        self._container.mux(packet)

    def finish(self) -> list[Recorded]:
        self._container.close()
        duration_ms = math.ceil((self._end_ticks + self._usual_ticks) * 1000 / TICKS) - self._start_ms
        return [_give_name(self._path, self.segment, self._start_ms, duration_ms, self._codec)]

    def _ticks(self, t_s: float) -> int:
        return max(round(t_s * TICKS), 0)


def _measure(path: Path, start_ms: int) -> tuple[str, int]:
    """(codec, duration in ms) of the video in a file that may be cut off; a duration of 0 if there is none."""
    try:
        cut_torn_tail(path)
        with av.open(str(path), options={"format_whitelist": "mov", "protocol_whitelist": "file"}) as container:
            video = container.streams.video[0]
            times: list[int] = []
            with suppress(av.FFmpegError):  # torn at the end
                times += (packet.pts for packet in container.demux(video) if packet.pts is not None and packet.size)
            if not times or video.time_base is None:
                return "", 0
            usual = (max(times) - min(times)) / max(len(times) - 1, 1)
            end_ms = math.ceil((max(times) + usual) * video.time_base * 1000)
            return name_codec(video.codec_context.name), end_ms - start_ms
    except (av.FFmpegError, DamagedFile, IndexError, ValueError):
        return "", 0


def _give_name(path: Path, segment: int, start_ms: int, duration_ms: int, codec: str) -> Recorded:
    finished = path.with_name(f"{segment:06d}-{start_ms}-{duration_ms}-{codec}.mp4")
    path.rename(finished)
    return Recorded(finished.name, segment, start_ms, duration_ms, codec, finished.stat().st_size)
