"""The pieces of an answer on their way: a Redis stream per question, from the reasoner to whoever reads."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, cast

from redis import Redis

from configs.settings import RedisSettings
from storage.hot import redis_errors

PieceKind = Literal["text", "restart", "done", "error"]
_Streams = Iterable[tuple[bytes, Iterable[tuple[bytes, dict[bytes, bytes]]]]]  # what XREAD answers
LAST: tuple[PieceKind, ...] = ("done", "error")


@dataclass(frozen=True)
class Piece:
    """A part of a streamed answer.

    text     a few more characters
    restart  the worker died and another begins anew: forget the text so far
    done     the end; the question now holds its answer (also where it was cancelled)
    error    the end; the question holds the problem
    """

    cursor: str  # read on from here
    kind: PieceKind
    text: str = ""


class Answers:
    """Streams of pieces, and the wish to cancel. Raises RedisUnavailable."""

    def __init__(self, redis: "Redis", settings: RedisSettings) -> None:
        self._redis = redis
        self._ttl_s = settings.answer_ttl_s

    def send(self, question_id: str, kind: PieceKind, text: str = "") -> None:
        """Appends a piece."""
        with redis_errors(), self._redis.pipeline() as pipeline:
            pipeline.xadd(_stream_key(question_id), {"piece": json.dumps([kind, text])})
            pipeline.expire(_stream_key(question_id), self._ttl_s)
            pipeline.execute()

    def read(self, question_id: str, cursor: str = "0", wait_s: float = 0.0) -> Iterator[Piece]:
        """The pieces after `cursor`, waiting up to `wait_s` for the first of them; ends when there are no more."""
        block_ms = max(int(wait_s * 1000), 1)
        with redis_errors():
            streams = self._redis.xread({_stream_key(question_id): cursor}, block=block_ms)
        for _, entries in cast(_Streams, streams or ()):
            for entry_id, fields in entries:
                kind, text = json.loads(fields[b"piece"])
                yield Piece(entry_id.decode(), kind, text)

    def begun(self, question_id: str) -> bool:
        """Whether a worker has sent a piece already (so that a second one says `restart`)."""
        with redis_errors():
            return bool(self._redis.exists(_stream_key(question_id)))

    def cancel(self, question_id: str) -> None:
        """Asks the reasoner to stop after the piece at hand."""
        with redis_errors():
            self._redis.set(_cancel_key(question_id), 1, ex=self._ttl_s)

    def cancelled(self, question_id: str) -> bool:
        """Whether somebody asked to stop."""
        with redis_errors():
            return bool(self._redis.exists(_cancel_key(question_id)))


def _stream_key(question_id: str) -> str:
    return f"answer:{question_id}:pieces"


def _cancel_key(question_id: str) -> str:
    return f"answer:{question_id}:cancel"
