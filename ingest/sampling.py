"""Chooses which frames to keep, and which packets need decoding for that. Knows nothing of files or decoders."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

EPSILON_S = 1e-6  # frame times are sums of rounded ticks


def target_times(duration_s: float, sample_fps: float) -> list[float]:
    """The middles of equal parts of the video: 0.5 s, 1.5 s, ... at 1 fps (golden/SEMANTICS.md, item 9).

    A video too short for one gives its own middle.
    """
    count = int(duration_s * sample_fps + 0.5 + EPSILON_S)
    times = [(k + 0.5) / sample_fps for k in range(count)]
    return [t for t in times if t < duration_s - EPSILON_S] or [duration_s / 2]


def on_display(times_s: Sequence[float], targets_s: Sequence[float]) -> list[int]:
    """For each target, the index of the frame that is on display then: the last that began by it.

    `times_s` ascend. Where frames are held long (variable rate) one frame serves several targets.
    """
    return [max(bisect_right(times_s, target + EPSILON_S) - 1, 0) for target in targets_s]


def nearest(times_s: Sequence[float], targets_s: Sequence[float]) -> list[int]:
    """For each target, the index of the frame whose beginning is nearest."""
    found = []
    for target in targets_s:
        after = bisect_right(times_s, target)
        near = [index for index in (after - 1, after) if 0 <= index < len(times_s)]
        found.append(min(near, key=lambda index: abs(times_s[index] - target)))
    return found


@dataclass(frozen=True)
class Packet:
    """What is known of a coded frame without decoding it; listed in decoding order."""

    pts: int
    key: bool
    reference: bool = True  # whether other frames may be predicted from it
    clean: bool = False  # a keyframe that nothing after it in decoding order looks back across (H.264: IDR)


def needed_packets(packets: Sequence[Packet], wanted: set[int]) -> list[bool]:
    """Which packets to decode to get exactly the frames with a pts in `wanted`.

    Left out: frames that are not wanted and that no other is predicted from; and what follows the last wanted frame
    of a group of pictures, where the next group begins clean.
    """
    needed = [False] * len(packets)
    ends_clean = True  # a later group needs nothing of this one
    some_later = False
    for index in range(len(packets) - 1, -1, -1):
        packet = packets[index]
        if packet.pts in wanted:
            needed[index] = some_later = True
        elif packet.reference:
            needed[index] = some_later or not ends_clean
        if packet.key:
            ends_clean = packet.clean
            some_later = False if packet.clean else some_later
    return needed
