"""Turns decoded frames into the pictures that are kept: one for the model, one for people."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from ingest.files.scaling import Picture, encode_jpeg, fit_view, squeeze_picture

log = logging.getLogger(__name__)

UNSPECIFIED = 2  # matrix_coefficients: unspecified (ITU-T H.273, table 4)


class PictureSettings(Protocol):
    """How large and how good the pictures are. `IngestSettings` has these, and so has a camera's plan."""

    @property
    def model_side_px(self) -> int:
        """Side of the model's pictures."""

    @property
    def jpeg_quality(self) -> int:
        """Of the model's pictures."""

    @property
    def view_long_side_px(self) -> int:
        """Longest side of the pictures for people; 0: keep none."""

    @property
    def view_jpeg_quality(self) -> int:
        """Of the pictures for people."""


@dataclass(frozen=True)
class EncodedFrame:
    """What the archive keeps for a slot."""

    slot: int
    t_s: float
    model_jpeg: bytes | None  # None for an image: the model sees the original
    view_jpeg: bytes | None  # None if ingest.view_long_side_px is 0


@dataclass(frozen=True, eq=False)
class FramePictures:
    """The small pictures of one decoded frame. A frame that fills several slots is packed only once."""

    model: Picture  # (side,side,3) RGB
    view: Picture | None  # (h,w,3) RGB
    settings: PictureSettings

    @cached_property
    def model_jpeg(self) -> bytes:
        """The model's picture, packed."""
        return encode_jpeg(self.model, self.settings.jpeg_quality)

    @cached_property
    def view_jpeg(self) -> bytes | None:
        """The picture for people, packed."""
        return None if self.view is None else encode_jpeg(self.view, self.settings.view_jpeg_quality)


@dataclass(frozen=True, eq=False)
class SampledFrame:
    """What fills a slot: its number, the time it stands for, and the pictures."""

    slot: int
    t_s: float
    pictures: FramePictures
    exact: bool  # False: the slot's own frame is damaged, and a neighbour's pictures stand in for it

    @property
    def model(self) -> Picture:
        """RGB (side,side,3), squeezed."""
        return self.pictures.model

    @property
    def view(self) -> Picture | None:
        """RGB (h,w,3), in the aspect it is shown in."""
        return self.pictures.view

    def encode(self) -> EncodedFrame:
        """Both pictures as JPEG."""
        return EncodedFrame(self.slot, self.t_s, self.pictures.model_jpeg, self.pictures.view_jpeg)


class FrameConverter:
    """Makes the pictures for the frames of one video, whose pixels are `aspect` times as wide as high."""

    def __init__(self, aspect: float, settings: PictureSettings) -> None:
        self._aspect = aspect
        self._settings = settings
        # One per size for all frames: a frame's own reformatter would set up the conversion each time.
        self._full, self._small = VideoReformatter(), VideoReformatter()

    def convert_frame(self, frame: VideoFrame) -> FramePictures | None:
        """The frame's pictures, turned upright; None if it is too damaged."""
        try:
            return self._convert(frame)
        except av.FFmpegError:
            frame.colorspace = UNSPECIFIED  # FFmpeg's converter does not know the matrix, such as bt2020c
        try:
            return self._convert(frame)
        except av.FFmpegError as error:
            log.warning("skipping a damaged frame: %s", error)
            return None

    def _convert(self, frame: VideoFrame) -> FramePictures:
        turns = count_quarter_turns(frame)
        full = self._full.reformat(frame, format="rgb24", threads=1).to_ndarray()  # more threads wait for each other
        model = squeeze_picture(np.rot90(full, turns), self._settings.model_side_px)
        long_side_px, view = self._settings.view_long_side_px, None
        if long_side_px:
            width, height = fit_view(frame.width, frame.height, self._aspect, long_side_px)
            small = self._small.reformat(
                frame, width, height, format="rgb24", interpolation=Interpolation.AREA, threads=1
            )
            view = np.rot90(small.to_ndarray(), turns).astype(np.uint8, order="C")
        return FramePictures(model, view, self._settings)


def count_quarter_turns(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns that show the frame upright."""
    return round(frame.rotation / 90) % 4


def time_frames_in_turn(frames: Iterable[VideoFrame], times: Sequence[int]) -> Iterator[VideoFrame]:
    """Gives frames without display times the `times`, one after the other.

    The pts of such a frame is the number of its packet. At a keyframe that number tells how many frames came before,
    so if some of them were lost, their times are skipped and later frames keep theirs.
    """
    turn = 0
    for frame in frames:
        if frame.key_frame and frame.pts is not None:
            turn = max(turn, frame.pts)
        if turn < len(times):
            frame.pts = times[turn]
            turn += 1
            yield frame


def match_frames(
    frames: Iterable[VideoFrame],
    wanted: Sequence[int],
    times_s: Sequence[float],
    start_slot: int,
    converter: FrameConverter,
) -> Iterator[SampledFrame]:
    """Gives each wanted pts its pictures, both in time order; a neighbour stands in for a lost frame.

    `wanted` and `times_s` begin with `start_slot`.
    """
    index, held, held_pts = 0, None, None
    for frame in frames:
        while index < len(wanted) and frame.pts is not None and wanted[index] <= frame.pts:
            if held is None or (wanted[index] == frame.pts != held_pts):
                converted = converter.convert_frame(frame)
                if converted is not None:
                    held, held_pts = converted, frame.pts
            if held is None:
                break
            yield SampledFrame(start_slot + index, times_s[index], held, wanted[index] == held_pts)
            index += 1
        if index == len(wanted):
            return
    while index < len(wanted) and held is not None:
        yield SampledFrame(start_slot + index, times_s[index], held, wanted[index] == held_pts)
        index += 1
