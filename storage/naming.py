"""Notes on each error of Redis which server it came from: a message that leaves that open helps nobody."""

from typing import Any, Literal

from redis import Redis
from redis.connection import AbstractConnection
from redis.exceptions import RedisError

Role = Literal["state", "cache"]


def name_errors(redis: Redis, name: str) -> Redis:
    """The same client; `find_name` finds the name in what it raises."""
    pool = redis.connection_pool
    pool.connection_class = _naming(pool.connection_class, name)
    return redis


def find_name(error: RedisError) -> str:
    """The name of the server that the error came from; "Redis" if nobody has named it."""
    return next(iter(getattr(error, "__notes__", ())), "Redis")


def _naming(kind: type[AbstractConnection], name: str) -> type[AbstractConnection]:
    """A connection of this kind whose errors carry the name; all that it says and hears goes through these three."""

    class Named(kind):  # type: ignore[misc, valid-type]
        def connect(self, *args: Any, **options: Any) -> Any:
            return _named(name, super().connect, *args, **options)

        def send_packed_command(self, *args: Any, **options: Any) -> Any:
            return _named(name, super().send_packed_command, *args, **options)

        def read_response(self, *args: Any, **options: Any) -> Any:
            return _named(name, super().read_response, *args, **options)

    return Named


def _named(name: str, step: Any, *args: Any, **options: Any) -> Any:
    try:
        return step(*args, **options)
    except RedisError as error:
        if find_name(error) != name:  # connecting, too, sends and reads
            error.add_note(name)
        raise
