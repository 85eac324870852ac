"""Chooses which frames to keep, and which packets need decoding for that. Knows nothing of files or decoders."""

import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EPSILON_S = 1e-6  # frame times are sums of rounded ticks

Times = NDArray[np.float64]  # seconds, ascending
Places = NDArray[np.intp]


def find_slot_times(duration_s: float, sample_fps: float) -> Times:
    """The time of every slot: 0.5 s, 1.5 s, ... at 1 fps, up to the end (golden/SEMANTICS.md, item 9).

    A video that ends before its first slot's time has one slot, which shows the video's own middle.
    """
    count = int(duration_s * sample_fps + 0.5 + EPSILON_S)
    times = (np.arange(count, dtype=np.float64) + 0.5) / sample_fps
    times = times[times < duration_s - EPSILON_S]
    return times if len(times) else np.array([duration_s / 2])


def find_frames_on_display(times_s: Times, targets_s: Times) -> Places:
    """For each target, the index of the frame on display: the last one that began by then.

    A frame that is held long (variable rate) serves several targets.
    """
    return np.maximum(np.searchsorted(times_s, targets_s + EPSILON_S, side="right") - 1, 0)


def find_nearest_frames(times_s: Times, targets_s: Times) -> Places:
    """For each target, the index of the frame whose start is nearest; of two equally near, the earlier."""
    after = np.searchsorted(times_s, targets_s, side="right").clip(1, max(len(times_s) - 1, 1))
    later = np.minimum(after, len(times_s) - 1)
    return np.where(abs(times_s[later] - targets_s) < abs(times_s[after - 1] - targets_s), later, after - 1)


@dataclass(frozen=True)
class Packet:
    """What is known of a coded frame without decoding it. Times are in ticks of the stream."""

    pts: int | None  # when it is shown
    key: bool
    reference: bool = True  # whether other frames may be predicted from it
    clean: bool = False  # a keyframe; no frame decoded after it refers to one before it (H.264: IDR)
    shown: bool = True  # False: only for decoding others, such as frames before the start of a cut clip
    dts: int | None = None  # when it is decoded; needed if `pts` is not known
    duration: int = 0  # 0 if it is not known


@dataclass(frozen=True)
class Packets:
    """All packets of a video in decoding order, as columns: a day of video has millions."""

    pts: NDArray[np.int64]
    key: NDArray[np.bool_]
    reference: NDArray[np.bool_]
    clean: NDArray[np.bool_]
    shown: NDArray[np.bool_]
    timed: bool  # False: the file does not say when frames are shown, and `pts` is when they are decoded
    end: int  # when the last frame ends; no later than its start if durations are unknown

    @classmethod
    def collect(cls, packets: Iterable[Packet]) -> "Packets":
        """The columns of `packets`, each of which has a pts or a dts."""
        pts, dts, flags = array("q"), array("q"), tuple(bytearray() for _ in range(4))
        timed, end = True, -sys.maxsize
        for packet in packets:
            pts.append(_first_known(packet.pts, packet.dts))
            dts.append(_first_known(packet.dts, packet.pts))
            for column, flag in zip(flags, (packet.key, packet.reference, packet.clean, packet.shown), strict=True):
                column.append(flag)
            timed = timed and packet.pts is not None
            if packet.shown:
                end = max(end, pts[-1] + packet.duration)
        key, reference, clean, shown = (np.frombuffer(column, np.bool_) for column in flags)
        return cls(np.array(pts if timed else dts, np.int64), key, reference, clean, shown, timed, end)

    def __len__(self) -> int:
        return len(self.pts)

    def span(self) -> tuple[int, int]:
        """When the first and the last frame are shown."""
        pts = self.pts[self.shown]
        return int(pts.min()), int(pts.max())


def find_needed_packets(packets: Packets, wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which packets to decode to get exactly the frames with a pts in `wanted`.

    Leaves out unwanted frames that no other frame is predicted from. Also leaves out what follows the last wanted
    frame of a group of pictures, if the next group begins clean.
    """
    needed = np.isin(packets.pts, wanted)
    ends_clean = True  # a later group needs nothing from this one
    some_later = False
    for index in range(len(packets) - 1, -1, -1):
        if needed[index]:
            some_later = True
        elif packets.reference[index]:
            needed[index] = some_later or not ends_clean
        if packets.key[index]:
            ends_clean = bool(packets.clean[index])
            some_later = False if ends_clean else some_later
    return needed


def _first_known(one: int | None, other: int | None) -> int:
    known = one if one is not None else other
    assert known is not None, "list_packets gives no packet without a time"
    return known
