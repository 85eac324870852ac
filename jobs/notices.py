"""Tells whoever waits for a `fuse` job that it ended, and how."""

from typing import cast

from redis import Redis

from storage.connection import as_text, redis_errors

KNOWN_S = 60


class Notices:
    """A one-element list a job, on which readers block. Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def clear(self, job_id: str) -> None:
        """Forgets an end of before: the job is asked for anew."""
        with redis_errors():
            self._redis.delete(_key(job_id))

    def tell(self, job_id: str, problem: str = "") -> None:
        """The job ended; with `problem`, it was given up for that reason."""
        with redis_errors(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.delete(_key(job_id))
            pipeline.rpush(_key(job_id), problem)
            pipeline.expire(_key(job_id), KNOWN_S)
            pipeline.execute()

    def wait(self, job_id: str, wait_s: float) -> str | None:
        """The problem the job ended with ("": none), waiting up to `wait_s`; None if it has not ended.

        Every reader learns of it: the element moves from the list to itself.
        """
        with redis_errors():
            told = self._redis.blmove(_key(job_id), _key(job_id), cast(int, wait_s), "LEFT", "LEFT")
        return None if told is None else as_text(told)


def _key(job_id: str) -> str:
    return f"lw:ended:{job_id}"
