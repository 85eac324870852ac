"""Counts the attempts at a job that began and did not end. A job that keeps killing its workers is given up."""

import logging

from redis import Redis

from storage.connection import redis_errors

log = logging.getLogger(__name__)

KNOWN_S = 7 * 86400

# A value that is not a valid count is read as 0.
_COUNT = """
local count = 0
if redis.call('TYPE', KEYS[1]).ok == 'string' then count = tonumber(redis.call('GET', KEYS[1])) or 0 end
if count ~= math.floor(count) or count < 0 or count > 1000000 then count = 0 end
"""
_BEGIN = _COUNT + "redis.call('SET', KEYS[1], count + 1, 'EX', ARGV[1]) return count + 1"
_FORGIVE_EARLIER = _COUNT + "if count > 1 then redis.call('SET', KEYS[1], 1, 'EX', ARGV[1]) end"
_FORGIVE = (
    _COUNT
    + "if count > 1 then redis.call('SET', KEYS[1], count - 1, 'EX', ARGV[1]) else redis.call('DEL', KEYS[1]) end"
)


class Attempts:
    """One counter per job: incremented before the job begins, cleared when it returns. Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._count = redis.register_script(_COUNT + "return count")
        self._begin = redis.register_script(_BEGIN)
        self._forgive = redis.register_script(_FORGIVE)
        self._forgive_earlier = redis.register_script(_FORGIVE_EARLIER)

    def count(self, job_id: str) -> int:
        """Returns how many attempts began and did not end."""
        with redis_errors():
            return int(self._count(keys=[_key(job_id)]))

    def begin(self, job_id: str) -> int:
        """Counts an attempt. Returns how many began and did not end, including this one."""
        with redis_errors():
            return int(self._begin(keys=[_key(job_id)], args=[KNOWN_S]))

    def clear(self, job_id: str) -> None:
        """Resets the count: the job returned."""
        with redis_errors():
            self._redis.delete(_key(job_id))

    def forgive(self, job_id: str) -> None:
        """Takes back one attempt: its surroundings failed, or its process was told to stop."""
        with redis_errors():
            self._forgive(keys=[_key(job_id)], args=[KNOWN_S])

    def forgive_earlier(self, job_id: str) -> None:
        """Keeps only the attempt that runs now, which got further than the earlier ones: the job makes progress."""
        with redis_errors():
            self._forgive_earlier(keys=[_key(job_id)], args=[KNOWN_S])


def _key(job_id: str) -> str:
    return f"lw:attempts:{job_id}"
