"""Cuts a stream's slots into the intervals of a watch. Pure.

Interval `i` of a watch has the slots from `i * n` to `(i + 1) * n - 1`, where `n` slots last `every_s`. It is evaluated
over the intervals of its window, the last of which is the one that has just ended.
"""

from storage.live_documents import Watch


def count_slots(watch: Watch, sample_fps: float) -> int:
    """How many slots an interval has; at least one."""
    return max(round(watch.every_s * sample_fps), 1)


def count_intervals(watch: Watch) -> int:
    """How many intervals the window has; at least one."""
    return max(round(watch.window_s / watch.every_s), 1)


def find_interval(watch: Watch, sample_fps: float, slot: int) -> int:
    """The interval that the slot belongs to."""
    return slot // count_slots(watch, sample_fps)


def list_window(watch: Watch, interval: int) -> range:
    """The intervals over which a watch is evaluated at the end of this one."""
    return range(max(interval + 1 - count_intervals(watch), 0), interval + 1)


def slots_of(watch: Watch, sample_fps: float, intervals: range) -> range:
    """The slots of these intervals."""
    slots = count_slots(watch, sample_fps)
    return range(intervals.start * slots, intervals.stop * slots)
