"""Opens a video file and samples it: with `ingest.index` the only user of PyAV."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from configs.settings import IngestSettings
from ingest.errors import SourceTooLarge, SourceUnavailable, UnsupportedSource
from ingest.index import coded_packets, list_packets
from ingest.pictures import Picture, squeezed
from ingest.sampling import Packets, nearest, needed_packets, on_display, target_times

log = logging.getLogger(__name__)

# Playlists (hls, dash, concat, sdp) make FFmpeg open further addresses and files: none of them is in this list.
DEMUXERS = "mov,matroska,webm,mpegts,mpeg,mpegvideo,avi,flv,ogg,asf,mxf"
AT_THE_END = (True, False, None)  # has the decoder hand out what it still holds
ENDED_EARLY_S = 1.5  # containers round their duration; what is missing beyond this was cut off


@dataclass(frozen=True)
class SourceInfo:
    """What the file says of its video; width and height as displayed."""

    width_px: int
    height_px: int
    duration_s: float | None
    fps: float | None
    codec: str
    rotation_deg: int


@dataclass(frozen=True)
class SampledFrame:
    """One kept frame: its index among the kept ones, the time it stands for, and RGB (336,336,3)."""

    index: int
    timestamp_s: float
    picture: Picture


class VideoSource:
    """An open file; `truncated` says, once sampled, where and why it ended early."""

    def __init__(self, path: Path, settings: IngestSettings, packets: Packets, info: SourceInfo) -> None:
        self.info = info
        self.truncated: str | None = None
        self._path = path
        self._settings = settings
        self._packets = packets

    def sample(self, sample_fps: float, *, mode: str = "exact", start_index: int = 0) -> Iterator[SampledFrame]:
        """Frames from number `start_index` on; the first stands for 0.5 s at 1 fps (see `sampling.target_times`).

        "exact" gives the frame on display at each target; "keyframes" the nearest keyframe, for a tenth of the work.
        Damaged frames are passed over: the one before stands in.
        """
        with _opened(self._path) as (container, stream):
            base = float(stream.time_base or 0)
            pts = self._packets.pts
            shown = np.unique(pts if mode == "exact" else pts[self._packets.key])
            times_s = (shown - pts.min()) * base
            self.truncated = _cut_off(self.info.duration_s, self._last_s(base))
            targets_s = target_times(self._end_s(base), sample_fps)
            chosen = (on_display if mode == "exact" else nearest)(times_s, targets_s)
            wanted = shown[chosen][start_index:]
            frames = self._decoded(container, stream, wanted, mode)
            yield from _matched(frames, wanted.tolist(), targets_s.tolist(), start_index)

    def _decoded(
        self, container: InputContainer, stream: VideoStream, wanted: NDArray[np.int64], mode: str
    ) -> Iterator[VideoFrame]:
        """Decodes what is needed for the frames with a pts in `wanted`; others may come along."""
        if not len(wanted):
            return
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = self._settings.decoder_threads
        if mode == "keyframes":
            needed = self._packets.key & np.isin(self._packets.pts, wanted)
        else:
            needed = needed_packets(self._packets, wanted)
        decoder, gap = stream.codec_context, False
        packets = zip(needed, self._packets.clean, coded_packets(container, stream), strict=False)
        for need, clean, packet in chain(packets, [AT_THE_END]):
            if not need:
                gap = True
                continue
            try:
                if gap and clean:
                    # Across a gap the decoder may forget what it still holds back for reordering: have it out first.
                    yield from decoder.decode(None)
                    decoder.flush_buffers()
                gap = False
                yield from decoder.decode(packet)
            except av.FFmpegError as error:
                log.warning("%s: a damaged frame is passed over: %s", self._path.name, error)

    def _last_s(self, base: float) -> float:
        return float(np.ptp(self._packets.pts) * base)

    def _end_s(self, base: float) -> float:
        """When the last frame that is there ends."""
        held = 1 / self.info.fps if self.info.fps else 0.04
        return self._last_s(base) + held


@contextmanager
def open_source(path: Path, settings: IngestSettings) -> Iterator[VideoSource]:
    """The video in the file at `path`, checked against the limits.

    Raises UnsupportedSource, SourceUnavailable, SourceTooLarge.
    """
    with _opened(path) as (container, stream):
        info = _info(container, stream)
        if len(container.streams) > settings.max_streams:
            raise SourceTooLarge(f"the file has {len(container.streams)} streams (ingest.max_streams)")
        if info.width_px * info.height_px > settings.max_frame_pixels:
            raise SourceTooLarge(
                f"frames of {info.width_px}x{info.height_px} are larger than {settings.max_frame_pixels} pixels "
                "(ingest.max_frame_pixels)"
            )
        if info.duration_s is not None and info.duration_s > settings.max_duration_s:
            raise SourceTooLarge(f"the video lasts {info.duration_s:.0f} s (ingest.max_duration_s)")
        packets = Packets.of(list_packets(container, stream))
    if not len(packets):
        raise UnsupportedSource("the file holds no frame of video")
    info = _upright(path, info)
    yield VideoSource(path, settings, packets, info)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
    try:
        container = av.open(f"file:{path}", options=options)
    except FileNotFoundError as error:
        raise SourceUnavailable(f"there is no file {path.name}") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UnsupportedSource(
            f"this is no video file that can be read ({getattr(error, 'strerror', None) or error}); "
            "playlists and streams are not taken either"
        ) from error
    with container:
        if not container.streams.video:
            raise UnsupportedSource(f"{path.name} has no picture: it holds sound only")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise UnsupportedSource(f"{path.name} has a picture in a codec that is not known here")
        yield container, stream


def _info(container: InputContainer, stream: VideoStream) -> SourceInfo:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width <= 0 or height <= 0:
        raise UnsupportedSource("the file does not say how large its pictures are: it is cut off or no video")
    duration_s = None
    if stream.duration is not None and stream.time_base is not None:
        duration_s = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        duration_s = container.duration / av.time_base
    rate = stream.average_rate or stream.guessed_rate
    return SourceInfo(width, height, duration_s, float(rate) if rate else None, stream.codec_context.name, 0)


def _upright(path: Path, info: SourceInfo) -> SourceInfo:
    """With rotation and displayed size from the first frame that decodes; raises UnsupportedSource without one."""
    with _opened(path) as (container, stream):
        for packet in container.demux(stream):
            try:
                for frame in packet.decode():
                    turns = _quarter_turns(frame)
                    wide, high = (info.height_px, info.width_px) if turns % 2 else (info.width_px, info.height_px)
                    return replace(info, width_px=wide, height_px=high, rotation_deg=turns * 90)
            except av.FFmpegError as error:
                log.warning("%s: %s", path.name, error)
    raise UnsupportedSource(f"{path.name} holds no picture that can be decoded ({info.codec})")


def _matched(
    frames: Iterator[VideoFrame], wanted: Sequence[int], targets_s: Sequence[float], start_index: int
) -> Iterator[SampledFrame]:
    """Gives each wanted pts its picture, both in the order of time; a lost frame's neighbour stands in for it."""
    index, held, held_pts = 0, None, None
    converter = VideoReformatter()  # one for all frames: each of its own would set up the conversion anew
    for frame in frames:
        while index < len(wanted) and frame.pts is not None and wanted[index] <= frame.pts:
            if held is None or (wanted[index] == frame.pts != held_pts):
                held, held_pts = _picture(frame, converter), frame.pts
            yield SampledFrame(start_index + index, targets_s[start_index + index], held)
            index += 1
        if index == len(wanted):
            return
    while index < len(wanted) and held is not None:
        yield SampledFrame(start_index + index, targets_s[start_index + index], held)
        index += 1


def _picture(frame: VideoFrame, converter: VideoReformatter) -> Picture:
    """RGB (336,336,3), turned as the file asks for."""
    rgb = converter.reformat(frame, format="rgb24", threads=1)  # more would wait for each other
    return squeezed(np.rot90(rgb.to_ndarray(), _quarter_turns(frame)))


def _quarter_turns(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns that show the frame upright."""
    return round(frame.rotation / 90) % 4


def _cut_off(duration_s: float | None, last_s: float) -> str | None:
    if duration_s is None or last_s > duration_s - ENDED_EARLY_S:
        return None
    return f"the file ends at {last_s:.1f} s of {duration_s:.1f} s: it was cut off or is damaged there"
