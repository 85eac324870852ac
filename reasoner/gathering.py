"""Gathers what a question needs: the tokens of its stretch, and fusions, which encoder workers make."""

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

LOOK_S = 1.0  # a wait for a job blocks this long, then checks whether the answer is still wanted
MOST_FRUITLESS = 3  # jobs in a row that may succeed without delivering any of the requested fusions
FUSED_ROWS_AT_ONCE = 4096  # read with one command: 32 MB with the 8B shapes


class EncoderMissing(LongwatchError):
    """No encoder worker is alive: the question waits until one is."""

    code = "encoder-missing"


class FusionFailed(LongwatchError):
    """Encoder workers could not fuse the question."""

    code = "fusion-failed"


class RecordLost(LongwatchError):
    """A record of the stretch is gone. Its segment is encoded again, and the question waits for it."""

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

    def load_tokens(self) -> Half:
        """Returns the stretch's tokens (n,C,D) in float16, as they are kept; raises RecordLost."""
        live_masks = self._masks if self._holder.is_live else None
        found = self._store.read_tokens(self._holder.id, list(self._masks), self._fingerprint, wanted=live_masks)
        rows = []
        for segment, wanted in self._masks.items():
            kept = found[segment]
            if kept is None:
                raise RecordLost(f"the record of segment {segment} of {self._holder.id} is gone; it is encoded again")
            rows.append(select_tokens(kept[1], kept[0], wanted))
        return np.concatenate(rows)

    def load_anchor(self, system: Sequence[int]) -> Array:
        """Returns the system prompt's rows (L,D): the mean over the whole first segment (docs/design.md, anchors)."""
        segment = next(iter(self._masks))
        if self._holder.is_live:
            open_mean = self._store.open_frames.read_system(self._holder.id, self._fingerprint, segment)
            if open_mean is not None:  # over fewer frames: no difference was measured (docs/design.md, anchors)
                return as_float(open_mean.rows)
        return self._pool_system_rows(system, {segment: self._sampled.get(segment, self._masks[segment])})

    def load_system(self, system: Sequence[int]) -> Array:
        """Returns the system prompt's rows (L,D): the mean over every frame of the stretch, as in the paper."""
        return self._pool_system_rows(system, self._masks)

    def order(self, ids: Sequence[int], first_row: int, frames: Sequence[Frame]) -> None:
        """Requests the missing fusions of the text with these frames from the encoder workers, as one job."""
        pending = cut_portions(sorted(masks_of(frame.slot for frame in frames).items()))
        for _ in self._collect(ids, pending):
            continue
        if pending:
            self._order(ids, first_row, pending)

    def fuse(self, ids: Sequence[int], first_row: int, frames: Sequence[Frame]) -> Array:
        """Fuses the text with these frames and returns the mean of the rows from `first_row` on (L,D).

        Raises EncoderMissing, FusionFailed, and any error that `still_wanted` raises.
        """
        return self._pool_fusions(ids, first_row, masks_of(frame.slot for frame in frames))

    def withdraw(self) -> None:
        """Withdraws the ordered jobs that no worker has begun."""
        for requests in self._ordered.values():
            self._queues.withdraw_fuse(self._holder.id, requests)

    @cached_property
    def _sampled(self) -> dict[int, int]:
        """Segment -> mask of all its frames, including those outside the stretch."""
        span = range(min(self._masks), max(self._masks) + 1)
        return self._store.read_coverage(self._holder, span, self._fingerprint).sampled

    def _pool_system_rows(self, system: Sequence[int], masks: dict[int, int]) -> Array:
        """Returns the system prompt's mean rows (L,D). Records hold them for whole segments; the rest is fused now."""
        whole = [segment for segment, mask in masks.items() if mask == self._sampled.get(segment, mask)]
        recorded = self._read_recorded_system(whole, text_id(system))
        total = sum(mask.bit_count() for mask in masks.values())
        weights = {segment: np.float32(masks[segment].bit_count() / total) for segment in recorded}
        pooled = as_float(sum(rows.astype(np.float32) * weights[segment] for segment, rows in recorded.items()))
        unknown = {segment: mask for segment, mask in masks.items() if segment not in recorded}
        if unknown:
            weight = sum(mask.bit_count() for mask in unknown.values()) / total
            pooled = as_float(pooled + self._pool_fusions(system, 0, unknown) * weight)
        return pooled

    def _read_recorded_system(self, segments: Sequence[int], system_id: str) -> dict[int, Half]:
        """Returns segment -> the system prompt fused with the whole segment, if the record holds it."""
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

    def _pool_fusions(self, ids: Sequence[int], first_row: int, masks: dict[int, int]) -> Array:
        """Returns the mean over all frames of the masks (L,D), float32; waits while encoder workers make fusions."""
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
                    f"encoder workers did not fuse the question within {self._timeout_s:g} s; see "
                    "logs/encoder_worker.log in data_dir, and check that "
                    f"they run this checkpoint ({self._fingerprint}), and that the cache has room (redis.cache_url)"
                )
            problem = self._notices.wait(self._order(ids, first_row, pending), LOOK_S)
            if problem:
                raise FusionFailed(f"the question could not be fused with its frames: {problem}")
            if problem is None:
                alive_at = self._check_encoders(alive_at)
                continue
            fruitless += 1
            if fruitless > MOST_FRUITLESS:
                raise FusionFailed(
                    f"encoder workers made the fusions, but not for this model ({self._fingerprint}), or the cache "
                    "lost them; `longwatch doctor` says whether they run another checkpoint or the cache is full"
                )

    def _check_encoders(self, alive_at: float) -> float:
        """Returns when encoder workers were last seen alive; raises EncoderMissing."""
        now = time.monotonic()
        if self._store.workers.count_by_queue()[FUSE]:
            return now
        if now - alive_at > self._missing_after_s:
            raise EncoderMissing("no encoder worker is alive; start one with `longwatch worker encode`")
        return alive_at

    def _collect(self, ids: Sequence[int], pending: list[Masks]) -> Iterator[tuple[Masks, Half]]:
        """Yields (portion, rows) of each fusion in the cache, and removes its portion from `pending`."""
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
        """Returns the id of a job that makes these fusions: an earlier one that still waits or runs, else a new one."""
        masks = [each for portion in pending for each in portion]
        requests: list[FusionRequest] = [(list(ids), first_row, masks)]
        job_id = fuse_job_id(self._holder.id, requests)
        earlier = [known for known, ordered in self._ordered.items() if _covers(ordered, ids, masks)]
        live = self._queues.list_live(FUSE, [*earlier, job_id])
        if live:
            return next(known for known in (*earlier, job_id) if known in live)
        self._notices.clear(job_id)
        self._queues.enqueue_fusions(self._holder.id, requests)
        self._ordered[job_id] = requests
        return job_id


def _covers(ordered: Sequence[FusionRequest], ids: Sequence[int], masks: Sequence[tuple[int, int]]) -> bool:
    return any(text == list(ids) and set(masks) <= set(wanted) for text, _, wanted in ordered)
