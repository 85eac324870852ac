"""Gathers what a question needs from storage: tokens of a stretch, and fusions, which it has made where they lack."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from configs.settings import Settings
from reasoner.context import Array, Frame, pooled, within
from storage.errors import BadRequest, LongwatchError
from storage.models import Video
from storage.queues import FUSE, FusionRequest
from storage.records import Record, text_id
from storage.segments import SEGMENT_FRAMES, masks_by_segment
from storage.store import Counts, Store

POLL_INTERVAL_S, LONGEST_POLL_S = 0.02, 0.25
REORDER_S = 1.0  # after which a job is asked for again: a flushed queue has forgotten it, a live one takes no second
Found = TypeVar("Found")
Wanted = tuple[Sequence[int], Sequence[Frame]]  # a text's token ids, and the frames to average it over


class EncoderMissing(LongwatchError):
    """No encoder worker did what was asked for in time."""

    code = "encoder-missing"


@dataclass(frozen=True)
class Covered:
    """The encoded frames of a stretch, and how far the video was encoded when they were looked up."""

    frames: list[Frame]
    encoded_until_s: float
    video_complete: bool


class Gatherer:
    """Reads records of one video, and waits for encoder workers where something is not there yet.

    `still_wanted` is called while waiting; it raises where waiting has become pointless.
    """

    def __init__(
        self, settings: Settings, store: Store, fingerprint: str, video: Video, still_wanted: Callable[[], None]
    ) -> None:
        self._store = store
        self._fingerprint = fingerprint
        self._video_id = video.id
        self._still_wanted = still_wanted
        self._timeout_s = settings.reasoner.fusion_timeout_s
        self._records: dict[int, Record] = {}
        self._counted: set[int] = set()  # segments known to have been encoded, even if a record is lost meanwhile
        self._jobs: dict[tuple[int, str, int], list[FusionRequest]] = {}  # (segment, text, mask) -> asked for with

    def covered(self, start_s: float, end_s: float | None) -> Covered:
        """The encoded frames of the stretch, as far as they are there; waits while there are none at all.

        Raises BadRequest where there never will be any, EncoderMissing.
        """
        return self._wait(lambda: self._covered(start_s, end_s), "the first frames of the stretch to be encoded")

    def tokens(self, frames: Sequence[Frame]) -> Array:
        """(n,C,D) float32."""
        places = [divmod(frame.index, SEGMENT_FRAMES) for frame in frames]
        return np.stack([self._records[segment].tokens[place] for segment, place in places]).astype(np.float32)

    def order(self, wanted: Sequence[Wanted]) -> None:
        """Asks encoder workers for those fusions that lack: one job per segment, so that they share its one pass."""
        fresh: dict[int, list[FusionRequest]] = {}
        for ids, frames in wanted:
            for segment, mask in masks_by_segment(frame.index for frame in frames).items():
                key = segment, text_id(ids), mask
                if not self._held(*key) and key not in self._jobs:
                    self._jobs[key] = fresh.setdefault(segment, [])
                    self._jobs[key].append((list(ids), mask))
        for segment, requests in fresh.items():
            self._store.queues.fuse(self._video_id, segment, requests)

    def withdraw(self) -> None:
        """Takes back what was ordered and nobody has begun with."""
        asked = {(segment, id(requests)): requests for (segment, _, _), requests in self._jobs.items()}
        for (segment, _), requests in asked.items():
            self._store.queues.withdraw(self._video_id, segment, requests)

    def fusion(self, ids: Sequence[int], frames: Sequence[Frame]) -> Array:
        """The text's fusion averaged over the frames (L,D); waits for encoder workers to make what lacks."""
        self.order([(ids, frames)])
        text, masks = text_id(ids), masks_by_segment(frame.index for frame in frames)
        asked = time.monotonic()

        def look() -> Array | None:
            nonlocal asked
            lacking = [segment for segment, mask in masks.items() if not self._held(segment, text, mask)]
            if lacking and time.monotonic() - asked > REORDER_S:
                asked = time.monotonic()
                for segment in lacking:
                    self._store.queues.fuse(self._video_id, segment, self._jobs[segment, text, masks[segment]])
            if lacking:
                return None
            return pooled([(self._records[s].fusions[text, mask], mask.bit_count()) for s, mask in masks.items()])

        return self._wait(look, "the question to be fused with frames")

    def _covered(self, start_s: float, end_s: float | None) -> Covered | None:
        video = self._store.archive.video(self._video_id)
        counts = self._store.counts(video.id)
        self._counted |= {segment for segment, encoded in counts.tokens.items() if encoded}
        span_s = SEGMENT_FRAMES / video.sample_fps
        frames: list[Frame] = []
        for segment in sorted(self._counted):
            if (segment + 1) * span_s < start_s or (end_s is not None and segment * span_s > end_s):
                continue
            record = self._current(segment, counts.tokens.get(segment, 0))
            if record is None:  # it was counted, but is gone, damaged or another model's
                self._store.queues.encode(video.id, segment)
                return None
            first = segment * SEGMENT_FRAMES
            frames += within([Frame(first + k, t) for k, t in enumerate(record.timestamps_s)], start_s, end_s)
        until_s, complete = counts.contiguous() / video.sample_fps, video.settled and not counts.missing()
        if not frames and (complete or (end_s is not None and end_s <= until_s)):
            raise BadRequest(_no_frames(video, counts, start_s, end_s))
        return Covered(frames, until_s, complete) if frames else None

    def _current(self, segment: int, encoded: int) -> Record | None:
        """The segment's record, looked up again where the one at hand has fewer than `encoded` frames."""
        held = self._records.get(segment)
        if held is None or len(held) < encoded:
            held = self._fetched(segment)
        return held

    def _held(self, segment: int, text: str, mask: int) -> bool:
        """Whether the fusion is at hand, perhaps after another look."""
        if (text, mask) not in self._records[segment].fusions:
            self._fetched(segment)
        return (text, mask) in self._records[segment].fusions

    def _fetched(self, segment: int) -> Record | None:
        """The record as it is now; fusions seen before stay at hand, also where they were evicted meanwhile."""
        record = self._store.record(self._video_id, segment, self._fingerprint)
        if record is not None:
            seen = self._records[segment].fusions if segment in self._records else {}
            self._records[segment] = record = replace(record, fusions=seen | record.fusions)
        return record

    def _wait(self, look: Callable[[], Found | None], what: str) -> Found:
        deadline, pause_s = time.monotonic() + self._timeout_s, POLL_INTERVAL_S
        pause = threading.Event()
        while (found := look()) is None:
            self._still_wanted()
            if time.monotonic() > deadline:
                raise EncoderMissing(f"waited {self._timeout_s:g} s for {what}: {self._why()}")
            pause.wait(pause_s)
            pause_s = min(pause_s * 1.2, LONGEST_POLL_S)  # found at most a fifth later than it was there
        return found

    def _why(self) -> str:
        alive = self._store.hot.workers()[FUSE]
        if not alive:
            return "no encoder worker is alive; start one with `longwatch worker encode`"
        return f"encoder workers alive: {alive}; see their log, and that they run this checkpoint ({self._fingerprint})"


def _no_frames(video: Video, counts: Counts, start_s: float, end_s: float | None) -> str:
    count, step_s = sum(counts.frames.values()), 1 / video.sample_fps
    asked = f"from {start_s:g} s on" if end_s is None else f"between {start_s:g} s and {end_s:g} s"
    if not count:
        return "the video has no frames"
    return (
        f"no frame lies {asked}: there is one every {step_s:g} s from {step_s / 2:g} s to {(count - 0.5) * step_s:g} s"
    )
