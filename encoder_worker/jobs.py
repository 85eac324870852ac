"""The encoder's jobs, level-triggered: they make a record hold what it should, and running twice is harmless."""

import logging
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from configs.settings import Settings
from encoder_worker.encoder import Encoder, Frames, decoded
from storage.errors import DamagedRecord, NotFound
from storage.queues import FusionRequest
from storage.reconciler import Reconciler
from storage.records import Half, Record, text_id
from storage.segments import SEGMENT_FRAMES, mask_of, places_in
from storage.store import Store

log = logging.getLogger(__name__)
Fusions = dict[tuple[str, int], Half]


class EncoderJobs:
    """`encode_segment` and `fuse_segment`.

    A lock per segment saves double work. It is held as long as a worker may be silent, so that what a dead one held
    is free soon; a job may outlive it, which costs work but never makes a record wrong: each write is a whole one.
    """

    def __init__(self, settings: Settings, store: Store, encoder: Encoder) -> None:
        self._store = store
        self._encoder = encoder
        self._reconciler = Reconciler(store, settings.queues)
        self._keep_fusions = settings.encoder.max_fusions_per_record
        self._hold_s = settings.queues.worker_dead_after_s

    def encode_segment(self, video_id: str, segment: int) -> None:
        """Makes the segment's record cover every frame that is in the archive.

        Raises DamagedRecord naming a picture where none of the segment's can be read.
        """
        try:
            with self._store.segment_lock(video_id, segment, self._hold_s, wait_s=0) as got:
                if not got:
                    return  # another is at it; the reconciler comes back
                self._covering_record(video_id, segment)
            self._reconciler.video(video_id)  # what was held back to bound the queue
        except NotFound:
            log.info("video %s was deleted meanwhile", video_id)

    def fuse_segment(self, video_id: str, segment: int, requests: Sequence[FusionRequest]) -> None:
        """Makes the segment's record hold these texts' fusions: (token ids, mask of frames) each.

        Raises DamagedRecord as above, ValueError where a mask names frames that are not there.
        """
        try:
            with self._store.segment_lock(video_id, segment, self._hold_s, wait_s=2 * self._hold_s):
                record = self._covering_record(video_id, segment)
                fusions = self._fused(video_id, segment, record, requests)
                if fusions:
                    self._keep(video_id, segment, record, fusions)
        except NotFound:
            log.info("video %s was deleted meanwhile", video_id)

    def _covering_record(self, video_id: str, segment: int) -> Record:
        """The record with all the frames there are, made or completed where necessary."""
        self._store.archive.video(video_id)
        times = self._store.archive.timestamps_s(video_id, segment)
        record = self._store.record(video_id, segment, self._encoder.fingerprint)
        if record is None:
            record = Record(self._encoder.fingerprint, (), _no_tokens())
        if not times:
            return record  # there is nothing to cover
        if len(record) != len(times) or self._whole(len(times)) not in record.fusions:
            record = self._grown(video_id, segment, record, times)
        elif self._store.counts(video_id).tokens.get(segment, 0) == len(times):
            return record  # all is as it should be
        self._store.put_record(video_id, segment, record)
        return record

    def _grown(self, video_id: str, segment: int, record: Record, times: Sequence[float]) -> Record:
        """The record with the frames appended that it lacks, and the system prompt's mean over all of them."""
        before = self._whole(len(record))
        if len(record) >= len(times) or before not in record.fusions:  # another system prompt, or frames were lost
            record = Record(record.fingerprint, (), _no_tokens(), record.fusions)
        old, new = len(record), len(times)
        frames = self._frames(video_id, segment, range(old, new))
        encoded = self._encoder.encode(frames, [(self._encoder.system_text, range(new - old))])
        tokens = np.concatenate([record.tokens, encoded.tokens]) if old else encoded.tokens
        mean = encoded.means[0] * ((new - old) / new)
        if old:
            mean = mean + record.fusions[before].astype(np.float32) * (old / new)
        fusions = {key: value for key, value in record.fusions.items() if key != before}
        fusions[self._whole(new)] = mean.astype(np.float16)
        return Record(record.fingerprint, tuple(times), tokens, fusions)

    def _fused(self, video_id: str, segment: int, record: Record, requests: Sequence[FusionRequest]) -> Fusions:
        """What of `requests` the record lacks, from one pass over just the frames it takes."""
        lacking = {(text_id(ids), mask): ids for ids, mask in requests}
        lacking = {key: ids for key, ids in lacking.items() if key not in record.fusions}
        if not lacking:
            return {}
        there = mask_of(range(len(record)))
        for _, mask in lacking:
            if not mask or mask & ~there:
                raise ValueError(f"mask {mask:016x} names frames that segment {segment} of {video_id} does not have")
        places = sorted({place for _, mask in lacking for place in places_in(mask)})
        wishes = [(ids, [places.index(place) for place in places_in(mask)]) for (_, mask), ids in lacking.items()]
        means = self._encoder.encode(self._frames(video_id, segment, places), wishes).means
        return {key: mean.astype(np.float16) for key, mean in zip(lacking, means, strict=True)}

    def _keep(self, video_id: str, segment: int, record: Record, fusions: Fusions) -> None:
        self._store.archive.video(video_id)
        newest = self._store.record(video_id, segment, self._encoder.fingerprint)  # if the lock ran out meanwhile
        if newest is not None and len(newest) >= len(record):
            record = newest
        record = record.with_fusions(fusions, keep=self._keep_fusions, pinned=self._encoder.system_id)
        self._store.put_record(video_id, segment, record)

    def _whole(self, count: int) -> tuple[str, int]:
        """Under which key the system prompt's mean over all `count` frames of a record is kept."""
        return self._encoder.system_id, mask_of(range(count))

    def _frames(self, video_id: str, segment: int, places: Sequence[int]) -> Frames:
        """The frames at these places of the segment; the nearest whole one stands in for a damaged one.

        Raises DamagedRecord with the picture's path where none of the segment is whole.
        """
        return np.stack([self._frame(video_id, segment, place) for place in places])

    def _frame(self, video_id: str, segment: int, place: int) -> NDArray[np.uint8]:
        first = segment * SEGMENT_FRAMES
        try:
            return self._whole_frame(video_id, first + place)
        except DamagedRecord as error:
            log.error("%s; a neighbour stands in", error)
            for near in (*range(place - 1, -1, -1), *range(place + 1, SEGMENT_FRAMES)):
                with suppress(DamagedRecord):
                    return self._whole_frame(video_id, first + near)
            raise

    def _whole_frame(self, video_id: str, index: int) -> NDArray[np.uint8]:
        archive = self._store.archive
        path = archive.frame_path(video_id, index)
        try:
            picture = archive.frame(video_id, index)
        except NotFound as error:
            archive.video(video_id)  # NotFound where all of the video is gone: that is no damage
            raise DamagedRecord(f"{path} is missing; restore it, or add the video anew") from error
        return decoded(picture, path)


def _no_tokens() -> Half:
    return np.zeros((0, 0, 0), np.float16)
