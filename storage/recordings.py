"""Which recordings the archive holds of a stream: their names in Redis, by segment, rebuilt from one listing."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from redis import Redis

from storage.connection import redis_errors
from storage.index import deleted_key
from storage.sizes import bytes_key

BLOCK = 64  # segments whose recordings are one string: a day at 1 fps is 22 strings, together 70 KB
NAME = re.compile(r"(\d{6,})-(\d{1,15})-(\d{1,12})-([a-z0-9_]{1,32})-(\d{1,9})-([0-9a-f]{8})\.mp4")

# Adds lines (ARGV from 1 on: block, line, bytes) unless they are there or the stream was deleted.
_ADD = """
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
for at = 1, #ARGV, 3 do
  local lines = redis.call('HGET', KEYS[1], ARGV[at]) or '\\n'
  if not string.find(lines, '\\n' .. ARGV[at + 1] .. '\\n', 1, true) then
    redis.call('HSET', KEYS[1], ARGV[at], lines .. ARGV[at + 1] .. '\\n')
    redis.call('HINCRBY', KEYS[2], 'recordings', ARGV[at + 2])
  end
end
return 1
"""
# Removes lines (ARGV: block, line, bytes).
_REMOVE = """
for at = 1, #ARGV, 3 do
  local lines = redis.call('HGET', KEYS[1], ARGV[at]) or '\\n'
  local first, last = string.find(lines, '\\n' .. ARGV[at + 1] .. '\\n', 1, true)
  if first then
    lines = string.sub(lines, 1, first) .. string.sub(lines, last + 1)
    if lines == '\\n' then redis.call('HDEL', KEYS[1], ARGV[at]) else redis.call('HSET', KEYS[1], ARGV[at], lines) end
    redis.call('HINCRBY', KEYS[2], 'recordings', -ARGV[at + 2])
  end
end
return 1
"""


@dataclass(frozen=True, order=True)
class Recording:
    """A recorded file. Its name tells all but its size, so that a listing rebuilds the index."""

    start_ms: int  # of its first picture, from the stream's start
    segment: int  # in which it begins; it can end a little after it, because it ends at a keyframe
    duration_ms: int
    codec: str
    head_bytes: int  # the file's beginning (ftyp and moov); the rest is fragments
    form: str  # of the head: files of equal form show the same kind of picture, and play one after the other
    size_bytes: int

    @property
    def name(self) -> str:
        """Its name in the API."""
        words = (f"{self.segment:06d}", self.start_ms, self.duration_ms, self.codec, self.head_bytes, self.form)
        return "-".join(map(str, words)) + ".mp4"

    @property
    def start_s(self) -> float:
        """When it begins, in seconds from the stream's start."""
        return self.start_ms / 1000

    @property
    def end_s(self) -> float:
        """When it ends."""
        return (self.start_ms + self.duration_ms) / 1000


def parse_name(name: str, size_bytes: int) -> Recording | None:
    """The recording with this name; None if it is no such name."""
    match = NAME.fullmatch(name)
    if match is None:
        return None
    segment, start_ms, duration_ms, head_bytes = (int(match[group]) for group in (1, 2, 3, 5))
    return Recording(start_ms, segment, duration_ms, match[4], head_bytes, match[6], size_bytes)


class Recordings:
    """Adds, lists and removes recordings. Raises RedisUnavailable, DamagedState."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._add = redis.register_script(_ADD)
        self._remove = redis.register_script(_REMOVE)

    def add(self, stream_id: str, recordings: Iterable[Recording]) -> None:
        """Adds these recordings; those that are there count once."""
        self._change(stream_id, recordings, remove=False)

    def remove(self, stream_id: str, recordings: Iterable[Recording]) -> None:
        """Removes these recordings."""
        self._change(stream_id, recordings, remove=True)

    def list_segments(self, stream_id: str, segments: range) -> list[Recording]:
        """The recordings that begin in these segments, in order of time."""
        if not segments:
            return []
        blocks: Iterable[int] = range(segments.start // BLOCK, (segments.stop - 1) // BLOCK + 1)
        key = _recordings_key(stream_id)
        with redis_errors():
            if len(cast(range, blocks)) > self._redis.hlen(key):  # a long stretch of a young stream
                there = {int(block) for block in cast(list[bytes], self._redis.hkeys(key))}
                blocks = [block for block in sorted(there) if block in cast(range, blocks)]
            fields = [str(block) for block in blocks]
            found = cast(list[bytes | None], self._redis.hmget(key, fields)) if fields else []
        return sorted(one for lines in found for one in _parse(lines) if one.segment in segments)

    def list_oldest(self, stream_id: str, count: int) -> list[Recording]:
        """At least the `count` oldest recordings, if there are so many, in order of time."""
        key = _recordings_key(stream_id)
        recordings: list[Recording] = []
        with redis_errors():
            for block in sorted(int(block) for block in cast(list[bytes], self._redis.hkeys(key))):
                if len(recordings) >= count:
                    break
                recordings += _parse(cast(bytes | None, self._redis.hget(key, str(block))))
        return sorted(recordings)

    def forget(self, stream_id: str) -> None:
        """Removes the index of a stream, but not its total."""
        with redis_errors():
            self._redis.delete(_recordings_key(stream_id))

    def _change(self, stream_id: str, recordings: Iterable[Recording], *, remove: bool) -> None:
        words = [
            word
            for one in recordings
            for word in (one.segment // BLOCK, f"{one.name}:{one.size_bytes}", one.size_bytes)
        ]
        if words:
            keys = [_recordings_key(stream_id), bytes_key(stream_id), deleted_key(stream_id)]
            with redis_errors():
                (self._remove if remove else self._add)(keys=keys, args=words)


def _parse(lines: bytes | None) -> list[Recording]:
    found = []
    for line in (lines or b"").decode(errors="replace").split():
        name, _, size = line.partition(":")
        recording = parse_name(name, int(size) if size.isascii() and size.isdecimal() else 0)
        if recording is not None:
            found.append(recording)
    return found


def _recordings_key(stream_id: str) -> str:
    return f"lw:recordings:{stream_id}"
