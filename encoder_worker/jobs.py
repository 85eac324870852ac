"""The encoder's jobs, level-triggered: they make a record hold what it should, and running twice is harmless."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np

from configs.settings import Settings
from encoder_worker.encoder import Encoder
from storage.errors import DamagedRecord, NotFound
from storage.reconciler import Reconciler
from storage.records import Half, Record, text_id
from storage.segments import SEGMENT_FRAMES, mask_of, places_in
from storage.store import Store

log = logging.getLogger(__name__)


class EncoderJobs:
    """`encode_segment` and `fuse_segment`."""

    def __init__(self, settings: Settings, store: Store, encoder: Encoder) -> None:
        self._settings = settings
        self._store = store
        self._encoder = encoder
        self._reconciler = Reconciler(store, settings.queues)

    def encode_segment(self, video_id: str, segment: int) -> None:
        """Makes the segment's record cover every frame that is in the archive."""
        try:
            with self._locked(video_id, segment):
                self._covering_record(video_id, segment)
            self._reconciler.video(video_id)  # what was held back to bound the queue
        except NotFound:
            log.info("video %s was deleted meanwhile", video_id)

    def fuse_segment(self, video_id: str, segment: int, requests: Sequence[tuple[list[int], int]]) -> None:
        """Makes the segment's record hold these texts' fusions: (token ids, mask of frames) each."""
        try:
            with self._locked(video_id, segment):
                record = self._covering_record(video_id, segment)
                fusions = self._fused(video_id, segment, record, requests)
                if fusions:
                    self._keep(video_id, segment, record, fusions)
        except NotFound:
            log.info("video %s was deleted meanwhile", video_id)

    def _locked(self, video_id: str, segment: int) -> AbstractContextManager[bool]:
        """Keeps others off the segment for as long as a worker may be silent: what a dead one held is free soon.

        A slow job may outlive its lock. That costs double work, never a wrong record: each write is a whole one.
        """
        hold_s = self._settings.queues.worker_dead_after_s
        return self._store.segment_lock(video_id, segment, hold_s, wait_s=2 * hold_s)

    def _covering_record(self, video_id: str, segment: int) -> Record:
        """The record with all the frames there are, made or completed where necessary."""
        self._store.archive.video(video_id)
        times = self._store.archive.timestamps_s(video_id, segment)
        record = self._store.record(video_id, segment, self._encoder.fingerprint)
        if record is None or not times:
            record = Record(self._encoder.fingerprint, (), np.zeros((0, 0, 0), np.float16))
        whole = (self._encoder.system_id, mask_of(range(len(times))))
        if len(record) >= len(times) and whole in record.fusions:
            return record
        if len(record) >= len(times) or (self._encoder.system_id, mask_of(range(len(record)))) not in record.fusions:
            record = Record(record.fingerprint, (), np.zeros((0, 0, 0), np.float16), record.fusions)  # another prompt
        grown = self._grown(video_id, segment, record, times)
        self._store.archive.video(video_id)  # NotFound once it was deleted: leave nothing behind
        self._store.put_record(video_id, segment, grown)
        return grown

    def _grown(self, video_id: str, segment: int, record: Record, times: Sequence[float]) -> Record:
        """The record with the frames appended that it lacks, and the system prompt's mean over all of them."""
        old, new = len(record), len(times)
        pictures = self._pictures(video_id, segment, range(old, new))
        encoded = self._encoder.encode(pictures, [self._encoder.system_text])
        tokens = np.concatenate([record.tokens, encoded.tokens]) if old else encoded.tokens
        mean = encoded.means[0] * ((new - old) / new)
        before = (self._encoder.system_id, mask_of(range(old)))
        if old:
            mean = mean + record.fusions[before].astype(np.float32) * (old / new)
        others = {key: value for key, value in record.fusions.items() if key != before}
        fusions = others | {(self._encoder.system_id, mask_of(range(new))): mean.astype(np.float16)}
        return Record(record.fingerprint, tuple(times), tokens, fusions)

    def _fused(
        self, video_id: str, segment: int, record: Record, requests: Sequence[tuple[list[int], int]]
    ) -> dict[tuple[str, int], Half]:
        """What of `requests` the record lacks; texts over the same frames share one pass."""
        by_mask: dict[int, dict[str, list[int]]] = {}
        for ids, mask in requests:
            if (text_id(ids), mask) not in record.fusions:
                by_mask.setdefault(mask, {})[text_id(ids)] = ids
        fusions: dict[tuple[str, int], Half] = {}
        for mask, texts in by_mask.items():
            places = places_in(mask)
            if not places or places[-1] >= len(record):
                raise ValueError(f"mask {mask:016x} names frames that segment {segment} of {video_id} does not have")
            encoded = self._encoder.encode(self._pictures(video_id, segment, places), list(texts.values()))
            for name, mean in zip(texts, encoded.means, strict=True):
                fusions[name, mask] = mean.astype(np.float16)
        return fusions

    def _keep(self, video_id: str, segment: int, record: Record, fusions: dict[tuple[str, int], Half]) -> None:
        keep = self._settings.encoder.max_fusions_per_record
        self._store.archive.video(video_id)
        record = record.with_fusions(fusions, keep=keep, pinned=self._encoder.system_id)
        self._store.put_record(video_id, segment, record)

    def _pictures(self, video_id: str, segment: int, places: Sequence[int]) -> list[bytes]:
        first = segment * SEGMENT_FRAMES
        pictures = [self._store.archive.frame(video_id, first + place) for place in places]
        for place, picture in zip(places, pictures, strict=True):
            if not picture.startswith(b"\xff\xd8"):  # JPEG's first two bytes
                raise DamagedRecord(f"{self._store.archive.frame_path(video_id, first + place)} is damaged: no JPEG")
        return pictures
