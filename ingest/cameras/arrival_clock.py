"""Says when frames were shown, from when their packets arrived. Pure: the clocks are arguments.

Arrival is measured on the monotonic clock, which is anchored to UTC. The sender's timestamps only smooth it: a frame is
shown at its timestamp plus the smallest delay between timestamp and arrival in the last half minute, so that a packet
that the network held up keeps its time. No frame is later than its arrival. If the sender's timestamps leave the pace
of arrival, a new timeline begins at the present arrival.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

STEP_S = 0.5  # the host's clock was set if it leaves the monotonic clock by more; it is slewed along with it
JUMP_S = 5.0  # a sender further off has another timeline (mediamtx draws the line here, too)
BACK_S = 1.0  # timestamps go back further than reordered frames do
STRAYS = 3  # packets in a row that make a new timeline; fewer are only timed by their arrival
WINDOW_S = 30.0  # of the smallest delay
MOST_JUMPS, MOST_JUMPS_WITHIN_S = 5, 60.0  # a sender that jumps more often is not listened to any more
REORDERED = 16  # frames that a codec may hold back for reordering, at most (H.264, A.3.1)

JumpKind = Literal["ahead", "behind", "missing", "useless"]


@dataclass(frozen=True)
class SenderJump:
    """The sender's timestamps left the pace of arrival: by `seconds`, or they are missing, or jump all the time."""

    kind: JumpKind
    seconds: float = 0.0


@dataclass(frozen=True)
class FrameTime:
    """When a packet's frame is shown, in seconds from the stream's start; `decoded_s` is when it is decoded."""

    t_s: float
    decoded_s: float
    jump: SenderJump | None = None


class WallAnchor:
    """Turns the monotonic clock into seconds from the stream's start, which is a moment of UTC."""

    def __init__(self, start_epoch_s: float) -> None:
        self._start_epoch_s = start_epoch_s
        self._offset_s: float | None = None

    def place_arrival(self, monotonic_s: float, utc_s: float) -> tuple[float, float]:
        """(seconds from the stream's start, by how much the host's clock was set since the last call)."""
        offset_s, step_s = utc_s - monotonic_s, 0.0
        if self._offset_s is None:
            self._offset_s = offset_s
        elif abs(offset_s - self._offset_s) > STEP_S:
            step_s = offset_s - self._offset_s
            self._offset_s = offset_s
        return monotonic_s + self._offset_s - self._start_epoch_s, step_s


class SenderClock:
    """Smooths the arrival of one elementary stream with the sender's timestamps."""

    def __init__(self) -> None:
        self._delays: deque[tuple[float, float]] = deque()  # (arrival, delay): both ascending, so the first is least
        self._recent: deque[tuple[float, float]] = deque(maxlen=REORDERED)  # (pts, t) in order of arrival
        self._last_dts_s: float | None = None
        self._strays = 0
        self._least_s = float("-inf")  # no frame of this timeline is earlier
        self._jumped_at: deque[float] = deque(maxlen=MOST_JUMPS)
        self._deaf = False

    def restart(self) -> None:
        """Begins a new timeline without a report: the host's clock was set."""
        self._delays.clear()
        self._recent.clear()
        self._last_dts_s = None
        self._strays, self._least_s = 0, float("-inf")

    def prepare(self, least_s: float, arrivals: Sequence[tuple[float, float]]) -> None:
        """Looks at the first packets, (arrival, pts) of each, before they are timed.

        While a connection is opened, packets queue up and then arrive at once. Their delay is that of the first packet
        that was awaited. No frame is earlier than `least_s`.
        """
        self._least_s = least_s
        delays_s = [arrival_s - pts_s for arrival_s, pts_s in arrivals]
        if delays_s and max(delays_s) - min(delays_s) < JUMP_S:
            for (arrival_s, _), delay_s in zip(arrivals, delays_s, strict=True):
                self._least_delay(arrival_s, delay_s)

    def time_packet(self, arrival_s: float, pts_s: float | None, dts_s: float | None = None) -> FrameTime:
        """When the packet's frame is shown. Arrivals ascend; timestamps may be anything, or None."""
        if self._deaf:
            return FrameTime(arrival_s, arrival_s)
        if pts_s is None:
            return FrameTime(arrival_s, arrival_s, self._miss_timestamp(arrival_s) if self._delays else None)
        delay_s = arrival_s - pts_s
        jump = None
        if self._delays and (shift_s := self._leaves_pace(pts_s, dts_s, delay_s)):
            self._strays += 1
            if self._strays < STRAYS:
                return FrameTime(arrival_s, arrival_s)
            jump = self._begin_timeline(arrival_s, "behind" if shift_s > 0 else "ahead", abs(shift_s))
            if jump.kind == "useless":
                return FrameTime(arrival_s, arrival_s, jump)
        self._strays = 0
        base_s = self._least_delay(arrival_s, delay_s)
        earlier = [t_s for other_s, t_s in self._recent if other_s < pts_s]
        t_s = min(max(pts_s + base_s, self._least_s, *earlier), arrival_s)
        self._recent.append((pts_s, t_s))
        self._last_dts_s = dts_s
        decoded_s = t_s if dts_s is None else min(t_s, t_s - (pts_s - dts_s))
        return FrameTime(t_s, decoded_s, jump)

    def _leaves_pace(self, pts_s: float, dts_s: float | None, delay_s: float) -> float:
        """How far the packet is from the timeline (positive: behind); 0.0 if it keeps the pace."""
        shift_s = delay_s - self._delays[0][1]
        reordered = dts_s is not None and self._last_dts_s is not None and dts_s >= self._last_dts_s
        goes_back = not reordered and any(pts_s < other_s - BACK_S for other_s, _ in self._recent)
        return shift_s if abs(shift_s) > JUMP_S or goes_back else 0.0

    def _miss_timestamp(self, arrival_s: float) -> SenderJump | None:
        """Counts a packet without a timestamp, from a sender that gave some before."""
        self._strays += 1
        return self._begin_timeline(arrival_s, "missing") if self._strays == STRAYS else None

    def _begin_timeline(self, arrival_s: float, kind: JumpKind, seconds: float = 0.0) -> SenderJump:
        often = len(self._jumped_at) == MOST_JUMPS and arrival_s - self._jumped_at[0] < MOST_JUMPS_WITHIN_S
        self._jumped_at.append(arrival_s)
        self.restart()
        self._least_s = arrival_s
        self._deaf = often
        return SenderJump("useless") if often else SenderJump(kind, seconds)

    def _least_delay(self, arrival_s: float, delay_s: float) -> float:
        while self._delays and self._delays[-1][1] >= delay_s:
            self._delays.pop()
        self._delays.append((arrival_s, delay_s))
        while self._delays[0][0] < arrival_s - WINDOW_S:
            self._delays.popleft()
        return self._delays[0][1]


def fill_first_timestamps(pts_s: Sequence[float | None]) -> list[float | None]:
    """Gives the packets before the first known timestamp, in order of decoding, times before all known ones.

    FFmpeg does not know when the first RTSP packets are shown.
    """
    known = sorted(pts for pts in pts_s if pts is not None)
    first = next((index for index, pts in enumerate(pts_s) if pts is not None), 0)
    gaps = [later - earlier for earlier, later in pairwise(known) if later > earlier]
    if not gaps:
        return list(pts_s)
    return [known[0] - (first - index) * min(gaps) for index in range(first)] + list(pts_s[first:])
