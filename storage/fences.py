"""Numbers attempts, so that a process that was taken for dead and replaced cannot write any more."""

import secrets
from dataclasses import dataclass

from redis import Redis

from storage.connection import redis_errors
from storage.errors import GivenAway

KNOWN_S = 7 * 86400  # longer than any attempt lasts
CLOSED = "closed"  # no attempt's token


@dataclass(frozen=True)
class Fence:
    """One attempt at a target (a video's id, a question's id)."""

    target: str
    token: str


class Fences:
    """Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def take(self, target: str) -> Fence:
        """Begins an attempt: all earlier ones at this target no longer count."""
        fence = Fence(target, secrets.token_hex(8))
        with redis_errors():
            self._redis.set(fence_key(target), fence.token, ex=KNOWN_S)
        return fence

    def check(self, fence: Fence) -> None:
        """Raises GivenAway if a later attempt began. After a flush the first one to ask goes on."""
        with redis_errors():
            key = fence_key(fence.target)
            holder = self._redis.get(key)
            if holder is None:
                self._redis.set(key, fence.token, ex=KNOWN_S, nx=True)
                holder = self._redis.get(key)
        if holder != fence.token.encode():
            raise GivenAway(f"another attempt at {fence.target} goes on with it, or has ended it")

    def close(self, target: str) -> None:
        """Ends every attempt: the target is settled or gone. One that wakes up later finds its fence taken."""
        with redis_errors():
            self._redis.set(fence_key(target), CLOSED, ex=KNOWN_S)


def fence_key(target: str) -> str:
    """Where the token of the newest attempt is; scripts look at it too."""
    return f"lw:fence:{target}"
