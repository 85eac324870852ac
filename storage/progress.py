"""Computes how far a video is from the counts of its frames. Pure except for the clock."""

import time

from storage.coverage import IDLE_S, Totals
from storage.documents import Progress, Video
from storage.timeline import SEGMENT_SLOTS


def describe_progress(video: Video, counts: Totals) -> Progress:
    """The progress of a video that holds its own frames."""
    expected = video.frames_sampled if video.frames_sampled is not None else video.frames_expected
    complete = video.settled and not video.is_live and counts.encoded + counts.failed >= counts.sampled
    until = min(counts.encoded_segments * SEGMENT_SLOTS, counts.encoded)
    return Progress(
        frames_sampled=counts.sampled,
        frames_expected=expected,
        frames_encoded=counts.encoded,
        frames_failed=counts.failed,
        encoded_until_s=until / video.sample_fps,
        eta_s=0.0 if complete else _eta_s(counts, expected),
        complete=complete,
    )


def _eta_s(counts: Totals, expected: int | None) -> float | None:
    """None while the speed is unknown: before a second segment is encoded, and after a pause of `IDLE_S`."""
    pace = counts.pace
    if expected is None or pace is None or time.time() - pace.last_s > IDLE_S:
        return None
    elapsed_s = pace.last_s - pace.since_s
    if pace.frames <= 0 or elapsed_s <= 0:
        return None
    return round(elapsed_s / pace.frames * max(expected - counts.encoded, 0), 1)
