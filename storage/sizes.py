"""How many bytes the archive holds of each segment, and of a whole video, so that nobody has to list the archive.

The marks are set, not added up: storing the same segment twice counts it once. Recordings are counted by
`storage/recordings.py`, into the same totals.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from redis import Redis

from storage.connection import as_text, redis_errors
from storage.index import deleted_key

BLOCK = 64  # segments whose sizes are one string of 4 bytes each: a day at 1 fps is 22 strings
RECORDINGS = "recordings"  # the total of recordings; the other totals are named by what they count
FRAMES = "frames"
_SIZES = struct.Struct(f"<{BLOCK}I")

# Sets the sizes of segments (ARGV from 3 on: segment, bytes) of a kind (ARGV[1]), unless the video was deleted.
# With ARGV[2] = 1, a segment that has a size keeps it.
_SET = """
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
local blocks, change = {}, 0
for at = 3, #ARGV, 2 do
  local segment, bytes = tonumber(ARGV[at]), math.min(tonumber(ARGV[at + 1]), 4294967295)
  local field = ARGV[1] .. ':' .. math.floor(segment / 64)
  local sizes = blocks[field] or redis.call('HGET', KEYS[1], field) or string.rep('\\0', 256)
  local place = segment % 64 * 4
  local before = struct.unpack('<I4', sizes, place + 1)
  if ARGV[2] == '0' or before == 0 then
    blocks[field] = string.sub(sizes, 1, place) .. struct.pack('<I4', bytes) .. string.sub(sizes, place + 5)
    change = change + bytes - before
  end
end
for field, sizes in pairs(blocks) do redis.call('HSET', KEYS[1], field, sizes) end
if change ~= 0 then redis.call('HINCRBY', KEYS[2], ARGV[1], string.format('%.0f', change)) end
return 1
"""
# Removes the sizes of segments (ARGV) of every kind, and what they add to the totals.
_REMOVE = """
local empty = string.rep('\\0', 256)
for _, kind in ipairs(redis.call('HKEYS', KEYS[2])) do
  local change = 0
  for _, segment in ipairs(ARGV) do
    local field = kind .. ':' .. math.floor(segment / 64)
    local sizes = redis.call('HGET', KEYS[1], field)
    if sizes then
      local place = segment % 64 * 4
      change = change - struct.unpack('<I4', sizes, place + 1)
      sizes = string.sub(sizes, 1, place) .. '\\0\\0\\0\\0' .. string.sub(sizes, place + 5)
      if sizes == empty then redis.call('HDEL', KEYS[1], field) else redis.call('HSET', KEYS[1], field, sizes) end
    end
  end
  if change ~= 0 then redis.call('HINCRBY', KEYS[2], kind, string.format('%.0f', change)) end
end
return 1
"""


class HeldBytes(NamedTuple):
    """What the archive holds of a video."""

    frames: int  # pictures and records
    recordings: int


class Sizes:
    """Sets and reads sizes. Raises RedisUnavailable, DamagedState."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._set = redis.register_script(_SET)
        self._remove = redis.register_script(_REMOVE)

    def set_frames(self, video_id: str, sizes: Mapping[int, int], *, keep: bool = False) -> None:
        """Notes the bytes of these segments' pictures (segment -> bytes); with `keep`, known sizes stay."""
        self._note(video_id, FRAMES, sizes, keep)

    def set_records(self, video_id: str, fingerprint: str, sizes: Mapping[int, int], *, keep: bool = False) -> None:
        """Notes the bytes of these segments' records of a model."""
        self._note(video_id, f"records-{fingerprint}", sizes, keep)

    def remove_segments(self, video_id: str, segments: Sequence[int]) -> None:
        """Removes the sizes of these segments' pictures and records: the archive no longer holds them."""
        if segments:
            with redis_errors():
                self._remove(keys=[_sizes_key(video_id), bytes_key(video_id)], args=segments)

    def read_totals(self, video_ids: Sequence[str]) -> list[HeldBytes]:
        """What the archive holds of each video; one round trip."""
        if not video_ids:
            return []
        with redis_errors(), self._redis.pipeline(transaction=False) as pipeline:
            for video_id in video_ids:
                pipeline.hgetall(bytes_key(video_id))
            found = [{as_text(kind): int(count) for kind, count in reply.items()} for reply in pipeline.execute()]
        return [
            HeldBytes(sum(count for kind, count in counts.items() if kind != RECORDINGS), counts.get(RECORDINGS, 0))
            for counts in found
        ]

    def read_segments(self, video_id: str, segments: range) -> dict[int, int]:
        """Segment -> bytes of its pictures and records, for those of the range that have any, ascending."""
        if not segments:
            return {}
        blocks = range(segments.start // BLOCK, (segments.stop - 1) // BLOCK + 1)
        found: dict[int, int] = {}
        with redis_errors():
            kinds = [as_text(kind) for kind in cast(list[bytes], self._redis.hkeys(bytes_key(video_id)))]
            fields = [(block, f"{kind}:{block}") for kind in kinds if kind != RECORDINGS for block in blocks]
            values = self._redis.hmget(_sizes_key(video_id), [field for _, field in fields]) if fields else []
        for (block, _), value in zip(fields, cast(list[bytes | None], values), strict=True):
            for place, size in enumerate(_SIZES.unpack(value) if value else ()):
                segment = block * BLOCK + place
                if size and segment in segments:
                    found[segment] = found.get(segment, 0) + size
        return dict(sorted(found.items()))

    def forget(self, video_id: str) -> None:
        """Removes all sizes and totals of a video."""
        with redis_errors():
            self._redis.delete(_sizes_key(video_id), bytes_key(video_id))

    def _note(self, video_id: str, kind: str, sizes: Mapping[int, int], keep: bool) -> None:
        if not sizes:
            return
        words = [word for pair in sizes.items() for word in pair]
        with redis_errors():
            keys = [_sizes_key(video_id), bytes_key(video_id), deleted_key(video_id)]
            self._set(keys=keys, args=[kind, int(keep), *words])


def bytes_key(video_id: str) -> str:
    """The hash of a video's totals; `recordings` counts there too."""
    return f"lw:bytes:{video_id}"


def _sizes_key(video_id: str) -> str:
    return f"lw:sizes:{video_id}"
