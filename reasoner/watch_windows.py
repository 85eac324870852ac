"""Reads the window of a watch: its frames, their tokens for the engine, and the question's rows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from configs.settings import Settings
from llava_mini.prompt import PromptIds
from reasoner.engine import Engine, TokenSource
from reasoner.focus import Array, Frame, as_float
from reasoner.gathering import Gatherer
from storage.documents import Video
from storage.live_documents import Watch
from storage.records import Half, text_id
from storage.store import Store
from storage.timeline import mask_within, segments_of, slots_in
from storage.watch_intervals import count_slots
from storage.watches import IntervalMean


@dataclass(frozen=True)
class Window:
    """The encoded frames of a stretch of a stream."""

    stream: Video
    masks: dict[int, int]  # segment -> mask
    frames: list[Frame]
    gather: Gatherer

    def make_source(self, system: Sequence[int]) -> TokenSource:
        """The token source for the engine; `system` are the ids of the system prompt."""

        def load() -> tuple[Array, Half]:
            return self.gather.load_anchor(system), self.gather.load_tokens()

        frames_id = hashlib.sha256(repr(tuple(self.masks.items())).encode()).hexdigest()[:24]
        return TokenSource((self.stream.id, frames_id, False, text_id(system)), len(self.frames), load)

    def fuse_missing(
        self, watch: Watch, prompt: PromptIds, intervals: range, means: dict[int, IntervalMean]
    ) -> dict[int, IntervalMean]:
        """The means of those intervals that have frames and no mean. Raises EncoderMissing, FusionFailed."""
        per_interval = count_slots(watch, self.stream.sample_fps)
        made = {}
        for interval in intervals:
            there = [frame for frame in self.frames if frame.slot // per_interval == interval]
            if there and interval not in means:
                rows = self.gather.fuse(prompt.text, len(prompt.before), there)
                made[interval] = IntervalMean(len(there), there[-1].slot, rows.astype(np.float16))
        return made


def open_window(settings: Settings, store: Store, engine: Engine, stream: Video, slots: range) -> Window | None:
    """The window over these slots; None if it has no encoded frames."""
    covered = store.read_coverage(stream, segments_of(slots), engine.fingerprint)
    masks = {segment: mask & mask_within(slots, segment) for segment, mask in covered.encoded.items()}
    masks = {segment: mask for segment, mask in masks.items() if mask}
    if not masks:
        return None
    frames = [Frame(slot, stream.grid.time_s(slot)) for slot in slots_in(masks)]
    return Window(stream, masks, frames, Gatherer(settings, store, engine.fingerprint, stream, masks, lambda: None))


def pool_means(means: Sequence[IntervalMean]) -> Array:
    """The question's rows (L,D) over all intervals: the mean over all their frames."""
    total = sum(mean.frames for mean in means)
    return as_float(sum(mean.rows.astype(np.float32) * np.float32(mean.frames / total) for mean in means))
