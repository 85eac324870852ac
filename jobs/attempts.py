"""Counts how often a job was begun without an end, so that a target which kills its workers is given up."""

import logging

from redis import Redis

from storage.connection import redis_errors
from storage.errors import DamagedState

log = logging.getLogger(__name__)

KNOWN_S = 7 * 86400


class Attempts:
    """One counter a job in the state: raised before it begins, cleared when it returns. Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def begin(self, job_id: str) -> int:
        """Counts an attempt; how many were begun and did not end, this one included. A damaged counter starts anew."""
        try:
            return self._count(job_id)
        except DamagedState as error:
            log.error("the attempts at %s are counted anew: %s", job_id, error)
            self.clear(job_id)
            return self._count(job_id)

    def _count(self, job_id: str) -> int:
        with redis_errors(), self._redis.pipeline() as pipeline:
            pipeline.incr(_key(job_id))
            pipeline.expire(_key(job_id), KNOWN_S)
            count, _ = pipeline.execute()
        return int(count)

    def clear(self, job_id: str) -> None:
        """The job returned."""
        with redis_errors():
            self._redis.delete(_key(job_id))

    def forgive(self, job_id: str) -> None:
        """The attempt did not count: its surroundings failed, or its process was told to stop."""
        with redis_errors():
            if int(self._redis.decr(_key(job_id))) <= 0:
                self._redis.delete(_key(job_id))


def _key(job_id: str) -> str:
    return f"lw:attempts:{job_id}"
