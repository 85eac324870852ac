"""Makes a film of sampled pictures: H.264 in fragmented MP4, each picture at its own time, written as it is encoded."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

TICKS = 90_000
KEYFRAME_PICTURES = 16  # players jump to keyframes only
ENCODER = {"preset": "veryfast", "crf": "23", "bf": "0", "g": f"{KEYFRAME_PICTURES}", "x264-params": "log-level=none"}
MP4_OPTIONS = {"movflags": "frag_keyframe+empty_moov+default_base_moof+skip_trailer"}
MOST_PX = 4096  # libx264's level 5.2 plays everywhere up to this

Pixels = NDArray[np.uint8]


class TimedPicture(NamedTuple):
    """A picture and when it begins to be shown."""

    t_s: float
    jpeg: bytes


class _Buffer:
    """A file that is written once, from beginning to end."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._chunks.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        chunks, self._chunks = self._chunks, []
        return b"".join(chunks)


class Film(NamedTuple):
    """A film that is encoded as its pieces are taken."""

    start_s: float  # when its first picture begins to be shown
    pieces: Iterator[bytes]


def make_film(pictures: Iterable[TimedPicture], frame_s: float) -> Film | None:
    """The film; None if there is no picture. The first picture's size is the film's; others are fitted into it.

    Each picture stays until the next one; the last one for `frame_s`. Damaged ones are left out.
    """
    decoded = ((picture.t_s, found) for picture in pictures if (found := decode_picture(picture.jpeg)) is not None)
    first = next(decoded, None)
    return None if first is None else Film(first[0], _encode(first, decoded, frame_s))


def _encode(first: tuple[float, Pixels], others: Iterable[tuple[float, Pixels]], frame_s: float) -> Iterator[bytes]:
    start_s, pixels = first
    buffer = _Buffer()
    size = _find_size(pixels)
    with av.open(buffer, "w", format="mp4", options=MP4_OPTIONS) as container:
        stream = container.add_stream("libx264", rate=25, options=ENCODER)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = stream.time_base = Fraction(1, TICKS)
        last = -1
        for t_s, picture in chain([first], others):
            frame = VideoFrame.from_ndarray(fit_picture(picture, size), format="bgr24")
            last = max(round((t_s - start_s) * TICKS), last + 1)
            frame.pts, frame.time_base, frame.duration = last, Fraction(1, TICKS), round(frame_s * TICKS)
            container.mux(stream.encode(frame))
            if content := buffer.take():
                yield content
        container.mux(stream.encode(None))
    yield buffer.take()


def decode_picture(jpeg: bytes) -> Pixels | None:
    """The pixels (H,W,3), blue first; None if the picture is damaged."""
    found = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    return None if found is None else np.asarray(found, np.uint8)


def fit_picture(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """The picture in a frame of this (width, height), at its own aspect, with black borders."""
    width, height = size
    if pixels.shape[:2] == (height, width):
        return pixels
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    inner = max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1)
    framed = np.zeros((height, width, 3), np.uint8)
    x, y = (width - inner[0]) // 2, (height - inner[1]) // 2
    framed[y : y + inner[1], x : x + inner[0]] = cv2.resize(pixels, inner, interpolation=cv2.INTER_AREA)
    return framed


def _find_size(pixels: Pixels) -> tuple[int, int]:
    """(width, height), both even as 4:2:0 needs, and not too large for players."""
    height, width = pixels.shape[:2]
    scale = min(MOST_PX / max(width, height), 1.0)
    return max(round(width * scale) // 2 * 2, 2), max(round(height * scale) // 2 * 2, 2)
