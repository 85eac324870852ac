"""Opens a video file and reads what it says about itself. The limits hold whatever it says."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from configs.settings import IngestSettings
from ingest.errors import SourceTooLarge, SourceUnavailable, UnsupportedSource
from ingest.files.frame_encoding import count_quarter_turns
from storage.text import escape_controls

log = logging.getLogger(__name__)

# Playlists (hls, dash, concat, sdp) make FFmpeg open further addresses and files, so none of them is in this list.
DEMUXERS = "mov,matroska,webm,mpegts,mpeg,mpegvideo,avi,flv,ogg,asf,mxf"
CODED_BEYOND_SHOWN = 2  # coded pictures are padded to whole blocks, so a decoder may exceed the limit on shown ones
MAX_PIXEL_ASPECT = 8.0  # anamorphic video has up to 2


@dataclass(frozen=True)
class SourceInfo:
    """What a file says about its video or image; width and height as displayed."""

    width_px: int
    height_px: int
    duration_s: float | None
    fps: float | None
    codec: str
    rotation_deg: int
    pixel_aspect: float = 1.0  # how many times as wide as high a pixel is shown, before rotation


@contextmanager
def open_video(path: Path, settings: IngestSettings) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its first stream of pictures. Raises UnsupportedSource, SourceUnavailable."""
    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
    # Set for FFmpeg's probing and for our decoder, because pictures may grow within the file.
    limit = {"max_pixels": str(CODED_BEYOND_SHOWN * settings.max_frame_pixels)}
    try:
        container = _container(path, options, [limit] * settings.max_streams)
    except FileNotFoundError as error:
        raise SourceUnavailable(f"there is no file {escape_controls(path.name)}") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnsupportedSource(
            f"this is not a video file that can be read, nor a JPEG, PNG or WebP image ({reason}); "
            "playlists and streams are not supported"
        ) from error
    with container:
        stream = next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)
        if stream is None:
            raise UnsupportedSource("the file has no moving picture: it holds sound only")
        if stream.codec_context is None:
            raise UnsupportedSource("the video's codec is not supported")
        stream.codec_context.options = limit
        yield container, stream


def describe_video(path: Path, settings: IngestSettings) -> SourceInfo:
    """What the file says about itself, and how its first frame that can be decoded is rotated.

    Raises UnsupportedSource, SourceUnavailable, SourceTooLarge.
    """
    with open_video(path, settings) as (container, stream):
        width, height = stream.codec_context.width, stream.codec_context.height
        if width <= 0 or height <= 0:
            raise UnsupportedSource("the file does not say how large its pictures are: it is cut off or not a video")
        if len(container.streams) > settings.max_streams:
            raise SourceTooLarge(f"the file has {len(container.streams)} streams (ingest.max_streams)")
        if width * height > settings.max_frame_pixels:
            raise SourceTooLarge(
                f"frames of {width}x{height} are larger than {settings.max_frame_pixels} pixels "
                "(ingest.max_frame_pixels)"
            )
        rate = stream.average_rate or stream.guessed_rate
        duration_s, codec = _duration_s(container, stream), stream.codec_context.name
        check_duration(duration_s or 0.0, settings)
        aspect = _pixel_aspect(stream)
        turns = _turns(container, stream)
    width = max(round(width * aspect), 1)
    if turns % 2:
        width, height = height, width
    return SourceInfo(width, height, duration_s, float(rate) if rate else None, codec, turns * 90, aspect)


def check_duration(duration_s: float, settings: IngestSettings) -> None:
    """Raises SourceTooLarge."""
    if duration_s > settings.max_duration_s:
        raise SourceTooLarge(f"the video lasts {duration_s:.0f} s (ingest.max_duration_s)")


def find_last_end_s(container: InputContainer) -> float:
    """When the last packet of any stream ends, in seconds from the start of the first."""
    begin_s, end_s = math.inf, -math.inf
    try:
        for packet in container.demux():
            time = packet.pts if packet.pts is not None else packet.dts
            if packet.size and time is not None and packet.time_base is not None:
                begin_s = min(begin_s, float(time * packet.time_base))
                end_s = max(end_s, float((time + (packet.duration or 0)) * packet.time_base))
    except av.FFmpegError as error:
        log.warning("%s: the file is damaged: %s", escape_controls(container.name), error)
    return max(end_s - begin_s, 0.0)


def _container(path: Path, options: dict[str, str], limits: list[dict[str, str]]) -> InputContainer:
    try:
        return av.open(f"file:{path}", options=options, stream_options=limits)  # type: ignore[arg-type]
    except av.FFmpegError:
        raise
    except ValueError:  # FFmpeg finds the streams of FLV and MPEG-PS only by probing, without a limit
        return av.open(f"file:{path}", options=options)


def _duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    """The shorter of two: the stream's may include what an edit hides, the file's a longer sound track."""
    known = []
    if stream.duration is not None and stream.time_base is not None:
        known.append(float(stream.duration * stream.time_base))
    if container.duration is not None:
        known.append(container.duration / av.time_base)
    return min(known, default=None)


def _pixel_aspect(stream: VideoStream) -> float:
    """The pixels' width / height as the file says; 1.0 if it says nothing or nonsense."""
    aspect = float(stream.sample_aspect_ratio or 1)
    return aspect if 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT else 1.0


def _turns(container: InputContainer, stream: VideoStream) -> int:
    for packet in container.demux(stream):
        try:
            for frame in packet.decode():
                return count_quarter_turns(frame)
        except av.FFmpegError as error:
            log.warning("%s: %s", escape_controls(container.name), error)
    raise UnsupportedSource(f"the file holds no picture that can be decoded ({stream.codec_context.name})")
