"""The index in Redis: which videos and questions exist, and which video owns a content. Rebuilt from the archive."""

import logging
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from redis import Redis

from storage.connection import as_text, mget, redis_errors
from storage.documents import Question, Video, parse_document
from storage.errors import DamagedFile, DamagedState, NewerDocument, StateRebuilding
from storage.ids import VIDEO_ID

log = logging.getLogger(__name__)

GENERATION = "lw:state:generation"
READY = "lw:state:ready"  # set once the state was built from the archive; a flush removes it
VIDEOS = "lw:videos"  # sorted set, all scores 0: ids sort by age
STREAMS = "lw:streams"  # sorted set like VIDEOS: the videos that are streams
STREAMS_VERSION = "lw:streams:version"  # counts the changes of streams' documents
PROBE = "lw:check"
UNREADABLE = "lw:unreadable"  # hash: path -> what is wrong with the document there
STATE_KNOWN_S = 7 * 86400
STATES = (b"waiting", b"queued", b"running")
DELETION_KNOWN_S = 3600  # far longer than one write takes

_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
# Stores a copy and lists the video, unless it was deleted: a late reader of the archive must not bring it back.
_PUT = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if KEYS[7] and redis.call('TYPE', KEYS[7]).ok ~= 'set' then redis.call('DEL', KEYS[7]) end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[3], 0, ARGV[1])
if ARGV[3] == '1' then
  redis.call('ZADD', KEYS[5], 0, ARGV[1])
  redis.call('INCR', KEYS[6])
end
if KEYS[7] then redis.call('SADD', KEYS[7], ARGV[1]) end
redis.call('HDEL', KEYS[4], ARGV[1])
return 1
"""
_ADD_QUESTIONS = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if redis.call('TYPE', KEYS[2]).ok ~= 'zset' then redis.call('DEL', KEYS[2]) end
for _, id in ipairs(ARGV) do redis.call('ZADD', KEYS[2], 0, id) end
return 1
"""
# Marks the video as deleted, unless other videos use its frames.
_MARK_DELETED = """
if redis.call('SCARD', KEYS[2]) > 0 then return 0 end
redis.call('SET', KEYS[1], 1, 'EX', ARGV[1])
return 1
"""
_SET_READY = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end redis.call('SET', KEYS[2], ARGV[2]) return 1"


class Index:
    """Look-ups whose cost depends only on the size of the answer. Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._release = redis.register_script(_RELEASE)
        self._put = redis.register_script(_PUT)
        self._add_questions = redis.register_script(_ADD_QUESTIONS)
        self._mark_deleted = redis.register_script(_MARK_DELETED)
        self._set_ready = redis.register_script(_SET_READY)

    def check(self) -> None:
        """Raises RedisUnavailable if the state does not answer, or refuses writes because it or its disk is full."""
        with redis_errors():
            self._redis.set(PROBE, 1, ex=60)

    def read_clock_s(self) -> float:
        """The time of the state's host (epoch seconds)."""
        with redis_errors():
            seconds, microseconds = self._redis.time()
        return seconds + microseconds / 1e6

    # readiness

    def is_ready(self) -> bool:
        """Whether the state was built from the archive since it was last empty."""
        with redis_errors():
            return bool(self._redis.exists(READY))

    def read_generation(self) -> str:
        """An id of the state's contents; a flush changes it."""
        with redis_errors():
            self._redis.set(GENERATION, secrets.token_hex(8), nx=True)
            (generation,) = mget(self._redis, [GENERATION])
            if generation is None:  # a value of another type
                self._redis.delete(GENERATION)
        return as_text(generation)

    def set_ready(self, generation: str) -> bool:
        """Notes that the state matches the archive; False if a flush emptied it since `read_generation`."""
        with redis_errors():
            return bool(self._set_ready(keys=[GENERATION, READY], args=[generation, int(time.time())]))

    def read_ready_since(self) -> float:
        """When the state was built (epoch seconds); the present time if it was not."""
        with redis_errors():
            (since,) = mget(self._redis, [READY])
        return float(since) if since is not None and since.isdigit() else time.time()

    def report_unreadable(self, path: str, reason: str) -> None:
        """Reports a document that cannot be read; `doctor` and `readyz` name it."""
        with redis_errors():
            self._redis.hset(UNREADABLE, path, reason)

    def list_unreadable(self) -> dict[str, str]:
        """Path -> what is wrong with the document there."""
        with redis_errors():
            return {as_text(path): as_text(reason) for path, reason in self._redis.hgetall(UNREADABLE).items()}

    def clear_unreadable(self, path: str) -> None:
        """Removes the report about a document that can be read again."""
        with redis_errors():
            self._redis.hdel(UNREADABLE, path)

    def forget_unreadable(self) -> None:
        """Removes all reports, before the archive is read again."""
        with redis_errors():
            self._redis.delete(UNREADABLE)

    # videos

    def put_video(self, video: Video) -> None:
        """Stores a copy of the document and lists the video; does nothing if the video was deleted."""
        keys = [deleted_key(video.id), _video_key(video.id), VIDEOS, UNREADABLE, STREAMS, STREAMS_VERSION]
        if video.duplicate_of:
            keys.append(_duplicates_key(video.duplicate_of))
        with redis_errors():
            self._put(keys=keys, args=[video.id, video.model_dump_json(), int(video.is_live)])

    def get_video(self, video_id: str) -> Video | None:
        """The copy of the document; None if it is missing or damaged."""
        return self.get_videos([video_id])[0]

    def list_videos(self, before: str | None, count: int, prefix: str = "") -> list[str]:
        """Up to `count` ids that begin with `prefix`, newest first; with `before`, only those older than it."""
        return self._list(VIDEOS, before, count, prefix)

    def list_streams(self, before: str | None, count: int, prefix: str = "") -> list[str]:
        """Up to `count` ids of streams, newest first; see `list_videos`."""
        return self._list(STREAMS, before, count, prefix)

    def count_streams(self) -> int:
        """How many streams there are."""
        with redis_errors():
            return int(self._redis.zcard(STREAMS))

    def read_streams_version(self) -> str:
        """Changes whenever a stream is added, changed or deleted."""
        with redis_errors():
            (version,) = mget(self._redis, [STREAMS_VERSION])
        return as_text(version)

    def get_videos(self, video_ids: Sequence[str]) -> list[Video | None]:
        """The copies of these documents, with one command."""
        if not video_ids:
            return []
        with redis_errors():
            contents = mget(self._redis, [_video_key(video_id) for video_id in video_ids])
        return [_parse(video_id, content) for video_id, content in zip(video_ids, contents, strict=True)]

    def forget_video(self, video: Video | str) -> None:
        """Removes the video and its questions from the lists."""
        video_id = video if isinstance(video, str) else video.id
        with redis_errors(), self._redis.pipeline() as pipeline:
            pipeline.zrem(VIDEOS, video_id)
            pipeline.zrem(STREAMS, video_id)
            pipeline.incr(STREAMS_VERSION)
            pipeline.hdel(UNREADABLE, video_id)
            pipeline.delete(_video_key(video_id), _questions_key(video_id), _duplicates_key(video_id))
            if not isinstance(video, str) and video.duplicate_of:
                pipeline.srem(_duplicates_key(video.duplicate_of), video_id)
            pipeline.execute()
        if not isinstance(video, str) and video.content_key:
            self.release_content(video.content_key, video_id)

    # content

    def claim_content(self, content_key: str, video_id: str) -> str:
        """Makes the video the owner of this content, unless it has one; returns the owner's id."""
        with redis_errors():
            if self._redis.set(_content_key(content_key), video_id, nx=True):
                return video_id
            (owner,) = mget(self._redis, [_content_key(content_key)])
            if owner is not None and VIDEO_ID.fullmatch(as_text(owner)):
                return as_text(owner)
            log.error("the owner of content %s in Redis is not a video: %s owns it from now on", content_key, video_id)
            self._redis.set(_content_key(content_key), video_id)
        return video_id

    def release_content(self, content_key: str, video_id: str) -> None:
        """Releases the content, if this video owns it."""
        with redis_errors():
            self._release(keys=[_content_key(content_key)], args=[video_id])

    def list_duplicates(self, video_id: str) -> list[str]:
        """The duplicates that use this video's frames."""
        with self._rebuilt_if_damaged(_duplicates_key(video_id)), redis_errors():
            return sorted(as_text(member) for member in self._redis.smembers(_duplicates_key(video_id)))

    def remove_duplicate(self, video_id: str, holder_id: str) -> None:
        """Notes that the video no longer uses the frames of the holder."""
        with redis_errors():
            self._redis.srem(_duplicates_key(holder_id), video_id)

    # questions

    def add_questions(self, video_id: str, question_ids: Iterable[str]) -> None:
        """Adds the questions to the video's list; does nothing if the video was deleted."""
        ids = list(question_ids)
        if ids:
            with redis_errors():
                self._add_questions(keys=[deleted_key(video_id), _questions_key(video_id)], args=ids)

    def list_questions(self, video_id: str, before: str | None, count: int, prefix: str = "") -> list[str]:
        """Up to `count` ids of the video's questions, newest first; see `list_videos`."""
        return self._list(_questions_key(video_id), before, count, prefix)

    def _list(self, key: str, before: str | None, count: int, prefix: str) -> list[str]:
        end = f"{prefix}\xff"
        high = f"[{end}" if before is None or before > end else f"({before}"
        low = f"[{prefix}" if prefix else "-"
        with self._rebuilt_if_damaged(key), redis_errors():
            found = self._redis.zrange(key, high, low, desc=True, bylex=True, offset=0, num=count)
        return [as_text(member) for member in found]

    @contextmanager
    def _rebuilt_if_damaged(self, key: str) -> Iterator[None]:
        """If the value is damaged, removes it, starts a rebuild of the state, and raises StateRebuilding."""
        try:
            yield
        except DamagedState as error:
            log.error("%s; the whole state is rebuilt", error)
            with redis_errors():
                self._redis.delete(key, READY)
            raise StateRebuilding("a list in Redis was damaged; it is being read from the archive again") from error

    def with_states(self, questions: Sequence[Question]) -> list[Question]:
        """The questions, the unsettled ones with their present status."""
        unsettled = [question.id for question in questions if not question.settled]
        if not unsettled:
            return list(questions)
        with redis_errors():
            found = mget(self._redis, [question_state_key(question_id) for question_id in unsettled])
        states = {key: as_text(state) for key, state in zip(unsettled, found, strict=True) if state in STATES}
        return [
            question.model_copy(update={"status": states[question.id]}) if question.id in states else question
            for question in questions
        ]

    # deletion

    def mark_deleted(self, video_id: str) -> bool:
        """Marks the video as deleted, so that running jobs stop; returns False instead if others use its frames."""
        with self._rebuilt_if_damaged(_duplicates_key(video_id)), redis_errors():
            marked = self._mark_deleted(
                keys=[deleted_key(video_id), _duplicates_key(video_id)], args=[DELETION_KNOWN_S]
            )
        return bool(marked)

    def is_deleted(self, video_id: str) -> bool:
        """Whether the video was deleted within the last hour."""
        with redis_errors():
            return bool(self._redis.exists(deleted_key(video_id)))

    def list_deleted(self, video_ids: Sequence[str]) -> list[str]:
        """Those of these videos that were deleted within the last hour, with one command."""
        if not video_ids:
            return []
        with redis_errors():
            marks = mget(self._redis, [deleted_key(video_id) for video_id in video_ids])
        return [video_id for video_id, mark in zip(video_ids, marks, strict=True) if mark is not None]


def deleted_key(video_id: str) -> str:
    """The key of the mark of a deletion; scripts use it too."""
    return f"lw:deleted:{video_id}"


def types_of(video_id: str) -> dict[str, bytes]:
    """The keys of one video that must have a certain type -> that type."""
    return {_duplicates_key(video_id): b"set", _questions_key(video_id): b"zset"}


def _parse(video_id: str, content: object) -> Video | None:
    if content is None:
        return None
    try:
        return parse_document(Video, cast(bytes, content), f"the copy of {video_id} in Redis")
    except (DamagedFile, NewerDocument) as error:
        log.error("%s", error)
        return None


def _video_key(video_id: str) -> str:
    return f"lw:video:{video_id}"


def _content_key(content_key: str) -> str:
    return f"lw:content:{content_key}"


def _duplicates_key(video_id: str) -> str:
    return f"lw:duplicates:{video_id}"


def question_state_key(question_id: str) -> str:
    """The key of an unsettled question's state; scripts set it."""
    return f"lw:question-state:{question_id}"


def _questions_key(video_id: str) -> str:
    return f"lw:questions:{video_id}"
