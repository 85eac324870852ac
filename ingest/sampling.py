"""Chooses which frames to keep, and which packets need decoding for that. Knows nothing of files or decoders."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

EPSILON_S = 1e-6  # frame times are sums of rounded ticks

Times = NDArray[np.float64]  # seconds, ascending
Places = NDArray[np.intp]


def target_times(duration_s: float, sample_fps: float) -> Times:
    """The middles of equal parts of the video: 0.5 s, 1.5 s, ... at 1 fps (golden/SEMANTICS.md, item 9).

    A video too short for one gives its own middle.
    """
    count = int(duration_s * sample_fps + 0.5 + EPSILON_S)
    times = (np.arange(count, dtype=np.float64) + 0.5) / sample_fps
    times = times[times < duration_s - EPSILON_S]
    return times if len(times) else np.array([duration_s / 2])


def on_display(times_s: Times, targets_s: Times) -> Places:
    """For each target, the index of the frame that is on display then: the last that began by it.

    Where frames are held long (variable rate) one frame serves several targets.
    """
    return np.maximum(np.searchsorted(times_s, targets_s + EPSILON_S, side="right") - 1, 0)


def nearest(times_s: Times, targets_s: Times) -> Places:
    """For each target, the index of the frame whose beginning is nearest; the earlier of equals."""
    after = np.searchsorted(times_s, targets_s, side="right").clip(1, max(len(times_s) - 1, 1))
    later = np.minimum(after, len(times_s) - 1)
    return np.where(abs(times_s[later] - targets_s) < abs(times_s[after - 1] - targets_s), later, after - 1)


@dataclass(frozen=True)
class Packet:
    """What is known of a coded frame without decoding it."""

    pts: int
    key: bool
    reference: bool = True  # whether other frames may be predicted from it
    clean: bool = False  # a keyframe that nothing after it in decoding order looks back across (H.264: IDR)


@dataclass(frozen=True)
class Packets:
    """All packets of a video in decoding order, as columns: a day of video is millions of them."""

    pts: NDArray[np.int64]
    key: NDArray[np.bool_]
    reference: NDArray[np.bool_]
    clean: NDArray[np.bool_]

    @classmethod
    def of(cls, packets: Iterable[Packet]) -> "Packets":
        """The columns of `packets`."""
        pts, flags = array("q"), tuple(bytearray() for _ in range(3))
        for packet in packets:
            pts.append(packet.pts)
            for column, flag in zip(flags, (packet.key, packet.reference, packet.clean), strict=True):
                column.append(flag)
        columns: Any = (np.frombuffer(column, np.bool_) for column in flags)
        return cls(np.array(pts, np.int64), *columns)

    def __len__(self) -> int:
        return len(self.pts)


def needed_packets(packets: Packets, wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which packets to decode to get exactly the frames with a pts in `wanted`.

    Left out: frames that are not wanted and that no other is predicted from; and what follows the last wanted frame
    of a group of pictures, where the next group begins clean.
    """
    needed = np.isin(packets.pts, wanted)
    ends_clean = True  # a later group needs nothing of this one
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
