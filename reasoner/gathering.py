"""Gathers what a question needs from storage: tokens of a stretch, and fusions, which encoder workers make."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np

from configs.settings import Settings
from jobs.names import FUSE, FusionRequest, fuse_job_id
from jobs.notices import Notices
from jobs.queues import Queues
from reasoner.focus import Array, Frame, as_float
from storage.cache import FusionKey
from storage.documents import Video
from storage.errors import LongwatchError
from storage.records import Half, select_tokens, text_id
from storage.store import Store
from storage.timeline import Masks, count_frames, cut_portions, masks_of

LOOK_S = 1.0  # a blocked look for the end of a job, between two looks whether the answer is still wanted
MOST_FRUITLESS = 3  # jobs that ended well, one after the other, without one of the fusions they were to make
FUSED_ROWS_AT_ONCE = 4096  # read by one command: 32 MB at the 8B shapes


class EncoderMissing(LongwatchError):
    """No encoder worker is alive: the question waits until one is."""

    code = "encoder-missing"


class FusionFailed(LongwatchError):
    """Encoder workers could not fuse the question."""

    code = "fusion-failed"


class RecordLost(LongwatchError):
    """A record of the stretch is gone; it is encoded anew, and the question waits for it."""

    code = "record-lost"


class Gatherer:
    """Reads one stretch of one video. `still_wanted` is called while waiting; it raises if waiting is pointless."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        fingerprint: str,
        holder: Video,
        masks: dict[int, int],
        still_wanted: Callable[[], None],
    ) -> None:
        self._store = store
        self._queues = Queues(store.state)
        self._notices = Notices(store.state)
        self._fingerprint = fingerprint
        self._holder = holder
        self._masks = masks  # segment -> mask of the stretch's frames
        self._still_wanted = still_wanted
        self._timeout_s = settings.reasoner.fusion_timeout_s
        self._missing_after_s = settings.reasoner.encoder_missing_after_s
        self._ordered: dict[str, list[FusionRequest]] = {}

    def load_tokens(self) -> Array:
        """The stretch's tokens (n,C,D) float32; raises RecordLost."""
        found = self._store.read_tokens(self._holder.id, list(self._masks), self._fingerprint)
        rows = []
        for segment, wanted in self._masks.items():
            kept = found[segment]
            if kept is None:
                raise RecordLost(f"the record of segment {segment} of {self._holder.id} is gone; it is encoded anew")
            rows.append(select_tokens(kept[1], kept[0], wanted))
        return as_float(np.concatenate(rows))

    def load_anchor(self, system: Sequence[int]) -> Array:
        """The system prompt's rows (L,D): its mean over the stretch's first segment (docs/design.md, anchors)."""
        segment = next(iter(self._masks))
        return self._system_rows(system, {segment: self._sampled.get(segment, self._masks[segment])})

    def load_system(self, system: Sequence[int]) -> Array:
        """The system prompt's rows (L,D): its mean over every frame of the stretch, as the paper has it."""
        return self._system_rows(system, self._masks)

    def order(self, ids: Sequence[int], first_row: int, frames: Sequence[Frame]) -> None:
        """Asks encoder workers for those of the text's fusions with these frames that are not there: one job."""
        pending = cut_portions(sorted(masks_of(frame.slot for frame in frames).items()))
        for _ in self._collect(ids, pending):
            continue
        if pending:
            self._order(ids, first_row, pending)

    def fuse(self, ids: Sequence[int], first_row: int, frames: Sequence[Frame]) -> Array:
        """The text fused with these frames and averaged (L,D), rows from `first_row` on.

        Raises EncoderMissing, FusionFailed, and what `still_wanted` raises.
        """
        return self._pooled(ids, first_row, masks_of(frame.slot for frame in frames))

    def withdraw(self) -> None:
        """Takes back what was ordered and nobody has begun."""
        for requests in self._ordered.values():
            self._queues.withdraw_fuse(self._holder.id, requests)

    @cached_property
    def _sampled(self) -> dict[int, int]:
        """Segment -> mask of all its frames, those beyond the stretch too."""
        span = range(min(self._masks), max(self._masks) + 1)
        return self._store.read_coverage(self._holder, span, self._fingerprint).sampled

    def _system_rows(self, system: Sequence[int], masks: dict[int, int]) -> Array:
        """Of whole segments the records hold it; the others' is fused now."""
        whole = [segment for segment, mask in masks.items() if mask == self._sampled.get(segment, mask)]
        recorded = self._recorded_system(whole, text_id(system))
        total = sum(mask.bit_count() for mask in masks.values())
        weights = {segment: np.float32(masks[segment].bit_count() / total) for segment in recorded}
        pooled = as_float(sum(rows.astype(np.float32) * weights[segment] for segment, rows in recorded.items()))
        unknown = {segment: mask for segment, mask in masks.items() if segment not in recorded}
        if unknown:
            weight = sum(mask.bit_count() for mask in unknown.values()) / total
            pooled = as_float(pooled + self._pooled(system, 0, unknown) * weight)
        return pooled

    def _recorded_system(self, segments: Sequence[int], system_id: str) -> dict[int, Half]:
        """Segment -> the system prompt's fusion with all of it, as far as the records hold it."""
        cached = self._store.cache.read_systems(self._holder.id, segments, system_id, self._fingerprint)
        found = {}
        for segment in segments:
            if segment in cached:
                found[segment] = cached[segment]
                continue
            record = self._store.read_record(self._holder.id, segment, self._fingerprint)
            if record is not None and record.system_id == system_id:
                found[segment] = record.system
        return found

    def _pooled(self, ids: Sequence[int], first_row: int, masks: dict[int, int]) -> Array:
        """The mean over all frames of the masks, in float32; waits for encoder workers to make what is not there."""
        pooled: Array | float = 0.0
        pending = cut_portions(sorted(masks.items()))
        total = count_frames(masks.items())
        began = alive_at = time.monotonic()
        fruitless = 0
        while True:
            for portion, rows in self._collect(ids, pending):
                pooled = pooled + rows.astype(np.float32) * (count_frames(portion) / total)
                fruitless = 0
            if not pending:
                return as_float(pooled)
            self._still_wanted()
            if time.monotonic() - began > self._timeout_s:
                raise FusionFailed(
                    f"encoder workers did not fuse the question within {self._timeout_s:g} s; see their log, that they "
                    f"run this checkpoint ({self._fingerprint}), and that the cache has room (redis.cache_url)"
                )
            problem = self._notices.wait(self._order(ids, first_row, pending), LOOK_S)
            if problem:
                raise FusionFailed(f"the question could not be fused with its frames: {problem}")
            if problem is None:
                alive_at = self._see_encoders(alive_at)
                continue
            fruitless += 1
            if fruitless > MOST_FRUITLESS:
                raise FusionFailed(
                    f"encoder workers fused the question, but not for this model ({self._fingerprint}), or the cache "
                    "lost it at once; `longwatch doctor` says whether they run another checkpoint or the cache is full"
                )

    def _see_encoders(self, alive_at: float) -> float:
        """When encoder workers were last seen alive; raises EncoderMissing."""
        now = time.monotonic()
        if self._store.workers.count_by_queue()[FUSE]:
            return now
        if now - alive_at > self._missing_after_s:
            raise EncoderMissing("no encoder worker is alive; start one with `longwatch worker encode`")
        return alive_at

    def _collect(self, ids: Sequence[int], pending: list[Masks]) -> Iterator[tuple[Masks, Half]]:
        """(portion, rows) of each fusion that is there; it is pending no longer."""
        text, wanted = text_id(ids), list(pending)
        at_once = max(FUSED_ROWS_AT_ONCE // len(ids), 1)
        for first in range(0, len(wanted), at_once):
            chunk = wanted[first : first + at_once]
            keys = [FusionKey(self._holder.id, text, portion) for portion in chunk]
            found = self._store.cache.read_fusions(keys, self._fingerprint)
            for portion, rows in zip(chunk, found, strict=True):
                if rows is not None:
                    pending.remove(portion)
                    yield portion, rows

    def _order(self, ids: Sequence[int], first_row: int, pending: Sequence[Masks]) -> str:
        """The job that makes these fusions: one that was ordered before and is at it, else a new one."""
        masks = [each for portion in pending for each in portion]
        requests: list[FusionRequest] = [(list(ids), first_row, masks)]
        job_id = fuse_job_id(self._holder.id, requests)
        earlier = [known for known, ordered in self._ordered.items() if _covers(ordered, ids, masks)]
        live = self._queues.list_live(FUSE, [*earlier, job_id])
        if live:
            return next(known for known in (*earlier, job_id) if known in live)
        self._notices.clear(job_id)
        self._queues.fuse(self._holder.id, requests)
        self._ordered[job_id] = requests
        return job_id


def _covers(ordered: Sequence[FusionRequest], ids: Sequence[int], masks: Sequence[tuple[int, int]]) -> bool:
    return any(text == list(ids) and set(masks) <= set(wanted) for text, _, wanted in ordered)
