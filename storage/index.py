"""The index in Redis: which videos and questions there are, and whose content is whose. Rebuilt from the archive."""

import logging
import time
from collections.abc import Iterable, Sequence
from typing import cast

from redis import Redis

from storage.connection import as_text, mget, redis_errors
from storage.documents import Question, QuestionState, Video, parse_document
from storage.errors import DamagedFile, NewerDocument

log = logging.getLogger(__name__)

READY = "lw:state:ready"  # set once the state was built from the archive; a flush takes it away
VIDEOS = "lw:videos"  # sorted set, all scores 0: ids sort by age
PROBE = "lw:check"
UNREADABLE = "lw:unreadable"  # hash: path -> what is wrong with the document there
STATE_KNOWN_S = 7 * 86400
STATES = (b"waiting", b"queued", b"running")
DELETION_KNOWN_S = 3600  # far longer than one write takes

_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
# In one step: whoever sees the mark removes the video, so it must never be there for one that stays.
_MARK_DELETED = """
if redis.call('SCARD', KEYS[1]) > 0 then return 0 end
redis.call('SET', KEYS[2], 1, 'EX', ARGV[1])
return 1
"""


class Index:
    """Look-ups that cost what they answer. Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._mark_deleted = redis.register_script(_MARK_DELETED)
        self._release = redis.register_script(_RELEASE)

    def check(self) -> None:
        """Raises RedisUnavailable if the state does not answer, or takes no writes: it is full, or its disk is."""
        with redis_errors():
            self._redis.set(PROBE, 1, ex=60)

    def read_clock_s(self) -> float:
        """The time of the state's host (epoch seconds)."""
        with redis_errors():
            seconds, microseconds = self._redis.time()
        return seconds + microseconds / 1e6

    # readiness

    def is_ready(self) -> bool:
        """Whether the state was built from the archive since it was new or flushed."""
        with redis_errors():
            return bool(self._redis.exists(READY))

    def set_ready(self) -> None:
        """The state holds what the archive does."""
        with redis_errors():
            self._redis.set(READY, int(time.time()))

    def read_ready_since(self) -> float:
        """When the state was built (epoch seconds); now if it was not."""
        with redis_errors():
            since = self._redis.get(READY)
        return time.time() if since is None else float(since)

    def report_unreadable(self, path: str, reason: str) -> None:
        """Has `doctor` and `readyz` name a document that cannot be read."""
        with redis_errors():
            self._redis.hset(UNREADABLE, path, reason)

    def list_unreadable(self) -> dict[str, str]:
        """Path -> what is wrong with the document there."""
        with redis_errors():
            return {as_text(path): as_text(reason) for path, reason in self._redis.hgetall(UNREADABLE).items()}

    def forget_unreadable(self) -> None:
        """Begins a new look through the archive."""
        with redis_errors():
            self._redis.delete(UNREADABLE)

    # videos

    def put_video(self, video: Video) -> None:
        """Keeps a copy of the document, and finds the video in lists."""
        with redis_errors(), self._redis.pipeline() as pipeline:
            pipeline.set(_video_key(video.id), video.model_dump_json())
            pipeline.zadd(VIDEOS, {video.id: 0})
            pipeline.hdel(UNREADABLE, video.id)
            if video.duplicate_of:
                pipeline.sadd(_leaning_key(video.duplicate_of), video.id)
            pipeline.execute()

    def get_video(self, video_id: str) -> Video | None:
        """The copy of the document; None if there is none that can be read."""
        with redis_errors():
            content = self._redis.get(_video_key(video_id))
        return _parse(video_id, content)

    def list_videos(self, before: str | None, count: int, prefix: str = "") -> list[str]:
        """Up to `count` ids that begin with `prefix`, newest first; with `before`, only those older than it."""
        high = f"({before}" if before is not None else f"[{prefix}\xff"
        low = f"[{prefix}" if prefix else "-"
        with redis_errors():
            found = self._redis.zrange(VIDEOS, high, low, desc=True, bylex=True, offset=0, num=count)
        return [as_text(video_id) for video_id in found]

    def get_videos(self, video_ids: Sequence[str]) -> list[Video | None]:
        """The copies of these documents, by one command."""
        if not video_ids:
            return []
        with redis_errors():
            contents = mget(self._redis, [_video_key(video_id) for video_id in video_ids])
        return [_parse(video_id, content) for video_id, content in zip(video_ids, contents, strict=True)]

    def forget_video(self, video: Video | str) -> None:
        """Removes the video from lists, with its questions."""
        video_id = video if isinstance(video, str) else video.id
        with redis_errors(), self._redis.pipeline() as pipeline:
            pipeline.zrem(VIDEOS, video_id)
            pipeline.hdel(UNREADABLE, video_id)
            pipeline.delete(_video_key(video_id), _questions_key(video_id), _leaning_key(video_id))
            if not isinstance(video, str) and video.duplicate_of:
                pipeline.srem(_leaning_key(video.duplicate_of), video_id)
            pipeline.execute()
        if not isinstance(video, str) and video.content_key:
            self.release_content(video.content_key, video_id)

    # content

    def claim_content(self, content_key: str, video_id: str) -> str:
        """Makes the video the owner of this content unless there is one; the owner's id."""
        with redis_errors():
            if self._redis.set(_content_key(content_key), video_id, nx=True):
                return video_id
            owner = self._redis.get(_content_key(content_key))
        return as_text(owner) if owner else video_id

    def release_content(self, content_key: str, video_id: str) -> None:
        """Gives the content up, if it is this video's."""
        with redis_errors():
            self._release(keys=[_content_key(content_key)], args=[video_id])

    def list_leaning(self, video_id: str) -> list[str]:
        """The videos of the same content that have this one's frames."""
        with redis_errors():
            return sorted(as_text(member) for member in self._redis.smembers(_leaning_key(video_id)))

    def stop_leaning(self, video_id: str, on: str) -> None:
        """The video does without the frames of `on` from now on."""
        with redis_errors():
            self._redis.srem(_leaning_key(on), video_id)

    # questions

    def add_questions(self, video_id: str, question_ids: Iterable[str]) -> None:
        """Finds the questions in the list of the video's."""
        scores = dict.fromkeys(question_ids, 0)
        if scores:
            with redis_errors():
                self._redis.zadd(_questions_key(video_id), scores)

    def list_questions(self, video_id: str, before: str | None, count: int, prefix: str = "") -> list[str]:
        """Up to `count` ids of the video's questions, newest first; as `list_videos`."""
        high = f"({before}" if before is not None else f"[{prefix}\xff"
        low = f"[{prefix}" if prefix else "-"
        with redis_errors():
            found = self._redis.zrange(_questions_key(video_id), high, low, desc=True, bylex=True, offset=0, num=count)
        return [as_text(question_id) for question_id in found]

    def set_question_state(self, question_id: str, state: QuestionState) -> bool:
        """How far an unsettled question is; whether that is a change."""
        with redis_errors():
            before = self._redis.set(_question_state_key(question_id), state, ex=STATE_KNOWN_S, get=True)
        return before != state.encode()

    def with_states(self, questions: Sequence[Question]) -> list[Question]:
        """The questions, the unsettled ones with how far they are."""
        unsettled = [question.id for question in questions if not question.settled]
        if not unsettled:
            return list(questions)
        with redis_errors():
            found = mget(self._redis, [_question_state_key(question_id) for question_id in unsettled])
        states = {key: as_text(state) for key, state in zip(unsettled, found, strict=True) if state in STATES}
        return [
            question.model_copy(update={"status": states[question.id]}) if question.id in states else question
            for question in questions
        ]

    def forget_question_state(self, question_id: str) -> None:
        """The question is settled: its document says how."""
        with redis_errors():
            self._redis.delete(_question_state_key(question_id))

    # deletion

    def mark_deleted(self, video_id: str) -> bool:
        """Tells every process that works on the video that it is gone; False, and no mark, while others lean on it."""
        with redis_errors():
            keys = [_leaning_key(video_id), deleted_key(video_id)]
            return bool(self._mark_deleted(keys=keys, args=[DELETION_KNOWN_S]))

    def is_deleted(self, video_id: str) -> bool:
        """Whether the video was deleted a short while ago."""
        with redis_errors():
            return bool(self._redis.exists(deleted_key(video_id)))


def deleted_key(video_id: str) -> str:
    """The mark of a deletion; scripts look at it too."""
    return f"lw:deleted:{video_id}"


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


def _leaning_key(video_id: str) -> str:
    return f"lw:leaning:{video_id}"


def _question_state_key(question_id: str) -> str:
    return f"lw:question-state:{question_id}"


def _questions_key(video_id: str) -> str:
    return f"lw:questions:{video_id}"
