"""Gathers what a question needs from storage: tokens of a stretch, and fusions, which it has made where they lack."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from configs.settings import Settings
from reasoner.context import Array, Frame, pooled, within
from storage.errors import BadRequest, LongwatchError
from storage.models import Video
from storage.reconciler import Reconciler
from storage.records import Record, text_id
from storage.segments import SEGMENT_FRAMES, masks_by_segment
from storage.store import Store

log = logging.getLogger(__name__)
POLL_INTERVAL_S, LONGEST_POLL_S = 0.02, 0.25
Found = TypeVar("Found")


class EncoderMissing(LongwatchError):
    """No encoder worker did what was asked for in time."""

    code = "encoder-missing"


class Gatherer:
    """Reads records of one video, and waits for encoder workers where something is not there yet."""

    def __init__(self, settings: Settings, store: Store, fingerprint: str, video: Video) -> None:
        self._store = store
        self._fingerprint = fingerprint
        self._video = video
        self._timeout_s = settings.reasoner.fusion_timeout_s
        self._reconciler = Reconciler(store, settings.queues)
        self._records: dict[int, Record] = {}
        self._counted: set[int] = set()  # segments known to have been encoded, even if a record is lost meanwhile

    def frames(self, start_s: float, end_s: float | None) -> list[Frame]:
        """The encoded frames of the stretch, as far as they are there; waits while there are none at all.

        Raises BadRequest where there never will be any, EncoderMissing.
        """
        return self._wait(lambda: self._frames(start_s, end_s), "the first frames of the stretch to be encoded")

    def tokens(self, frames: Sequence[Frame]) -> Array:
        """(n,C,D) float32."""
        places = [divmod(frame.index, SEGMENT_FRAMES) for frame in frames]
        return np.stack([self._records[segment].tokens[place] for segment, place in places]).astype(np.float32)

    def fusion(self, ids: Sequence[int], frames: Sequence[Frame]) -> Array:
        """The text's fusion averaged over the frames (L,D); encoder workers are asked for what lacks."""
        wanted = masks_by_segment(frame.index for frame in frames)
        text = text_id(ids)
        self._order(ids, {segment: mask for segment, mask in wanted.items() if not self._held(segment, text, mask)})
        asked = time.monotonic()

        def ready() -> bool | None:
            nonlocal asked
            lacking = {segment: mask for segment, mask in wanted.items() if not self._fetched(segment, text, mask)}
            if lacking and time.monotonic() - asked > 1:  # a flushed queue has forgotten it
                asked = time.monotonic()
                self._order(ids, lacking)
            return None if lacking else True

        self._wait(ready, "the question to be fused with frames")
        return pooled([(self._records[s].fusions[text, mask], mask.bit_count()) for s, mask in wanted.items()])

    def _frames(self, start_s: float, end_s: float | None) -> list[Frame] | None:
        video = self._store.archive.video(self._video.id)
        counts = self._store.counts(video.id)
        last_s = sum(counts.frames.values()) / video.sample_fps
        span_s = SEGMENT_FRAMES / video.sample_fps
        found: list[Frame] = []
        self._counted |= {segment for segment, encoded in counts.tokens.items() if encoded}
        for segment in sorted(self._counted):
            if (segment + 1) * span_s < start_s or (end_s is not None and segment * span_s > end_s):
                continue
            record = self._store.record(video.id, segment, self._fingerprint)
            if record is None:  # it was counted, but is gone or damaged: have it made again, and wait
                self._reconciler.video(video.id)
                return None
            self._records[segment] = record
            first = segment * SEGMENT_FRAMES
            found += within([Frame(first + k, t) for k, t in enumerate(record.timestamps_s)], start_s, end_s)
        if not found and video.settled and not counts.missing():
            raise BadRequest(f"no frames between {start_s:g} s and {end_s or last_s:g} s: the video has {last_s:g} s")
        return found or None

    def _order(self, ids: Sequence[int], masks: dict[int, int]) -> None:
        for segment, mask in masks.items():
            self._store.queues.fuse(self._video.id, segment, [(list(ids), mask)])

    def _held(self, segment: int, text: str, mask: int) -> bool:
        return (text, mask) in self._records[segment].fusions

    def _fetched(self, segment: int, text: str, mask: int) -> bool:
        if not self._held(segment, text, mask):
            record = self._store.record(self._video.id, segment, self._fingerprint)
            if record is not None:
                self._records[segment] = record
        return self._held(segment, text, mask)

    def _wait(self, look: Callable[[], Found | None], what: str) -> Found:
        deadline, pause_s = time.monotonic() + self._timeout_s, POLL_INTERVAL_S
        pause = threading.Event()
        while (found := look()) is None:
            if time.monotonic() > deadline:
                raise EncoderMissing(
                    f"waited {self._timeout_s:g} s for {what}; is an encoder worker alive? `longwatch worker encode`"
                )
            pause.wait(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_POLL_S)
        return found
