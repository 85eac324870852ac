"""Locks in Redis. They prevent double work; correct results never depend on them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.exceptions import LockError, RedisError
from redis.lock import Lock

from storage.connection import as_text, redis_errors

log = logging.getLogger(__name__)

WITHOUT_END = -1  # PTTL's answer for a key that does not expire


class Hold:
    """A lock that is held."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock

    def renew(self) -> bool:
        """Holds the lock for its full time from now on, taking it again if it ran out; False if another process did."""
        with redis_errors():
            try:
                self._lock.reacquire()
            except LockError:
                return bool(self._lock.acquire(blocking=False))
        return True


class Locks:
    """Hands out locks by name. Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @contextmanager
    def hold(self, name: str, hold_s: float, wait_s: float = 0.01) -> Iterator[Hold | None]:
        """Holds the lock `name` for at most `hold_s` unless renewed; yields None if it is taken for `wait_s`."""
        with redis_errors():
            lock = self._redis.lock(f"lw:lock:{name}", timeout=hold_s, blocking_timeout=wait_s, thread_local=False)
            got = lock.acquire()
            if not got and self._redis.pttl(lock.name) == WITHOUT_END:
                log.error(
                    "%s in Redis is not a lock of Longwatch and would never expire: removing it", as_text(lock.name)
                )
                self._redis.delete(lock.name)
        try:
            yield Hold(lock) if got else None
        finally:
            if got:
                try:
                    lock.release()
                except RedisError as error:
                    log.warning("lock %s was lost meanwhile: %s", name, error)
