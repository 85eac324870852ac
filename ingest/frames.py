"""Turns decoded frames into the pictures that are kept."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from ingest.pictures import Picture, squeezed

log = logging.getLogger(__name__)

UNSPECIFIED = 2  # of the matrices that colours are coded with (ITU-T H.273, table 4)


@dataclass(frozen=True)
class SampledFrame:
    """One kept frame: its index among the kept ones, the time it stands for, and RGB (336,336,3)."""

    index: int
    timestamp_s: float
    picture: Picture


def in_turn(frames: Iterable[VideoFrame], times: Sequence[int]) -> Iterator[VideoFrame]:
    """Frames that do not say when they are shown, at `times`, one after the other.

    Their pts is the number of their packet: a keyframe is not shown before its number's turn, so that what was lost
    before it shifts nothing behind it.
    """
    turn = 0
    for frame in frames:
        if frame.key_frame and frame.pts is not None:
            turn = max(turn, frame.pts)
        if turn < len(times):
            frame.pts = times[turn]
            turn += 1
            yield frame


def matched(
    frames: Iterable[VideoFrame], wanted: Sequence[int], targets_s: Sequence[float], start_index: int
) -> Iterator[SampledFrame]:
    """Gives each wanted pts its picture, both in the order of time; a lost frame's neighbour stands in for it."""
    index, held, held_pts = 0, None, None
    converter = VideoReformatter()  # one for all frames: each of its own would set up the conversion anew
    for frame in frames:
        while index < len(wanted) and frame.pts is not None and wanted[index] <= frame.pts:
            if held is None or (wanted[index] == frame.pts != held_pts):
                held, held_pts = _picture(frame, converter, held), frame.pts
            if held is None:
                break
            yield SampledFrame(start_index + index, targets_s[start_index + index], held)
            index += 1
        if index == len(wanted):
            return
    while index < len(wanted) and held is not None:
        yield SampledFrame(start_index + index, targets_s[start_index + index], held)
        index += 1


def quarter_turns(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns that show the frame upright."""
    return round(frame.rotation / 90) % 4


def _picture(frame: VideoFrame, converter: VideoReformatter, instead: Picture | None) -> Picture | None:
    """RGB (336,336,3), turned as the file asks for; `instead` where the frame is too damaged for that."""
    try:
        rgb = _rgb(frame, converter)
    except av.FFmpegError as error:
        log.warning("a damaged frame is passed over: %s", error)
        return instead
    return squeezed(np.rot90(rgb.to_ndarray(), quarter_turns(frame)))


def _rgb(frame: VideoFrame, converter: VideoReformatter) -> VideoFrame:
    try:
        return converter.reformat(frame, format="rgb24", threads=1)  # more would wait for each other
    except av.FFmpegError:
        frame.colorspace = UNSPECIFIED  # a matrix that FFmpeg's converter does not know, such as bt2020c
        return converter.reformat(frame, format="rgb24", threads=1)
