"""Carries the pieces of an answer from the reasoner to its readers: one Redis stream per question."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from redis import Redis
from redis.commands.core import Script

from configs.settings import RedisSettings
from storage.agenda import QUESTIONS, WAITING, waiting_key
from storage.connection import redis_errors
from storage.documents import QuestionState
from storage.errors import DamagedState, GivenAway
from storage.fences import CLOSED, KNOWN_S, Fence, fence_key
from storage.ids import video_of
from storage.index import STATE_KNOWN_S, deleted_key, question_state_key

log = logging.getLogger(__name__)
PieceKind = Literal["text", "restart", "state", "done"]
_Streams = Iterable[tuple[bytes, Iterable[tuple[bytes, dict[bytes, bytes]]]]]  # what XREAD returns

# A piece counts only if its attempt is the newest. After a flush, the first attempt to send counts as the newest.
_SEND = """
local holder = redis.call('GET', KEYS[2])
if not holder then
  redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[4])
elseif holder ~= ARGV[1] then
  return 0
end
redis.call('XADD', KEYS[1], '*', 'piece', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
if redis.call('EXISTS', KEYS[3], KEYS[4]) > 0 then return 2 end
return 1
"""
# Begins an attempt. Returns 0 if nobody wants the answer any more, -1 if another attempt has taken over.
_BEGIN = """
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then return -1 end
if redis.call('EXISTS', KEYS[4], KEYS[5]) > 0 then return 0 end
if redis.call('SET', KEYS[3], 'running', 'EX', ARGV[5], 'GET') ~= 'running' then
  redis.call('XADD', KEYS[1], '*', 'piece', ARGV[2])
end
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
  if entry[2][2] and string.sub(entry[2][2], 1, 7) == '["text"' then
    redis.call('XADD', KEYS[1], '*', 'piece', ARGV[3])
    break
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
"""
_CHANGE = """
if redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[4], 'GET') == ARGV[1] then return 0 end
redis.call('XADD', KEYS[1], '*', 'piece', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""
_SETTLE = """
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[3], ARGV[4], 'EX', ARGV[5])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('ZREM', KEYS[6], ARGV[1])
redis.call('XADD', KEYS[1], '*', 'piece', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""


@dataclass(frozen=True)
class Piece:
    """A part of a streamed answer.

    text     a few more characters
    restart  another attempt begins: forget the text so far
    state    the question's state changed: its document says more
    done     the end: the question's document is settled
    """

    cursor: str  # read on from here
    kind: PieceKind
    text: str = ""


class Answers:
    """Streams of pieces, and requests to cancel. Raises RedisUnavailable."""

    def __init__(self, redis: Redis, settings: RedisSettings) -> None:
        self._redis = redis
        self._ttl_s = settings.answer_ttl_s
        self._longest_look_s = settings.command_timeout_s / 2  # a blocked read must not look like a hung server
        self._send = redis.register_script(_SEND)
        self._begin = redis.register_script(_BEGIN)
        self._change = redis.register_script(_CHANGE)
        self._settle = redis.register_script(_SETTLE)

    def begin(self, fence: Fence) -> bool:
        """Begins an attempt: marks the question as running, and tells readers to forget an earlier attempt's text.

        Returns whether the answer is still wanted. Raises GivenAway.
        """
        question_id = fence.target
        keys = [
            _stream_key(question_id),
            fence_key(question_id),
            question_state_key(question_id),
            *_unwanted_keys(question_id),
        ]
        pieces = _encode_piece("state"), _encode_piece("restart")
        begun = self._run(self._begin, question_id, keys, [fence.token, *pieces, self._ttl_s, STATE_KNOWN_S])
        if begun < 0:
            raise GivenAway(f"another attempt at {question_id} has taken over, or has ended")
        return bool(begun)

    def change_state(self, question_id: str, state: QuestionState) -> None:
        """Stores the state of an unsettled question, and tells its readers if it changed."""
        keys = [_stream_key(question_id), question_state_key(question_id)]
        self._run(self._change, question_id, keys, [state, _encode_piece("state"), self._ttl_s, STATE_KNOWN_S])

    def settle(self, question_id: str, holder_id: str) -> None:
        """Takes a question off the agenda after its document was stored, and tells its readers that it ended.

        The fence is closed, so an attempt that wakes up later changes nothing.
        """
        keys = [_stream_key(question_id), question_state_key(question_id), fence_key(question_id)]
        keys += [QUESTIONS, WAITING, waiting_key(holder_id)]
        self._run(self._settle, question_id, keys, [question_id, _encode_piece("done"), self._ttl_s, CLOSED, KNOWN_S])

    def send(self, fence: Fence, text: str) -> bool:
        """Appends text of this attempt; returns whether the rest is still wanted. Raises GivenAway."""
        question_id = fence.target
        keys = [_stream_key(question_id), fence_key(question_id), *_unwanted_keys(question_id)]
        piece = _encode_piece("text", text)
        sent = self._run(self._send, question_id, keys, [fence.token, piece, self._ttl_s, KNOWN_S])
        if sent == 0:
            raise GivenAway(f"another attempt at {question_id} has taken over, or has ended")
        return sent == 1

    def _run(self, script: Script, question_id: str, keys: Sequence[str], args: Sequence[str | int]) -> int:
        """Runs the script. If it meets a damaged value, removes the value and runs again."""
        try:
            with redis_errors():
                return int(script(keys=keys, args=args))
        except DamagedState as error:
            self._drop_damaged(question_id, error)
            with redis_errors():
                return int(script(keys=keys, args=args))

    def _drop_damaged(self, question_id: str, error: DamagedState) -> None:
        log.error("damaged values of answer %s in Redis are removed: %s", question_id, error)
        types = {
            _stream_key(question_id): b"stream",
            fence_key(question_id): b"string",
            question_state_key(question_id): b"string",
        }
        with redis_errors():
            for key, kind in types.items():
                if self._redis.type(key) != kind:
                    self._redis.delete(key)

    def announce(self, question_id: str, kind: PieceKind) -> None:
        """Appends a piece that belongs to no attempt, such as a change of the question's state."""
        try:
            self._announce(question_id, kind)
        except DamagedState as error:
            self._drop_damaged(question_id, error)
            self._announce(question_id, kind)

    def _announce(self, question_id: str, kind: PieceKind) -> None:
        with redis_errors(), self._redis.pipeline() as pipeline:
            pipeline.xadd(_stream_key(question_id), {"piece": _encode_piece(kind)})
            pipeline.expire(_stream_key(question_id), self._ttl_s)
            pipeline.execute()

    def read(self, question_id: str, cursor: str = "0", wait_s: float = 0.0) -> Iterator[Piece]:
        """Yields the pieces after `cursor`; waits up to `wait_s` (or half a command's time-out) for the first one."""
        block_ms = max(int(min(wait_s, self._longest_look_s) * 1000), 1)
        try:
            with redis_errors():
                streams = self._redis.xread({_stream_key(question_id): cursor}, block=block_ms)
        except DamagedState as error:
            self._drop_damaged(question_id, error)
            return
        for _, entries in cast(_Streams, streams or ()):
            for entry_id, fields in entries:
                piece = _parse_piece(entry_id.decode(), fields)
                if piece is not None:
                    yield piece

    def cancel(self, question_id: str) -> None:
        """Asks the reasoner to stop after its current piece."""
        with redis_errors():
            self._redis.set(_cancel_key(question_id), 1, ex=self._ttl_s)

    def is_wanted(self, question_id: str) -> bool:
        """Returns False if the question was cancelled or its video deleted."""
        with redis_errors():
            return not self._redis.exists(*_unwanted_keys(question_id))


def _encode_piece(kind: PieceKind, text: str = "") -> str:
    return json.dumps([kind, text])


def _parse_piece(cursor: str, fields: dict[bytes, bytes]) -> Piece | None:
    try:
        kind, text = json.loads(fields[b"piece"])
        if kind not in get_args(PieceKind):
            raise ValueError(f"unknown kind of piece {kind!r}")
        return Piece(cursor, kind, str(text))
    except (ValueError, KeyError, TypeError) as error:
        log.error("a damaged piece of an answer is skipped: %s", error)
        return None


def _unwanted_keys(question_id: str) -> tuple[str, str]:
    """If either key exists, nobody wants the answer any more."""
    return _cancel_key(question_id), deleted_key(video_of(question_id))


def _stream_key(question_id: str) -> str:
    return f"lw:pieces:{question_id}"


def _cancel_key(question_id: str) -> str:
    return f"lw:cancel:{question_id}"
