"""What is unsettled and when it is due for another look; which questions wait for frames. Rebuilt from the archive."""

import logging
import time
from collections.abc import Iterable
from typing import cast

from redis import Redis

from storage.connection import as_text, redis_errors

log = logging.getLogger(__name__)

VIDEOS = "lw:due:videos"  # sorted sets: id -> when to look at it again (epoch seconds)
QUESTIONS = "lw:due:questions"
DELETIONS = "lw:due:deletions"
LAST = 2**53  # "all of the video": beyond every segment


class Agenda:
    """Sorted sets, so that a look costs what is due. Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def put(self, agenda: str, *ids: str, in_s: float = 0.0) -> None:
        """Has these looked at in `in_s` seconds at the latest."""
        if ids:
            due = time.time() + in_s
            with redis_errors():
                self._redis.zadd(agenda, dict.fromkeys(ids, due), lt=True)

    def postpone(self, agenda: str, *ids: str, in_s: float) -> None:
        """Has these looked at in `in_s` seconds, unless they were settled meanwhile."""
        if ids:
            with redis_errors():
                self._redis.zadd(agenda, dict.fromkeys(ids, time.time() + in_s), xx=True)

    def remove(self, agenda: str, item_id: str) -> None:
        """It is settled."""
        with redis_errors():
            self._redis.zrem(agenda, item_id)

    def list_due(self, agenda: str, count: int) -> list[str]:
        """Up to `count` ids that are due, the longest due first."""
        with redis_errors():
            due = self._redis.zrange(agenda, "-inf", time.time(), byscore=True, offset=0, num=count)
            found = cast(list[bytes], due)
            foreign = [item_id for item_id in found if not item_id.isascii()]
            if foreign:
                log.error("%s holds what is no id, it is removed: %r", agenda, foreign)
                self._redis.zrem(agenda, *foreign)
        return [as_text(item_id) for item_id in found if item_id not in foreign]

    def count(self, agenda: str) -> int:
        """How many are unsettled."""
        with redis_errors():
            return int(self._redis.zcard(agenda))

    # questions that wait for frames

    def wait(self, holder_id: str, question_id: str, last_segment: int | None) -> None:
        """The question is to be looked at once the video's segments up to this one are encoded (None: all)."""
        with redis_errors():
            last = LAST if last_segment is None else min(last_segment, LAST)
            self._redis.zadd(_waiting_key(holder_id), {question_id: last})

    def stop_waiting(self, holder_id: str, question_ids: Iterable[str]) -> None:
        """These have what they waited for, or do not want it any more."""
        ids = list(question_ids)
        if ids:
            with redis_errors():
                self._redis.zrem(_waiting_key(holder_id), *ids)

    def list_waiting(self, holder_id: str, up_to_segment: int | None) -> list[str]:
        """The questions that wait for no segment beyond this one (None: all that wait)."""
        high = "+inf" if up_to_segment is None else up_to_segment
        with redis_errors():
            found = self._redis.zrange(_waiting_key(holder_id), "-inf", high, byscore=True)
        return [as_text(question_id) for question_id in found]

    def forget_waiting(self, video_id: str) -> None:
        """Who waits for the video's frames is forgotten: each look at such a question notes it again."""
        with redis_errors():
            self._redis.delete(_waiting_key(video_id))

    def forget_video(self, video_id: str) -> None:
        """Nothing of the video is unsettled any more."""
        self.forget_waiting(video_id)
        with redis_errors():
            self._redis.zrem(VIDEOS, video_id)


def _waiting_key(holder_id: str) -> str:
    return f"lw:waiting:{holder_id}"
