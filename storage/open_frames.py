"""A stream's frames that the archive does not hold yet: their slots, pictures and tokens, by slot, in Redis.

The pictures are in the cache: a camera's are 8 MB a minute, and the capturing host has them in its spool. The slots,
the tokens and the mean of the system prompt's fusions are in the state.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from redis import Redis

from storage.connection import redis_errors
from storage.index import deleted_key
from storage.packing import pack_array, unpack_array
from storage.records import Half
from storage.segments import SegmentFrame
from storage.timeline import SEGMENT_SLOTS, locate, mask_of, places_in

PICTURES_KNOWN_S = 3600  # longer than a segment is open, also while the archive is away for a while
KNOWN_S = 7 * 86400

# Adds captured slots, unless the stream was deleted.
_ADD = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
for _, slot in ipairs(ARGV) do redis.call('ZADD', KEYS[1], slot, slot) end
return 1
"""
# Sets fields of a hash for ARGV[1] seconds, unless the stream was deleted.
_SET = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
"""
_NEW = """
local found = {}
for at, key in ipairs(KEYS) do found[at] = redis.call('ZRANGEBYSCORE', key, ARGV[at], '+inf') end
return found
"""


@dataclass(frozen=True)
class SystemMean:
    """The system prompt's rows (L,D), averaged over the frames in the mask of a segment."""

    mask: int
    rows: Half


class OpenFrames:
    """Reads and writes open frames. Raises RedisUnavailable; lost pictures count as missing."""

    def __init__(self, state: Redis, cache: Redis) -> None:
        self._state = state
        self._cache = cache
        self._add = state.register_script(_ADD)
        self._new = state.register_script(_NEW)
        self._set = state.register_script(_SET)

    # capture

    def add_frames(self, stream_id: str, segment: int, frames: Sequence[SegmentFrame]) -> None:
        """Adds captured frames of a segment: the pictures first, then the slots that readers see."""
        self.put_pictures(stream_id, segment, frames)
        slots = [segment * SEGMENT_SLOTS + frame.place for frame in frames]
        with redis_errors():
            self._add(keys=[open_slots_key(stream_id), deleted_key(stream_id)], args=slots)

    def put_pictures(self, stream_id: str, segment: int, frames: Sequence[SegmentFrame]) -> None:
        """Stores pictures, unless their slots have some."""
        key = _pictures_key(stream_id, segment)
        with redis_errors("cache"), self._cache.pipeline(transaction=False) as pipeline:
            for frame in frames:
                pipeline.hsetnx(key, str(frame.place), cast(Any, _pack_frame(frame)))
            pipeline.expire(key, PICTURES_KNOWN_S)
            pipeline.execute()

    def list_pictured(self, wanted: Sequence[tuple[str, int]]) -> list[int]:
        """The masks of the places that have pictures, for each (stream, segment)."""
        with redis_errors("cache"), self._cache.pipeline(transaction=False) as pipeline:
            for stream_id, segment in wanted:
                pipeline.hkeys(_pictures_key(stream_id, segment))
            return [mask_of(map(int, places)) for places in pipeline.execute()]

    def list_slots(self, stream_id: str) -> list[int]:
        """All captured slots that the archive does not hold yet, ascending."""
        with redis_errors():
            return [int(slot) for slot in cast(list[bytes], self._state.zrange(open_slots_key(stream_id), 0, -1))]

    def remove_segment(self, stream_id: str, segment: int) -> None:
        """Forgets that the segment is open: the archive holds its frames."""
        first = segment * SEGMENT_SLOTS
        with redis_errors():
            self._state.zremrangebyscore(open_slots_key(stream_id), first, first + SEGMENT_SLOTS - 1)

    def read_pictures(self, stream_id: str, segment: int, mask: int) -> dict[int, SegmentFrame]:
        """Place -> frame, for those in the mask whose pictures are there."""
        places = places_in(mask)
        if not places:
            return {}
        with redis_errors("cache"):
            blobs = cast(list[Any], self._cache.hmget(_pictures_key(stream_id, segment), [str(k) for k in places]))
        return {place: _unpack_frame(place, blob) for place, blob in zip(places, blobs, strict=True) if blob}

    # encoding

    def list_new(self, after: Mapping[str, int]) -> dict[str, list[int]]:
        """Stream -> its captured slots after the given one, ascending; one command for all streams."""
        if not after:
            return {}
        with redis_errors():
            found = self._new(
                keys=[open_slots_key(stream_id) for stream_id in after], args=[n + 1 for n in after.values()]
            )
        return {
            stream_id: [int(slot) for slot in slots] for stream_id, slots in zip(after, found, strict=True) if slots
        }

    def write_tokens(self, stream_id: str, fingerprint: str, tokens: Mapping[int, Half]) -> None:
        """Stores the tokens (C,D) of slots."""
        fields = [word for slot, rows in tokens.items() for word in (slot, pack_array(slot, rows))]
        with redis_errors():
            self._set(keys=[open_tokens_key(stream_id, fingerprint), deleted_key(stream_id)], args=[KNOWN_S, *fields])

    def read_tokens(self, stream_id: str, segment: int, fingerprint: str) -> tuple[int, Half] | None:
        """(mask, tokens (n,C,D)) of the segment's open frames that have tokens; None if there are none."""
        first = segment * SEGMENT_SLOTS
        names = [str(slot) for slot in range(first, first + SEGMENT_SLOTS)]
        with redis_errors():
            blobs = cast(list[Any], self._state.hmget(open_tokens_key(stream_id, fingerprint), names))
        arrays = {place: found[1] for place, blob in enumerate(blobs) if blob and (found := unpack_array(blob, 2))}
        return (mask_of(arrays), np.stack(list(arrays.values()))) if arrays else None

    def list_encoded(self, stream_id: str, fingerprint: str) -> list[int]:
        """The slots of open frames that have tokens."""
        with redis_errors():
            return sorted(int(slot) for slot in self._state.hkeys(open_tokens_key(stream_id, fingerprint)))

    def write_system(self, stream_id: str, fingerprint: str, segment: int, mean: SystemMean) -> None:
        """Stores the mean of the system prompt's rows over frames of an open segment."""
        keys = [_system_key(stream_id, fingerprint), deleted_key(stream_id)]
        with redis_errors():
            self._set(keys=keys, args=[KNOWN_S, segment, pack_array(mean.mask, mean.rows)])

    def read_system(self, stream_id: str, fingerprint: str, segment: int) -> SystemMean | None:
        """The mean of the system prompt's rows, if it is known."""
        with redis_errors():
            blob = cast(Any, self._state.hget(_system_key(stream_id, fingerprint), str(segment)))
        found = unpack_array(blob, 2) if blob else None
        return None if found is None else SystemMean(*found)

    def remove_tokens(self, stream_id: str, fingerprint: str, segment: int) -> None:
        """Forgets the tokens of an open segment: its record is stored."""
        slots = range(segment * SEGMENT_SLOTS, (segment + 1) * SEGMENT_SLOTS)
        with redis_errors(), self._state.pipeline(transaction=False) as pipeline:
            pipeline.hdel(open_tokens_key(stream_id, fingerprint), *map(str, slots))
            pipeline.hdel(_system_key(stream_id, fingerprint), str(segment))
            pipeline.execute()

    def forget(self, stream_id: str, fingerprints: Iterable[str]) -> None:
        """Removes all open frames of a deleted stream."""
        segments = {locate(slot)[0] for slot in self.list_slots(stream_id)}
        keys = [open_slots_key(stream_id)]
        for fingerprint in fingerprints:
            keys += [open_tokens_key(stream_id, fingerprint), _system_key(stream_id, fingerprint)]
        with redis_errors():
            self._state.delete(*keys)
        with redis_errors("cache"):
            for segment in segments:
                self._cache.delete(_pictures_key(stream_id, segment))


def _pack_frame(frame: SegmentFrame) -> bytes:
    """The time, the place it is the same as (64: none), the length of the model's picture, both pictures."""
    model, view = frame.model or b"", frame.view or b""
    same_as = SEGMENT_SLOTS if frame.same_as is None else frame.same_as
    head = np.array([frame.t_s], "<f8").tobytes() + np.array([same_as, len(model)], "<u4").tobytes()
    return head + model + view


def _unpack_frame(place: int, blob: bytes) -> SegmentFrame:
    t_s = float(np.frombuffer(blob, "<f8", 1)[0])
    same_as, length = (int(value) for value in np.frombuffer(blob, "<u4", 2, 8))
    model, view = blob[16 : 16 + length], blob[16 + length :]
    return SegmentFrame(place, t_s, model or None, view or None, None if same_as == SEGMENT_SLOTS else same_as)


def open_slots_key(stream_id: str) -> str:
    """The sorted set of a stream's captured slots that the archive does not hold yet; `coverage` reads it too."""
    return f"lw:open:{stream_id}"


def open_tokens_key(stream_id: str, fingerprint: str) -> str:
    """The hash of the tokens of open frames, by slot; `coverage` reads it too."""
    return f"lw:open-tokens:{fingerprint}:{stream_id}"


def _system_key(stream_id: str, fingerprint: str) -> str:
    return f"lw:open-system:{fingerprint}:{stream_id}"


def _pictures_key(stream_id: str, segment: int) -> str:
    return f"lw:pictures:{stream_id}:{segment}"
