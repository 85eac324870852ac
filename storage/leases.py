"""Leases: which process looks after which target. A lease ends by itself when its holder stops renewing it."""

from collections.abc import Sequence

from redis import Redis

from storage.connection import as_text, mget, redis_errors

# Renews the leases that the holder has, takes those that nobody has; returns the places of those that it holds now.
_RENEW = """
local held = {}
for at, key in ipairs(KEYS) do
  local holder = redis.call('GET', key)
  if not holder or holder == ARGV[1] then
    redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
    held[#held + 1] = at - 1
  end
end
return held
"""
_RELEASE = """
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
"""


class Leases:
    """Leases of one kind of work. Redis' clock alone decides when they end. Raises RedisUnavailable."""

    def __init__(self, redis: Redis, kind: str) -> None:
        self._redis = redis
        self._kind = kind
        self._renew = redis.register_script(_RENEW)
        self._release = redis.register_script(_RELEASE)

    def hold(self, targets: Sequence[str], holder: str, lease_s: float) -> set[str]:
        """Takes or renews the leases of these targets; returns those that the holder has now."""
        if not targets:
            return set()
        with redis_errors():
            places = self._renew(keys=[self._key(target) for target in targets], args=[holder, int(lease_s * 1000)])
        return {targets[place] for place in places}

    def release(self, targets: Sequence[str], holder: str) -> None:
        """Gives up the leases that the holder has."""
        if targets:
            with redis_errors():
                self._release(keys=[self._key(target) for target in targets], args=[holder])

    def find_holders(self, targets: Sequence[str]) -> dict[str, str]:
        """Target -> its holder, for the targets that have one; one command."""
        if not targets:
            return {}
        with redis_errors():
            found = mget(self._redis, [self._key(target) for target in targets])
        return {target: as_text(holder) for target, holder in zip(targets, found, strict=True) if holder}

    def _key(self, target: str) -> str:
        return f"lw:lease:{self._kind}:{target}"
