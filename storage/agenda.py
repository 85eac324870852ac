"""Lists what is unsettled, when to inspect it next, and which questions wait for frames. Rebuilt from the archive."""

import logging
import time
from collections.abc import Iterable
from typing import Literal, NamedTuple, cast

from redis import Redis

from storage.connection import as_text, redis_errors
from storage.ids import video_of

log = logging.getLogger(__name__)

VIDEOS = "lw:due:videos"  # sorted sets: id -> when to inspect it next (epoch seconds)
QUESTIONS = "lw:due:questions"
DELETIONS = "lw:due:deletions"
FOUND = "lw:due:found"  # questions found in the archive; an inspection tells whether they are settled
EVENTS = "lw:due:events"  # streams whose events must be read from the archive; while there is one, no event is read
DELIVERIES = "lw:due:deliveries"  # stream:watch of watches with deliveries to a webhook
WAITING = "lw:waiting"  # sorted set, all scores 0: the QUESTIONS that wait for frames; ids sort by video
LAST = 2**53  # "all of the video": beyond every segment

Full = Literal["work", "video", "waiting"]  # the limit that a new question reached
_FULL: tuple[Full | None, ...] = (None, "work", "video", "waiting")

# Adds a new question unless a limit is reached. Checking and adding are one step, so that no race exceeds a limit.
_ADMIT = """
local waiting = redis.call('ZCARD', KEYS[2])
if ARGV[3] == '0' then
  if redis.call('ZCARD', KEYS[1]) - waiting >= tonumber(ARGV[4]) then return 1 end
else
  local of_video = redis.call('ZLEXCOUNT', KEYS[2], '[' .. ARGV[7] .. '_', '(' .. ARGV[7] .. '`') -- '`' follows '_'
  if of_video >= tonumber(ARGV[5]) then return 2 end
  if waiting >= tonumber(ARGV[6]) then return 3 end
  redis.call('ZADD', KEYS[2], 0, ARGV[1])
end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
return 0
"""
# A question that was settled meanwhile does not wait.
_WAIT = """
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('ZADD', KEYS[3], 0, ARGV[1])
return 1
"""
_FINISH = """
local due = redis.call('ZSCORE', KEYS[1], ARGV[1])
if due and tonumber(due) == tonumber(ARGV[2]) then redis.call('ZREM', KEYS[1], ARGV[1]) end
return 1
"""


class Limits(NamedTuple):
    """How many questions may be unsettled."""

    in_work: int  # queued, or being answered
    waiting_per_video: int
    waiting: int  # of all videos


class Agenda:
    """Sorted sets, so that a look reads only what is due. Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._admit = redis.register_script(_ADMIT)
        self._wait = redis.register_script(_WAIT)
        self._finish = redis.register_script(_FINISH)

    def put(self, agenda: str, *ids: str, in_s: float = 0.0) -> None:
        """Makes these items due in `in_s` seconds at the latest."""
        if ids:
            due = time.time() + in_s
            with redis_errors():
                self._redis.zadd(agenda, dict.fromkeys(ids, due), lt=True)

    def postpone(self, agenda: str, *ids: str, in_s: float) -> float:
        """Makes these items due in `in_s` seconds, unless they were settled meanwhile; returns when, for `finish`."""
        due = time.time() + in_s
        if ids:
            with redis_errors():
                self._redis.zadd(agenda, dict.fromkeys(ids, due), xx=True)
        return due

    def finish(self, agenda: str, item_id: str, due_at_s: float) -> None:
        """Removes an item that was inspected, unless another process made it due again after `postpone`."""
        with redis_errors():
            self._finish(keys=[agenda], args=[item_id, repr(due_at_s)])

    def remove(self, agenda: str, item_id: str) -> None:
        """Removes an item, because it is settled or gone."""
        with redis_errors(), self._redis.pipeline() as pipeline:
            pipeline.zrem(agenda, item_id)
            if agenda == QUESTIONS:
                pipeline.zrem(WAITING, item_id)
            pipeline.execute()

    def list_due(self, agenda: str, count: int) -> list[str]:
        """Lists up to `count` ids that are due, the longest overdue first."""
        with redis_errors():
            due = self._redis.zrange(agenda, "-inf", time.time(), byscore=True, offset=0, num=count)
            found = cast(list[bytes], due)
            foreign = [item_id for item_id in found if not item_id.isascii()]
            if foreign:
                log.error("%s holds values that are not ids; they are removed: %r", agenda, foreign)
                self._redis.zrem(agenda, *foreign)
        return [as_text(item_id) for item_id in found if item_id not in foreign]

    def list_all(self, agenda: str) -> list[str]:
        """Lists all items; for agendas whose length is limited."""
        with redis_errors():
            return [as_text(item_id) for item_id in cast(list[bytes], self._redis.zrange(agenda, 0, -1))]

    def count(self, agenda: str) -> int:
        """Counts the unsettled items."""
        with redis_errors():
            return int(self._redis.zcard(agenda))

    # questions that wait for frames

    def admit(self, question_id: str, limits: Limits, *, waits: bool, in_s: float) -> Full | None:
        """Adds a new question, due in `in_s` seconds at the latest; if a limit is reached, returns which one instead.

        Questions that wait for frames occupy no worker and take no place from those that can be answered.
        """
        due = time.time() + in_s
        with redis_errors():
            met = self._admit(
                keys=[QUESTIONS, WAITING], args=[question_id, due, int(waits), *limits, video_of(question_id)]
            )
        return _FULL[int(met)]

    def wait(self, holder_id: str, question_id: str, last_segment: int | None) -> None:
        """Makes the question wait until the video's segments up to this one are encoded (None: all)."""
        with redis_errors():
            last = LAST if last_segment is None else min(last_segment, LAST)
            self._wait(keys=[waiting_key(holder_id), QUESTIONS, WAITING], args=[question_id, last])

    def stop_waiting(self, holder_id: str, question_ids: Iterable[str]) -> None:
        """Ends the wait of these questions: their frames are encoded, or no longer needed."""
        ids = list(question_ids)
        if ids:
            with redis_errors(), self._redis.pipeline() as pipeline:
                pipeline.zrem(waiting_key(holder_id), *ids)
                pipeline.zrem(WAITING, *ids)
                pipeline.execute()

    def list_waiting(self, holder_id: str, up_to_segment: int | None, from_segment: int = 0) -> list[str]:
        """Lists the questions whose last awaited segment lies between these two (None: all waiting questions)."""
        high = "+inf" if up_to_segment is None else up_to_segment
        with redis_errors():
            found = self._redis.zrange(waiting_key(holder_id), from_segment, high, byscore=True)
        return [as_text(question_id) for question_id in found]

    def forget_all_waiting(self) -> None:
        """Resets the set of waiting questions. Each is added again when it is inspected."""
        with redis_errors():
            self._redis.delete(WAITING)

    def forget_waiting(self, video_id: str) -> None:
        """Forgets which questions wait for the video's frames. Each is added again when it is inspected."""
        with redis_errors():
            self._redis.delete(waiting_key(video_id))

    def forget_video(self, video_id: str) -> None:
        """Removes the video, and forgets which questions wait for its frames."""
        self.forget_waiting(video_id)
        with redis_errors():
            self._redis.zrem(VIDEOS, video_id)
            self._redis.zrem(EVENTS, video_id)


def waiting_key(holder_id: str) -> str:
    """The sorted set of the questions that wait for frames of this video."""
    return f"lw:waiting:{holder_id}"
