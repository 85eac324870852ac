"""Tells the processes that wait for a `fuse` job that it ended, and how."""

from typing import cast

from redis import Redis

from storage.connection import as_text, redis_errors

KNOWN_S = 60


class Notices:
    """One list of one element per job, on which readers block. Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def clear(self, job_id: str) -> None:
        """Forgets an earlier end of the job, because it is requested again."""
        with redis_errors():
            self._redis.delete(_key(job_id))

    def tell(self, job_id: str, problem: str = "") -> None:
        """Announces that the job ended. A `problem` says why it was given up."""
        with redis_errors(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.delete(_key(job_id))
            pipeline.rpush(_key(job_id), problem)
            pipeline.expire(_key(job_id), KNOWN_S)
            pipeline.execute()

    def wait(self, job_id: str, wait_s: float) -> str | None:
        """Waits up to `wait_s` for the job to end. Returns its problem ("": none), or None if it has not ended.

        Every reader sees the element: BLMOVE moves it from the list to the same list.
        """
        with redis_errors():
            told = self._redis.blmove(_key(job_id), _key(job_id), cast(int, wait_s), "LEFT", "LEFT")
        return None if told is None else as_text(told)


def _key(job_id: str) -> str:
    return f"lw:ended:{job_id}"
