"""The encoder's jobs, level-triggered: each ensures that tokens or fusions exist, and running it twice is harmless."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.settings import Settings
from encoder_worker.encoder import Encoder
from encoder_worker.reading import encode_places
from jobs.inspector import Inspector
from jobs.names import FusionRequest, fuse_job_id
from jobs.notices import Notices
from llava_mini.errors import NonFinite
from storage.cache import FusionKey
from storage.documents import Video
from storage.errors import DamagedFile, NotFound
from storage.records import Half, Record, select_tokens, text_id
from storage.store import Store
from storage.timeline import Masks, count_frames, cut_portions, places_in

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WantedFusion:
    """A text averaged over the frames of a portion; its rows before `first_row` are not kept."""

    ids: tuple[int, ...]
    first_row: int
    masks: Masks


class EncoderJobs:
    """`encode_segment` and `fuse_question`."""

    def __init__(self, settings: Settings, store: Store, encoder: Encoder) -> None:
        self._store = store
        self._encoder = encoder
        self._inspector = Inspector(store, settings.jobs)
        self._notices = Notices(store.state)
        self._hold_s = settings.jobs.worker_dead_after_s

    def encode_segment(self, video_id: str, segment: int) -> None:
        """Makes the segment's record; raises NonFinite, and DamagedFile if its pictures are gone or damaged."""
        try:
            mask = self._mask(video_id, segment)
            with self._store.locks.hold(f"{video_id}:{segment}", self._hold_s) as held:
                if mask and held:  # else it is encoded, or another worker does it and the reconciler checks later
                    self._make_record(video_id, segment, mask)
            self._follow_up(video_id, segment)
        except NotFound as error:
            self._require_deleted(video_id, error)

    def give_up_segment(self, reason: str, video_id: str, segment: int) -> None:
        """Marks the segment as failed, so that questions continue without it."""
        span = range(segment, segment + 1)
        try:
            covered = self._store.read_coverage(self._store.read_video(video_id), span, self._encoder.fingerprint)
            mask = covered.sampled.get(segment, 0)
            self._store.coverage.mark_failed(video_id, segment, mask, self._encoder.fingerprint, reason)
            self._follow_up(video_id, segment)
        except NotFound:
            log.info("video %s was deleted meanwhile", video_id)

    def fuse_question(self, video_id: str, requests: Sequence[FusionRequest]) -> None:
        """Caches these fusions: texts averaged over portions of frames. Raises DamagedFile, NonFinite."""
        job_id = fuse_job_id(video_id, requests)
        try:
            video = self._store.read_video(video_id)
            for portion in _portions(requests):
                self._store.cache.write_fusions(self._fuse(video, portion), self._encoder.fingerprint)
        except NotFound as error:
            self._require_deleted(video_id, error)
        self._notices.tell(job_id)

    def give_up_fusions(self, reason: str, video_id: str, requests: Sequence[FusionRequest]) -> None:
        """Tells the waiting questions why there are no fusions."""
        self._notices.tell(fuse_job_id(video_id, requests), reason)

    def _mask(self, video_id: str, segment: int) -> int:
        """The mask of the segment's frames to encode: 0 if they are encoded already, or if there are none."""
        video = self._store.read_video(video_id)
        covered = self._store.read_coverage(video, range(segment, segment + 1), self._encoder.fingerprint)
        return 0 if segment in covered.recorded else covered.sampled.get(segment, 0)

    def _make_record(self, video_id: str, segment: int, mask: int) -> None:
        record = self._store.archive.read_record(video_id, segment, self._encoder.fingerprint)
        video = self._store.read_video(video_id)
        if record is not None and mask & ~record.mask:  # a stream's segment has grown
            self._store.drop_record(video_id, segment, record)
            record = None
        if record is None:
            record = self._encode_rest(video, segment, mask)
        self._store.create_record(video_id, segment, record)
        if video.is_live:
            self._store.open_frames.remove_tokens(video_id, self._encoder.fingerprint, segment)

    def _encode_rest(self, video: Video, segment: int, mask: int) -> Record:
        """Makes the record. Of a stream, most frames were encoded when they came; only the others are encoded now."""
        known, tokens, system = self._read_known(video, segment, mask)
        rest = mask & ~known
        if rest:
            wish = (self._encoder.system_text, range(rest.bit_count()))
            encoded = encode_places(self._store, self._encoder, video, {segment: rest}, [wish])
            tokens |= dict(zip(places_in(rest), encoded.tokens, strict=True))
            share = rest.bit_count() / mask.bit_count()
            system = encoded.means[0] if system is None else encoded.means[0] * share + system * (1 - share)
        assert system is not None, "a segment has frames"
        where = f"segment {segment} of {video.id}"
        rows = _to_half(np.stack([tokens[place] for place in places_in(mask)]), where)
        return Record(self._encoder.fingerprint, mask, rows, self._encoder.system_id, _to_half(system, where))

    def _read_known(
        self, video: Video, segment: int, mask: int
    ) -> tuple[int, dict[int, NDArray[np.float32]], NDArray[np.float32] | None]:
        """What is known of a stream's segment: a mask, the tokens by place, and the system prompt's mean over it."""
        if not video.is_live:
            return 0, {}, None
        mean = self._store.open_frames.read_system(video.id, self._encoder.fingerprint, segment)
        kept = self._store.open_frames.read_tokens(video.id, segment, self._encoder.fingerprint)
        if mean is None or kept is None or mean.mask & ~(kept[0] & mask):
            return 0, {}, None
        rows = select_tokens(kept[1], kept[0], mean.mask).astype(np.float32)
        return mean.mask, dict(zip(places_in(mean.mask), rows, strict=True)), mean.rows.astype(np.float32)

    def _require_deleted(self, video_id: str, error: NotFound) -> None:
        """Raises DamagedFile if the video still exists: its pictures are gone, and no retry brings them back."""
        if self._store.archive.has_video(video_id):
            raise DamagedFile(f"{error}, though it was sampled; restore it, or add the video again") from error
        log.info("video %s was deleted meanwhile", video_id)

    def _follow_up(self, video_id: str, segment: int) -> None:
        """Enqueues segments that were held back to bound the queue, and wakes waiting questions."""
        self._inspector.inspect_video(video_id)
        self._inspector.wake_questions(video_id, segment)

    def _fuse(self, video: Video, fusions: Sequence[WantedFusion]) -> dict[FusionKey, Half]:
        """The fusions of one portion, from one pass over its frames."""
        masks: dict[int, int] = {}
        for segment, mask in fusions[0].masks:
            masks[segment] = masks.get(segment, 0) | mask
        count = count_frames(masks.items())
        wishes = [(fusion.ids, range(count)) for fusion in fusions]
        means = encode_places(self._store, self._encoder, video, masks, wishes, urgent=True).means
        where = f"segments {min(masks)} to {max(masks)} of {video.id}"
        return {
            FusionKey(video.id, text_id(fusion.ids), fusion.masks): _to_half(mean[fusion.first_row :], where)
            for fusion, mean in zip(fusions, means, strict=True)
        }


def _portions(requests: Sequence[FusionRequest]) -> list[list[WantedFusion]]:
    """The fusions, grouped by portions of about 64 frames: an hour's pictures are a gigabyte."""
    wanted: dict[Masks, list[WantedFusion]] = {}
    for ids, first_row, masks in requests:
        for portion in cut_portions(masks):
            wanted.setdefault(portion, []).append(WantedFusion(tuple(ids), first_row, portion))
    return list(wanted.values())


def _to_half(values: NDArray[np.float32], where: str) -> Half:
    """Converts to float16, which is stored; raises NonFinite if a value does not fit."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise NonFinite(where)
    return half
