"""Films small real streams, and feeds their packets to the parts of a camera's child at chosen arrival times."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ingest.cameras.coded_frames import FrameReader
from ingest.cameras.live_sampling import LiveSampler, Mode, SampledPicture
from storage.timeline import Grid
from tests.media import number_of, numbered, steady, write_video

FPS = 15.0
CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"g": "30", "bf": "0", "sc_threshold": "0"}),
    "b-frames": ("libx264", {"g": "30", "bf": "3", "sc_threshold": "0"}),
    "one reference": ("libx264", {"g": "30", "bf": "2", "x264-params": "b-pyramid=none:open-gop=0"}),
    "open gop": ("libx264", {"g": "30", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}),
    "10 s apart": ("libx264", {"g": "150", "bf": "0", "sc_threshold": "0"}),
    "h265": ("libx265", {"x265-params": "keyint=30:bframes=0:log-level=none"}),
    "h265 b-frames": ("libx265", {"x265-params": "keyint=30:bframes=3:log-level=none"}),  # open GOPs
    "mjpeg": ("mjpeg", {}),
}


@dataclass(frozen=True, eq=False)
class Filmed:
    """A packet with the number of its frame."""

    packet: Any
    number: int
    t_s: float  # when it is shown


def film(path: Path, kind: str, seconds: float, *, fps: float = FPS, size: tuple[int, int] = (64, 48)) -> Path:
    """Writes frames 0, 1, 2 ... as MPEG-TS, whose packets look like those of a camera; MJPEG as Matroska."""
    codec, options = CODECS[kind]
    path = path.with_suffix(".mkv" if codec == "mjpeg" else ".ts")
    return write_video(path, steady(seconds, fps), codec=codec, options=options, size=size)


def film_noise(path: Path, codec: str, options: dict[str, str], frames: int) -> Path:
    """Writes frames in which everything moves, so that a wrong reference shows."""
    noise = np.random.default_rng(1).integers(0, 60, (96, 128 * 2, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=15, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(frames):
            picture = numbered(number, 128, 96) // 2 + np.roll(noise, number * 3, axis=1)[:, :128]
            container.mux(stream.encode(VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def play(path: Path, fps: float = FPS) -> tuple[VideoStream, Iterator[Filmed]]:
    """The file's video, and its packets in decoding order. The file stays open as long as they do."""
    container = av.open(str(path))
    video = container.streams.video[0]
    video.codec_context.thread_count = 1

    def packets() -> Iterator[Filmed]:
        first = None
        with container:
            for packet in container.demux(video):
                if packet.size and packet.pts is not None:
                    t_s = float(packet.pts * packet.time_base)
                    first = t_s if first is None else first
                    yield Filmed(packet, round((t_s - first) * fps), t_s - first)

    return video, packets()


def sample(
    video: VideoStream,
    packets: Iterable[Filmed],
    sample_fps: float,
    mode: Mode = "exact",
    *,
    first_slot: int = 0,
    max_held_bytes: int = 1 << 26,
) -> tuple[LiveSampler, list[SampledPicture]]:
    """What a sampler makes of the packets, if each frame is shown at its `t_s`."""
    decoder = video.codec_context
    sampler = LiveSampler(decoder, Grid(sample_fps), mode, first_slot, max_held_bytes)
    reader = FrameReader(decoder.name, decoder.extradata)
    samples = []
    for filmed in packets:
        samples += sampler.add_packet(filmed.packet, filmed.t_s, reader.read_frame(bytes(filmed.packet)))
    return sampler, samples


def number_in(frame: VideoFrame) -> int:
    """The number that a decoded frame shows."""
    return number_of(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))


def copy_packet(filmed: Filmed, data: bytes) -> Filmed:
    """The packet with other content."""
    old, new = filmed.packet, av.Packet(data)
    new.pts, new.dts, new.time_base, new.stream = old.pts, old.dts, old.time_base, old.stream
    new.is_keyframe = old.is_keyframe
    return Filmed(new, filmed.number, filmed.t_s)
