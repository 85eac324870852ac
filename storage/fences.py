"""Gives each attempt a token, so that a process that seemed dead and was replaced can no longer write."""

import secrets
from dataclasses import dataclass

from redis import Redis

from storage.connection import redis_errors
from storage.errors import GivenAway

KNOWN_S = 7 * 86400  # longer than any attempt lasts
CLOSED = "closed"  # never the token of an attempt


@dataclass(frozen=True)
class Fence:
    """One attempt at a target (a video's id, a question's id)."""

    target: str
    token: str


class Fences:
    """Knows the newest attempt at each target. Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def take(self, target: str) -> Fence:
        """Begins an attempt; earlier ones at this target no longer count."""
        fence = Fence(target, secrets.token_hex(8))
        with redis_errors():
            self._redis.set(fence_key(target), fence.token, ex=KNOWN_S)
        return fence

    def check(self, fence: Fence) -> None:
        """Raises GivenAway if a later attempt began. After a flush, the first attempt to ask counts as newest."""
        with redis_errors():
            key = fence_key(fence.target)
            holder = self._redis.get(key)
            if holder is None:
                self._redis.set(key, fence.token, ex=KNOWN_S, nx=True)
                holder = self._redis.get(key)
        if holder != fence.token.encode():
            raise GivenAway(f"another attempt at {fence.target} took over, or has ended it")

    def close(self, target: str) -> None:
        """Ends every attempt at a target that is settled or gone. An attempt that wakes up later gets GivenAway."""
        with redis_errors():
            self._redis.set(fence_key(target), CLOSED, ex=KNOWN_S)


def fence_key(target: str) -> str:
    """The key of the newest attempt's token; scripts use it too."""
    return f"lw:fence:{target}"
