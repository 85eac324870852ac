"""The hot copy in Redis: records, progress, locks and the set of unfinished videos. Nothing here is the only copy."""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from configs.settings import RedisSettings
from storage.errors import RedisUnavailable

log = logging.getLogger(__name__)

UNFINISHED = "videos:unfinished"
SCANNED = "videos:scanned"
MODEL = "model:fingerprint"
DELETION_KNOWN_S = 3600  # far longer than one write takes


def connect(url: str, settings: RedisSettings) -> Redis:
    """A connection that retries with backoff and answers in bytes. Raises RedisUnavailable where the URL is wrong."""
    try:
        return Redis.from_url(
            url,
            socket_connect_timeout=settings.connect_timeout_s,
            retry=Retry(ExponentialBackoff(cap=2.0, base=0.05), settings.retries),
            retry_on_error=[RedisConnectionError, RedisTimeoutError],
            health_check_interval=30,
        )
    except ValueError as error:
        raise RedisUnavailable(f"redis.url is wrong: {error}; e.g. redis://127.0.0.1:6379/0") from error


@contextmanager
def redis_errors() -> Iterator[None]:
    """Translates Redis' errors at this seam."""
    try:
        yield
    except RedisError as error:
        raise RedisUnavailable(
            f"Redis does not answer: {error}; start it (`longwatch up` does) or correct redis.url"
        ) from error


def as_text(value: object) -> str:
    """What Redis holds, as text (connections here answer in bytes)."""
    return value.decode() if isinstance(value, bytes) else str(value)


def as_bytes(value: object) -> bytes | None:
    """What Redis holds, as bytes; None where it holds nothing."""
    return value if isinstance(value, bytes) else None


class Hot:
    """Records with a time to live, and the counters behind the progress display. Raises RedisUnavailable."""

    def __init__(self, redis: Redis, settings: RedisSettings) -> None:
        self.redis = redis
        self._settings = settings

    def check(self) -> None:
        """Raises RedisUnavailable where Redis does not answer."""
        with redis_errors():
            self.redis.ping()

    # records

    def record(self, video_id: str, segment: int) -> bytes | None:
        """The segment's record as a blob; its life starts anew. None where it was evicted."""
        with redis_errors():
            return as_bytes(self.redis.getex(_record_key(video_id, segment), ex=self._settings.record_ttl_s))

    def put_record(self, video_id: str, segment: int, blob: bytes) -> None:
        """Keeps a copy of the record. A Redis that is full goes without: the archive has it."""
        with redis_errors():
            try:
                self.redis.set(_record_key(video_id, segment), blob, ex=self._settings.record_ttl_s)
            except OutOfMemoryError:
                log.warning("Redis is full, segment %s of %s stays in the archive only", segment, video_id)

    def drop_record(self, video_id: str, segment: int) -> None:
        """Forgets the copy."""
        with redis_errors():
            self.redis.delete(_record_key(video_id, segment))

    def record_bytes(self, video_id: str, segments: int) -> int:
        """Memory that the records of the video's first `segments` segments take, as stored."""
        with redis_errors(), self.redis.pipeline(transaction=False) as pipeline:
            for segment in range(segments):
                pipeline.strlen(_record_key(video_id, segment))
            return sum(pipeline.execute())

    # counters: "frames:{segment}" and "tokens:{segment}" -> how many; "since_s" and "base": for the estimate of time

    def counts(self, video_id: str) -> dict[str, int] | None:
        """The video's counters, None where they have to be rebuilt."""
        with redis_errors():
            raw = self.redis.hgetall(_counts_key(video_id))
        return {as_text(name): int(value) for name, value in raw.items()} if raw else None

    def set_count(self, video_id: str, name: str, value: int) -> None:
        """Sets a counter, unless all are gone: then they are rebuilt from the archive, which has this change."""
        with redis_errors():
            if self.redis.exists(_counts_key(video_id)):
                self.redis.hset(_counts_key(video_id), name, value)

    def begin_counts(self, video_id: str) -> None:
        """From here on `set_count` is heeded: call it before reading the archive, so no change falls between."""
        with redis_errors():
            self.redis.hset(_counts_key(video_id), "since_s", int(time.time()))

    def fill_counts(self, video_id: str, counts: Mapping[str, int]) -> None:
        """Adds what was read from the archive; a counter set meanwhile is newer and stays."""
        with redis_errors(), self.redis.pipeline() as pipeline:
            for name, value in counts.items():
                pipeline.hsetnx(_counts_key(video_id), name, value)
            pipeline.execute()

    def forget_video(self, video_id: str, segments: int) -> None:
        """Removes every trace of the video."""
        with redis_errors():
            keys = [_record_key(video_id, segment) for segment in range(segments)]
            self.redis.delete(_counts_key(video_id), *keys)
            self.redis.srem(UNFINISHED, video_id)

    # which videos and questions need work

    def unfinished(self) -> list[str]:
        """The ids of videos and questions that may have work left, oldest first."""
        with redis_errors():
            return sorted(as_text(member) for member in self.redis.smembers(UNFINISHED))

    def mark_unfinished(self, *ids: str) -> None:
        """Has the reconciler look after these videos or questions."""
        if ids:
            with redis_errors():
                self.redis.sadd(UNFINISHED, *ids)

    def mark_finished(self, unfinished_id: str) -> None:
        """The video or question needs no work any more."""
        with redis_errors():
            self.redis.srem(UNFINISHED, unfinished_id)

    def mark_deleted(self, video_id: str) -> None:
        """Has whoever is still at work on the video learn of its end."""
        with redis_errors():
            self.redis.set(_deleted_key(video_id), 1, ex=DELETION_KNOWN_S)

    def unmark_deleted(self, video_id: str) -> None:
        """It was not deleted after all."""
        with redis_errors():
            self.redis.delete(_deleted_key(video_id))

    def was_deleted(self, video_id: str) -> bool:
        """Whether the video was deleted a short while ago."""
        with redis_errors():
            return bool(self.redis.exists(_deleted_key(video_id)))

    def scan_is_due(self) -> bool:
        """Whether this Redis knows nothing yet (it is new, or was flushed): the archive must be looked through."""
        with redis_errors():
            return bool(self.redis.set(SCANNED, 1, nx=True))

    def model(self) -> str | None:
        """The fingerprint of the model that is running, None before any worker has come up."""
        with redis_errors():
            raw = self.redis.get(MODEL)
        return as_text(raw) if raw else None

    def announce_model(self, fingerprint: str) -> None:
        """Says which model runs. Another one than before makes all counters void: they counted its records."""
        with redis_errors():
            if self.redis.set(MODEL, fingerprint, get=True) != fingerprint.encode():
                for key in self.redis.scan_iter(match=_counts_key("*"), count=1000):
                    self.redis.delete(key)
                self.redis.delete(SCANNED)

    def announce_worker(self, name: str, queues: list[str], alive_s: int) -> None:
        """Says that a worker listens to these queues, for `alive_s` seconds."""
        with redis_errors():
            self.redis.set(_worker_key(name), ",".join(queues), ex=alive_s)

    def workers(self) -> Counter[str]:
        """How many live workers listen to each queue."""
        with redis_errors():
            keys = list(self.redis.scan_iter(match=_worker_key("*"), count=1000))
            listening = self.redis.mget(keys) if keys else []
        return Counter(queue for value in listening if value for queue in as_text(value).split(","))

    # locks: they save double work; that results are right does not hang on them

    @contextmanager
    def lock(self, name: str, hold_s: float, wait_s: float) -> Iterator[bool]:
        """Holds the lock `name` for at most `hold_s`; yields False where it could not be had within `wait_s`."""
        with redis_errors():
            lock = self.redis.lock(f"lock:{name}", timeout=hold_s, blocking_timeout=wait_s, thread_local=False)
            got = lock.acquire()
        try:
            yield got
        finally:
            if got:
                try:
                    lock.release()
                except RedisError as error:
                    log.warning("lock %s was lost meanwhile: %s", name, error)


def _record_key(video_id: str, segment: int) -> str:
    return f"video:{video_id}:segment:{segment}"


def _deleted_key(video_id: str) -> str:
    return f"deleted:{video_id}"


def _worker_key(name: str) -> str:
    return f"worker:{name}"


def _counts_key(video_id: str) -> str:
    return f"video:{video_id}:counts"
