"""Connects to Redis, and translates its errors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, cast
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from configs.settings import RedisSettings
from storage.errors import DamagedState, RedisUnavailable
from storage.urls import redact

DEFAULT_PORT = 6379
# A word in Redis' refusal -> what to do about it.
REMEDIES = {
    "maxmemory": "; it is full: raise its maxmemory (redis.{role}_max_memory_mb of the private server)",
    "MISCONF": "; it cannot write to its disk: make room there",
}

Role = Literal["state", "cache"]


def connect(url: str, settings: RedisSettings) -> Redis:
    """A connection that answers in bytes and bounds the time of each command.

    Raises RedisUnavailable for an invalid URL.
    """
    try:
        return Redis.from_url(
            url,
            socket_connect_timeout=settings.connect_timeout_s,
            socket_timeout=settings.command_timeout_s,
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), settings.retries, (RedisConnectionError,)),
            health_check_interval=30,
        )
    except ValueError as error:
        raise RedisUnavailable(
            f"{redact(url)!r} is not an address of Redis: {error}; an example is redis://127.0.0.1:6379/0"
        ) from error


# Redis' words for a value that the command cannot use; a pipeline or script adds words around them.
DAMAGE = ("WRONGTYPE", "is not an integer", "is not a valid float", "is not a float", "is not an hash")


@contextmanager
def redis_errors(role: Role = "state") -> Iterator[None]:
    """Translates the errors of the Redis that plays this role: raises RedisUnavailable or DamagedState."""
    name = f"the {role}'s Redis (redis.{role}_url)"
    try:
        yield
    except RedisTimeoutError as error:
        raise RedisUnavailable(
            f"{name} does not answer in time ({error}): it is overloaded or hangs; if that lasts, restart it"
        ) from error
    except ResponseError as error:
        if any(words in str(error) for words in DAMAGE):
            raise DamagedState(
                f"a value in Redis is damaged: {error}; it is rebuilt from the archive, try again in a few seconds"
            ) from error
        remedy = next((remedy for word, remedy in REMEDIES.items() if word in str(error)), "").format(role=role)
        raise RedisUnavailable(f"{name} refuses: {str(error).rstrip('.')}{remedy}") from error
    except RedisError as error:
        raise RedisUnavailable(
            f"{name} does not answer: {error}; start it (`longwatch up` does), or correct its address"
        ) from error


def same_server(one: str, other: str) -> bool:
    """Whether two Redis URLs lead to the same server, even if to different databases."""
    parts = [urlsplit(url) for url in (one, other)]
    if parts[0].scheme == "unix":
        return parts[0].path == parts[1].path
    places = [(part.hostname, part.port or DEFAULT_PORT) for part in parts]
    return places[0] == places[1]


def mget(redis: Redis, keys: Sequence[str]) -> list[bytes | None]:
    """The values of these keys, with one command (connections here answer in bytes)."""
    return cast(list[bytes | None], redis.mget(keys))


def as_text(value: object) -> str:
    """A value from Redis as text (connections here answer in bytes); invalid UTF-8 is replaced."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
