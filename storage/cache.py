"""The cache in Redis: tokens, fusions, settled questions. It evicts; losing them costs time, never an answer."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redis import Redis
from redis.exceptions import OutOfMemoryError

from configs.settings import RedisSettings
from storage.connection import mget, redis_errors
from storage.documents import Question, parse_document
from storage.errors import DamagedFile, DamagedState, NewerDocument, RedisUnavailable
from storage.packing import pack_array, unpack_array
from storage.records import Half, Record
from storage.timeline import Masks, count_frames

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FusionKey:
    """A text fused with the frames of a portion (see `timeline.cut_portions`), and averaged over them."""

    video_id: str
    text_id: str
    masks: Masks


class Cache:
    """Arrays by key. If the cache is unreachable, tokens count as missing; reads of fusions raise RedisUnavailable.

    Fusions travel from the encoder to the reasoner through the cache, so new questions cannot be answered without it.
    """

    def __init__(self, redis: Redis, settings: RedisSettings) -> None:
        self.redis = redis
        self._ttl_s = settings.cache_ttl_s

    def check(self) -> None:
        """Raises RedisUnavailable if the cache does not answer."""
        with redis_errors("cache"):
            self.redis.ping()

    def read_tokens(self, video_id: str, segments: Sequence[int], fingerprint: str) -> dict[int, tuple[int, Half]]:
        """Segment -> (mask, tokens (n,C,D)) of the cached segments, with one command."""
        if not segments:
            return {}
        try:
            with redis_errors("cache"):
                blobs = mget(self.redis, [_tokens_key(video_id, segment, fingerprint) for segment in segments])
        except RedisUnavailable as error:
            log.warning("cannot reach the cache, reading tokens from the archive: %s", error)
            return {}
        found = {}
        for segment, blob in zip(segments, blobs, strict=True):
            array = None if blob is None else unpack_array(blob, 3)
            if array is not None and array[0].bit_count() == len(array[1]):
                found[segment] = array
        return found

    def write_record(self, video_id: str, segment: int, record: Record) -> None:
        """Caches a record's tokens and, under another key, the system prompt's fusion, which few questions read."""
        key = _tokens_key(video_id, segment, record.fingerprint)
        system_key = _system_key(video_id, segment, record.system_id, record.fingerprint)
        self._write({key: pack_array(record.mask, record.tokens), system_key: pack_array(record.mask, record.system)})

    def read_fusions(self, keys: Sequence[FusionKey], fingerprint: str) -> list[Half | None]:
        """The fusions (L,D) under these keys, None for each missing one; with one command."""
        if not keys:
            return []
        with redis_errors("cache"):
            blobs = mget(self.redis, [_fusion_key(key, fingerprint) for key in keys])
        arrays = [None if blob is None else unpack_array(blob, 2) for blob in blobs]
        return [
            None if array is None or array[0] != count_frames(key.masks) else array[1]
            for key, array in zip(keys, arrays, strict=True)
        ]

    def write_fusions(self, fusions: Mapping[FusionKey, Half], fingerprint: str) -> None:
        """Caches fusions; raises RedisUnavailable."""
        blobs = {
            _fusion_key(key, fingerprint): pack_array(count_frames(key.masks), value) for key, value in fusions.items()
        }
        with redis_errors("cache"), self.redis.pipeline(transaction=False) as pipeline:
            for key, blob in blobs.items():
                pipeline.set(key, blob, ex=self._ttl_s)
            pipeline.execute()

    def read_rows(self, name: str, fingerprint: str) -> tuple[int, Half] | None:
        """(count of fused frames, rows (L,D)) of a pooled question; None if they are not cached."""
        try:
            with redis_errors("cache"):
                blob = self.redis.get(_rows_key(name, fingerprint))
        except (RedisUnavailable, DamagedState) as error:
            log.warning("cannot read a value from the cache: %s", error)
            return None
        return unpack_array(blob, 2) if isinstance(blob, bytes) else None

    def write_rows(self, name: str, fingerprint: str, frames: int, rows: Half) -> None:
        """Caches a pooled question's rows."""
        self._write({_rows_key(name, fingerprint): pack_array(frames, rows)})

    def read_systems(self, video_id: str, segments: Sequence[int], system_id: str, fingerprint: str) -> dict[int, Half]:
        """Segment -> the system prompt's fusion with its frames (L,D), for the cached segments; with one command."""
        if not segments:
            return {}
        try:
            with redis_errors("cache"):
                keys = [_system_key(video_id, segment, system_id, fingerprint) for segment in segments]
                blobs = mget(self.redis, keys)
        except (RedisUnavailable, DamagedState) as error:
            log.warning("cannot read values from the cache: %s", error)
            return {}
        arrays = {
            segment: unpack_array(blob, 2) for segment, blob in zip(segments, blobs, strict=True) if blob is not None
        }
        return {segment: array[1] for segment, array in arrays.items() if array is not None}

    def read_settled(self, question_ids: Sequence[str]) -> list[Question | None]:
        """Settled questions, None for each that is not cached; with one command."""
        if not question_ids:
            return []
        try:
            with redis_errors("cache"):
                blobs = mget(self.redis, [_question_key(question_id) for question_id in question_ids])
        except RedisUnavailable as error:
            log.warning("cannot reach the cache, reading questions from the archive: %s", error)
            return [None] * len(question_ids)
        return [_question(blob) for blob in blobs]

    def write_settled(self, question: Question) -> None:
        """Caches a settled question, which never changes again."""
        self._write({_question_key(question.id): question.model_dump_json().encode()})

    def forget_settled(self, question_ids: Sequence[str]) -> None:
        """Removes the copies of these questions: their video was deleted."""
        if not question_ids:
            return
        try:
            with redis_errors("cache"):
                self.redis.delete(*map(_question_key, question_ids))
        except RedisUnavailable as error:
            log.warning("cannot reach the cache, copies of deleted questions stay until they expire: %s", error)

    def _write(self, blobs: Mapping[str, bytes]) -> None:
        try:
            with redis_errors("cache"), self.redis.pipeline(transaction=False) as pipeline:
                for key, blob in blobs.items():
                    pipeline.set(key, blob, ex=self._ttl_s)
                pipeline.execute()
        except (RedisUnavailable, OutOfMemoryError) as error:
            log.warning("cannot write %s to the cache: %s", ", ".join(blobs), error)


def _question(blob: object) -> Question | None:
    if not isinstance(blob, bytes):
        return None
    try:
        return parse_document(Question, blob, "a question in the cache")
    except (DamagedFile, NewerDocument) as error:
        log.error("%s", error)
        return None


def _question_key(question_id: str) -> str:
    return f"lw:question:{question_id}"


def _tokens_key(video_id: str, segment: int, fingerprint: str) -> str:
    return f"lw:tokens:{fingerprint}:{video_id}:{segment}"


def _system_key(video_id: str, segment: int, system_id: str, fingerprint: str) -> str:
    return f"lw:system:{fingerprint}:{system_id}:{video_id}:{segment}"


def _fusion_key(key: FusionKey, fingerprint: str) -> str:
    frames_id = hashlib.sha256(repr(key.masks).encode()).hexdigest()[:24]
    return f"lw:fusion:{fingerprint}:{key.video_id}:{key.text_id}:{frames_id}"


def _rows_key(name: str, fingerprint: str) -> str:
    return f"lw:rows:{fingerprint}:{name}"
