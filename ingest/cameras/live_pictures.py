"""Makes the two pictures of each sampled frame of a camera; notices frames that hardly change, or do not at all."""

import zlib
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
from av.video.frame import VideoFrame

from ingest.files.frame_encoding import FrameConverter, FramePictures, PictureSettings
from ingest.files.scaling import Picture

GREY_SIDE_PX = 64  # of the copy that frames are compared by: noise of single pixels averages out
MAX_PIXEL_ASPECT = 8.0  # as for files: anamorphic video has up to 2


@dataclass(frozen=True)
class LivePicture:
    """What the spool keeps of a frame."""

    model_jpeg: bytes
    view_jpeg: bytes
    static: bool


@dataclass(frozen=True)
class Stillness:
    """A picture that was found to be frozen, or to move again."""

    frozen: bool
    since_s: float  # when the picture last changed


class PictureMaker:
    """Makes the pictures of one connection's frames, in time order."""

    def __init__(self, settings: PictureSettings, static_threshold: float) -> None:
        self._settings = settings
        self._static_threshold = static_threshold
        self._shape: tuple[int, int, float] | None = None
        self._converter = FrameConverter(1.0, settings)
        self._reference: np.ndarray | None = None  # small grey copy of the last frame that was not static
        self._last: tuple[int, FramePictures] | None = None  # (fingerprint, pictures)

    def make_picture(self, frame: VideoFrame, fingerprint: int, aspect: Fraction | None) -> LivePicture | None:
        """The pictures of the frame; None if it is too damaged. Equal frames are converted and packed once."""
        if self._last is None or self._last[0] != fingerprint:
            pictures = self._converter_for(frame, aspect).convert_frame(frame)
            if pictures is None:
                return None
            self._last = fingerprint, pictures
        pictures = self._last[1]
        return LivePicture(pictures.model_jpeg, pictures.view_jpeg or b"", self._is_static(pictures.model))

    def _converter_for(self, frame: VideoFrame, aspect: Fraction | None) -> FrameConverter:
        shape = frame.width, frame.height, _pixel_aspect(aspect)
        if shape != self._shape:
            self._shape, self._converter = shape, FrameConverter(shape[2], self._settings)
        return self._converter

    def _is_static(self, model: Picture) -> bool:
        if self._static_threshold <= 0:
            return False
        small = cv2.resize(model, (GREY_SIDE_PX, GREY_SIDE_PX), interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.int16)
        if self._reference is not None and abs(grey - self._reference).mean() < self._static_threshold:
            return True
        self._reference = grey
        return False


class FreezeWatch:
    """Tells when frames have not changed by a single bit for `frozen_s`, and when they change again."""

    def __init__(self, frozen_s: float) -> None:
        self._frozen_s = frozen_s
        self._fingerprint: int | None = None
        self._since_s = 0.0
        self._frozen = False

    def watch_frame(self, fingerprint: int, t_s: float) -> Stillness | None:
        """Takes the next decoded frame; returns news, if there are any. The same coded frame counts once."""
        if fingerprint != self._fingerprint:
            news = Stillness(False, t_s) if self._frozen else None
            self._fingerprint, self._since_s, self._frozen = fingerprint, t_s, False
            return news
        if self._frozen or t_s - self._since_s < self._frozen_s:
            return None
        self._frozen = True
        return Stillness(True, self._since_s)


def fingerprint_frame(frame: VideoFrame) -> int:
    """The same number for frames that do not differ by a single bit."""
    crc = zlib.crc32(f"{frame.format.name} {frame.width}x{frame.height}".encode())
    for index, plane in enumerate(frame.planes):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        row_bytes = min(plane.width * _sample_bytes(frame, index), plane.line_size)
        crc = zlib.crc32(rows[:, :row_bytes].tobytes(), crc)  # what lies behind a row is left to chance
    return crc


def _sample_bytes(frame: VideoFrame, plane: int) -> int:
    """Bytes of one place in a row of the plane: a sample, or several if components share the plane."""
    depth = 2 if frame.format.components[0].bits > 8 else 1
    planes = len(frame.planes)
    if planes == 1:
        return max(frame.format.bits_per_pixel // 8, depth)
    return depth * 2 if planes == 2 and plane == 1 else depth  # nv12 and the like


def _pixel_aspect(aspect: Fraction | None) -> float:
    value = float(aspect or 1)
    return value if 1 / MAX_PIXEL_ASPECT <= value <= MAX_PIXEL_ASPECT else 1.0
