"""What capturing hosts say of their streams: present states, in Redis only. A silent host's states expire."""

import logging
from collections.abc import Mapping, Sequence

from pydantic import ValidationError
from redis import Redis

from storage.connection import mget, redis_errors
from storage.live_documents import StreamState

log = logging.getLogger(__name__)

KNOWN_S = 30  # hosts write every two seconds


class StreamStates:
    """Writes and reads states. Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def write(self, states: Mapping[str, StreamState]) -> None:
        """Stores the states of these streams."""
        with redis_errors(), self._redis.pipeline(transaction=False) as pipeline:
            for stream_id, state in states.items():
                pipeline.set(_state_key(stream_id), state.model_dump_json(), ex=KNOWN_S)
            pipeline.execute()

    def read(self, stream_ids: Sequence[str]) -> list[StreamState | None]:
        """The states of these streams; None where no host says anything. One command."""
        if not stream_ids:
            return []
        with redis_errors():
            found = mget(self._redis, [_state_key(stream_id) for stream_id in stream_ids])
        return [_parse(blob) for blob in found]

    def forget(self, stream_id: str) -> None:
        """Removes what was said of a stream that nobody captures any more."""
        with redis_errors():
            self._redis.delete(_state_key(stream_id))


def _parse(blob: bytes | None) -> StreamState | None:
    if blob is None:
        return None
    try:
        return StreamState.model_validate_json(blob)
    except ValidationError as error:
        log.error("ignoring a damaged state of a stream in Redis: %s", error)
        return None


def _state_key(stream_id: str) -> str:
    return f"lw:stream-state:{stream_id}"
