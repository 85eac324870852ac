"""Writes small real videos in which every frame shows its own number."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream
from numpy.typing import NDArray

TICKS = 90_000


def numbered(number: int, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """A picture whose 12 blocks spell `number` in binary."""
    picture = np.zeros((height, width, 3), np.uint8)
    for bit in range(12):
        y, x = bit // 4 * (height // 3), bit % 4 * (width // 4)
        picture[y : y + height // 3, x : x + width // 4] = 235 if number >> bit & 1 else 20
    return picture


def number_of(picture: NDArray[np.uint8]) -> int:
    """The number that a picture spells, even if it was resized."""
    height, width = picture.shape[:2]
    rows, columns = [int(height * (r + 0.5) / 3) for r in range(3)], [int(width * (c + 0.5) / 4) for c in range(4)]
    return sum(1 << bit for bit in range(12) if picture[rows[bit // 4], columns[bit % 4]].mean() > 128)


def write_video(
    path: Path,
    times_s: Sequence[float],
    *,
    codec: str = "libx264",
    size: tuple[int, int] = (64, 48),
    options: dict[str, str] | None = None,
    sound: bool = False,
    sound_s: float | None = None,
    ticks: int = TICKS,
) -> Path:
    """Writes a video with one numbered frame at each of `times_s`. The file name decides the container."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "25", "bf": "2"} if options is None else options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, ticks)
        if sound:
            _add_silence(container, sound_s or times_s[-1])
        for number, t in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(numbered(number, *size), format="rgb24")
            frame.pts, frame.time_base = round(t * ticks), Fraction(1, ticks)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path, seconds: float) -> Path:
    """Writes a file that holds only sound."""
    with av.open(str(path), "w") as container:
        _add_silence(container, seconds)
    return path


def _add_silence(container: av.container.OutputContainer, seconds: float) -> None:
    stream = container.add_stream("aac", rate=16_000, layout="mono")
    assert isinstance(stream, AudioStream)
    for k in range(int(seconds * 16_000 / 1024)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, k * 1024
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def steady(seconds: float, fps: float = 25.0, start_s: float = 0.0) -> list[float]:
    """Frame times at a constant rate."""
    return [start_s + k / fps for k in range(round(seconds * fps))]
