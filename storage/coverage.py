"""Which segments of a video are sampled and encoded: bitmaps in Redis, read for a stretch or counted whole."""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.client import Pipeline

from storage.connection import as_text, redis_errors
from storage.index import deleted_key
from storage.timeline import FULL_MASK

log = logging.getLogger(__name__)

MODELS = "lw:models"  # set of all fingerprints that ever encoded here

# A segment is counted when its bit is set for the first time; one that is not full is noted with its mask.
_MARK = """
if redis.call('EXISTS', KEYS[4]) == 1 then return 0 end
if redis.call('SETBIT', KEYS[1], ARGV[1], 1) == 0 then
  redis.call('HINCRBY', KEYS[2], ARGV[2], ARGV[3])
  redis.call('HSETNX', KEYS[2], ARGV[2] .. ':since', ARGV[5])
  if ARGV[4] ~= '' then redis.call('ZADD', KEYS[3], ARGV[1], ARGV[1] .. ':' .. ARGV[4]) end
end
return 1
"""
_UNMARK = """
if redis.call('GETBIT', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('SETBIT', KEYS[1], ARGV[1], 0)
redis.call('HINCRBY', KEYS[2], ARGV[2], -ARGV[3])
return 1
"""
_FAIL = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('SADD', KEYS[3], ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""
_COUNTED = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'counted', 1)
return 1
"""


@dataclass(frozen=True)
class Totals:
    """How many frames of a video are sampled, encoded, and given up; and when encoding began (epoch seconds)."""

    sampled: int
    encoded: int
    failed: int
    encoded_segments: int  # from the start, without a gap
    since_s: float | None


@dataclass(frozen=True)
class Covered:
    """The segments of a stretch."""

    sampled: dict[int, int]  # segment -> mask of its frames
    encoded: frozenset[int]
    failed: dict[int, str]  # segment -> why it could not be encoded

    def missing(self) -> list[int]:
        """Sampled segments that are still to be encoded, ascending."""
        return [segment for segment in self.sampled if segment not in self.encoded and segment not in self.failed]


class Coverage:
    """Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._mark = redis.register_script(_MARK)
        self._unmark = redis.register_script(_UNMARK)
        self._fail = redis.register_script(_FAIL)
        self._counted = redis.register_script(_COUNTED)

    def mark_sampled(self, video_id: str, masks: Mapping[int, int]) -> None:
        """The archive holds these segments' frames (segment -> mask)."""
        with redis_errors(), self._redis.pipeline(transaction=False) as pipeline:
            for segment, mask in masks.items():
                self._set(pipeline, _sampled_key(video_id), video_id, segment, mask, "sampled")
            pipeline.execute()

    def mark_encoded(self, video_id: str, masks: Mapping[int, int], fingerprint: str) -> None:
        """The archive holds these segments' records by this model (segment -> mask)."""
        if not masks:
            return
        with redis_errors(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.sadd(MODELS, fingerprint)
            for segment, mask in masks.items():
                key = _encoded_key(video_id, fingerprint)
                self._set(pipeline, key, video_id, segment, mask, f"encoded:{fingerprint}")
            pipeline.hdel(_failed_key(video_id, fingerprint), *map(str, masks))
            pipeline.execute()

    def unmark_encoded(self, video_id: str, segment: int, mask: int, fingerprint: str) -> None:
        """The segment's record was lost or damaged."""
        with redis_errors():
            self._unmark(
                keys=[_encoded_key(video_id, fingerprint), _totals_key(video_id)],
                args=[segment, f"encoded:{fingerprint}", mask.bit_count()],
            )

    def mark_failed(self, video_id: str, segment: int, mask: int, fingerprint: str, reason: str) -> None:
        """The segment could not be encoded."""
        keys = [_failed_key(video_id, fingerprint), deleted_key(video_id), MODELS]
        with redis_errors():
            self._fail(keys=keys, args=[segment, f"{mask.bit_count()}:{reason}", fingerprint])

    def clear_failed(self, video_id: str, fingerprint: str) -> None:
        """Has the segments that could not be encoded tried again."""
        with redis_errors():
            self._redis.delete(_failed_key(video_id, fingerprint))

    def set_counted(self, video_id: str) -> None:
        """The marks of this video are complete: they were made while it was sampled, or read from the archive."""
        with redis_errors():
            self._counted(keys=[_totals_key(video_id), deleted_key(video_id)])

    def is_counted(self, video_id: str) -> bool:
        """Whether the marks of this video are complete; a flush takes them."""
        with redis_errors():
            return bool(self._redis.hexists(_totals_key(video_id), "counted"))

    def read_totals(self, video_ids: Iterable[str], fingerprint: str) -> list[Totals | None]:
        """The totals of each video, by one round trip; None for marks that are not complete."""
        with redis_errors(), self._redis.pipeline(transaction=False) as pipeline:
            for video_id in video_ids:
                pipeline.hgetall(_totals_key(video_id))
                pipeline.hvals(_failed_key(video_id, fingerprint))
                pipeline.bitpos(_encoded_key(video_id, fingerprint), 0)
                pipeline.strlen(_encoded_key(video_id, fingerprint))
            replies = pipeline.execute()
        return [_totals(replies[k : k + 4], fingerprint) for k in range(0, len(replies), 4)]

    def read(self, video_id: str, segments: range, fingerprint: str) -> Covered:
        """The segments of a stretch."""
        if not segments:
            return Covered({}, frozenset(), {})
        first, last = segments.start // 8, (segments.stop - 1) // 8
        with redis_errors(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.getrange(_sampled_key(video_id), first, last)
            pipeline.getrange(_encoded_key(video_id, fingerprint), first, last)
            pipeline.zrangebyscore(_partial_key(video_id), segments.start, segments.stop - 1)
            pipeline.hgetall(_failed_key(video_id, fingerprint))
            sampled, encoded, partial, failed = pipeline.execute()
        masks = dict.fromkeys(_bits(sampled, first * 8, segments), FULL_MASK)
        masks |= {segment: mask for segment, mask in map(_partial, partial) if segment in masks}
        reasons = {int(segment): as_text(value).partition(":")[2] for segment, value in failed.items()}
        return Covered(
            masks,
            frozenset(_bits(encoded, first * 8, segments)),
            {segment: reason for segment, reason in sorted(reasons.items()) if segment in segments},
        )

    def count_sampled(self, video_id: str) -> int:
        """How many frames are sampled."""
        with redis_errors():
            return int(self._redis.hget(_totals_key(video_id), "sampled") or 0)

    def count_segments(self, video_id: str) -> int:
        """One more than the number of the last sampled segment, to within seven."""
        with redis_errors():
            return 8 * int(self._redis.strlen(_sampled_key(video_id)))

    def first_missing(self, video_id: str, fingerprint: str, count: int) -> list[int]:
        """Up to `count` segments that are sampled, but neither encoded nor given up, ascending."""
        with redis_errors(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.get(_sampled_key(video_id))
            pipeline.get(_encoded_key(video_id, fingerprint))
            pipeline.hkeys(_failed_key(video_id, fingerprint))
            sampled, encoded, failed = pipeline.execute()
        done = (encoded or b"").ljust(len(sampled or b""), b"\0")
        given_up = {int(segment) for segment in failed}
        missing: list[int] = []
        for at, (one, other) in enumerate(zip(sampled or b"", done, strict=False)):
            if one & ~other:
                segments = _bits(bytes([one & ~other]), 8 * at, range(8 * at, 8 * at + 8))
                missing += [segment for segment in segments if segment not in given_up]
                if len(missing) >= count:
                    break
        return missing[:count]

    def find_models(self) -> None:
        """Makes the set of fingerprints anew from all keys there are, after something else was found in its place."""
        log.error("%s in Redis is none of ours and is made anew", MODELS)
        with redis_errors():
            self._redis.delete(MODELS)
            for pattern in ("lw:encoded:*", "lw:failed:*"):
                for key in self._redis.scan_iter(pattern, count=1000):
                    self._redis.sadd(MODELS, key.split(b":")[2])

    def forget(self, video_id: str) -> None:
        """Removes every mark of the video."""
        with redis_errors():
            keys = [_sampled_key(video_id), _partial_key(video_id), _totals_key(video_id)]
            if self._redis.type(MODELS) not in (b"set", b"none"):
                self.find_models()
            for fingerprint in map(as_text, self._redis.smembers(MODELS)):
                keys += [_encoded_key(video_id, fingerprint), _failed_key(video_id, fingerprint)]
            self._redis.delete(*keys)

    def _set(self, pipeline: Pipeline, key: str, video_id: str, segment: int, mask: int, counter: str) -> None:
        partial = "" if mask == FULL_MASK else f"{mask:016x}"
        self._mark(
            keys=[key, _totals_key(video_id), _partial_key(video_id), deleted_key(video_id)],
            args=[segment, counter, mask.bit_count(), partial, int(time.time())],
            client=pipeline,
        )


def _totals(replies: list[Any], fingerprint: str) -> Totals | None:
    raw, failed, first_gap, encoded_bytes = replies
    counts = {as_text(name): int(value) for name, value in raw.items()}
    if "counted" not in counts:
        return None
    since = counts.get(f"encoded:{fingerprint}:since")
    return Totals(
        counts.get("sampled", 0),
        counts.get(f"encoded:{fingerprint}", 0),
        sum(int(as_text(value).partition(":")[0]) for value in failed),
        first_gap if first_gap >= 0 and encoded_bytes else 8 * encoded_bytes,
        None if since is None else float(since),
    )


def _bits(data: bytes, offset: int, segments: range) -> list[int]:
    """The numbers of the bits that are set; the first bit of `data` is number `offset`."""
    found = (
        offset + 8 * at + place for at, byte in enumerate(data) if byte for place in range(8) if byte >> (7 - place) & 1
    )
    return [number for number in found if number in segments]


def _partial(member: bytes) -> tuple[int, int]:
    segment, _, mask = as_text(member).partition(":")
    return int(segment), int(mask, 16)


def _sampled_key(video_id: str) -> str:
    return f"lw:sampled:{video_id}"


def _partial_key(video_id: str) -> str:
    return f"lw:partial:{video_id}"


def _totals_key(video_id: str) -> str:
    return f"lw:totals:{video_id}"


def _encoded_key(video_id: str, fingerprint: str) -> str:
    return f"lw:encoded:{fingerprint}:{video_id}"


def _failed_key(video_id: str, fingerprint: str) -> str:
    return f"lw:failed:{fingerprint}:{video_id}"
