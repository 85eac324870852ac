"""Locks in Redis: they save double work; that results are right never depends on them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.exceptions import RedisError

from storage.connection import as_text, redis_errors

log = logging.getLogger(__name__)

WITHOUT_END = -1  # what PTTL answers of a key that does not expire


class Locks:
    """Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @contextmanager
    def hold(self, name: str, hold_s: float, wait_s: float = 0.01) -> Iterator[bool]:
        """Holds the lock `name` for at most `hold_s`; yields False if it could not be had within `wait_s`."""
        with redis_errors():
            lock = self._redis.lock(f"lw:lock:{name}", timeout=hold_s, blocking_timeout=wait_s, thread_local=False)
            got = lock.acquire()
            if not got and self._redis.pttl(lock.name) == WITHOUT_END:
                log.error("%s in Redis is no lock of ours, it would last for ever: it is removed", as_text(lock.name))
                self._redis.delete(lock.name)
        try:
            yield got
        finally:
            if got:
                try:
                    lock.release()
                except RedisError as error:
                    log.warning("lock %s was lost meanwhile: %s", name, error)
