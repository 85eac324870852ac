"""Standing questions of streams: their documents, the means of their fused rows, and what they last answered.

Documents are in the archive, with copies in the state. The means are derived from the frames, one for each interval of
`every_s` seconds and never one per frame. A watch's status and history are in the state only.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

from pydantic import ValidationError
from redis import Redis

from storage.archive import Archive
from storage.connection import as_text, mget, redis_errors
from storage.documents import Document, parse_document
from storage.errors import DamagedFile, NewerDocument, NotFound
from storage.ids import video_of
from storage.index import deleted_key
from storage.live_documents import Watch
from storage.packing import pack_array, unpack_array
from storage.records import Half

log = logging.getLogger(__name__)

VERSION_KEY = "lw:watches:version"  # counts changes of watches
LOADED = b"loaded"  # field of a stream's copies: all of them are there
KNOWN_S = 7 * 86400
_COUNT_BITS = 24  # of a packed number: how many frames a mean has; the rest is its last slot

# Stores copies (id, document ...) unless the stream was deleted.
_PUT = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
redis.call('INCR', KEYS[3])
return 1
"""
# Stores means (interval, value ...) unless the stream or the watch (ARGV[2]) was deleted.
_PUT_MEANS = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
if redis.call('HEXISTS', KEYS[3], ARGV[3]) == 1 and redis.call('HEXISTS', KEYS[3], ARGV[2]) == 0 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
"""


class IntervalMean(NamedTuple):
    """A watch's fused rows (L,D), averaged over frames of one interval."""

    frames: int
    last_slot: int  # the last one; those before it are in the mean, or were missed
    rows: Half


class WatchStatus(Document):
    """What a watch last saw. `value` is what `notify` compares: the answer, or whether it matches."""

    interval: int = -1  # the last one that was evaluated
    value: str | None = None
    streak: int = 0  # evaluations in a row with this value
    notified: str | None = None  # the value of the last event; of a new watch, its first value
    event_at: datetime | None = None


class Evaluation(Document):
    """One evaluation of a watch."""

    at: datetime
    answer: str
    probability: float
    event_id: str | None = None


class Watches:
    """Reads and writes watches. Raises RedisUnavailable, ArchiveUnavailable."""

    def __init__(self, redis: Redis, archive: Archive) -> None:
        self._redis = redis
        self._archive = archive
        self._put = redis.register_script(_PUT)
        self._put_means = redis.register_script(_PUT_MEANS)

    # documents

    def write(self, watch: Watch) -> None:
        """Stores a new or changed watch; raises NotFound if its stream was deleted."""
        self._archive.write_watch(watch)
        keys = [_watches_key(watch.stream_id), deleted_key(watch.stream_id), VERSION_KEY]
        with redis_errors():
            self._put(keys=keys, args=[watch.id, watch.model_dump_json()])

    def read(self, watch_id: str) -> Watch:
        """The watch; raises NotFound, DamagedFile, NewerDocument."""
        return self._archive.read_watch(video_of(watch_id), watch_id)

    def list_watches(self, stream_id: str) -> list[Watch]:
        """The watches of a stream, oldest first."""
        return self.list_all([stream_id])[stream_id]

    def list_all(self, stream_ids: Sequence[str]) -> dict[str, list[Watch]]:
        """Stream -> its watches; one round trip for all whose copies Redis has."""
        if not stream_ids:
            return {}
        with redis_errors(), self._redis.pipeline(transaction=False) as pipeline:
            for stream_id in stream_ids:
                pipeline.hgetall(_watches_key(stream_id))
            found = cast(list[dict[bytes, bytes]], pipeline.execute())
        return {
            stream_id: _parse_all(copies) if LOADED in copies else self._load(stream_id)
            for stream_id, copies in zip(stream_ids, found, strict=True)
        }

    def delete(self, watch: Watch, fingerprints: Iterable[str]) -> None:
        """Removes a watch with everything that was derived for it."""
        self._archive.delete_watch(watch.stream_id, watch.id)
        with redis_errors(), self._redis.pipeline() as pipeline:
            pipeline.hdel(_watches_key(watch.stream_id), watch.id)
            pipeline.incr(VERSION_KEY)
            pipeline.delete(*_derived_keys(watch.id, fingerprints))
            pipeline.execute()

    def forget_stream(self, stream_id: str, fingerprints: Sequence[str]) -> None:
        """Removes what Redis holds about the watches of a deleted stream."""
        with redis_errors():
            ids = [as_text(name) for name in self._redis.hkeys(_watches_key(stream_id)) if name != LOADED]
            keys = [key for watch_id in ids for key in _derived_keys(watch_id, fingerprints)]
            self._redis.delete(_watches_key(stream_id), *keys)

    def read_version(self) -> str:
        """Changes whenever a watch is added, changed or deleted; a flush empties it."""
        with redis_errors():
            (version,) = mget(self._redis, [VERSION_KEY])
        return as_text(version)

    def _load(self, stream_id: str) -> list[Watch]:
        """Reads the watches from the archive, and copies them into the state."""
        watches = []
        for watch_id in self._archive.list_watch_ids(stream_id):
            try:
                watches.append(self._archive.read_watch(stream_id, watch_id))
            except NotFound:
                continue
            except (DamagedFile, NewerDocument) as error:
                log.error("a watch of %s is left out: %s", stream_id, error)
        copies = [word for watch in watches for word in (watch.id, watch.model_dump_json())]
        with redis_errors():
            self._put(keys=[_watches_key(stream_id), deleted_key(stream_id), VERSION_KEY], args=[LOADED, 1, *copies])
        return watches

    # means of fused rows

    def write_means(self, watch: Watch, fingerprint: str, means: Mapping[int, IntervalMean]) -> None:
        """Stores the means of these intervals."""
        if not means:
            return
        words = [
            word
            for interval, mean in means.items()
            for word in (interval, pack_array(mean.last_slot << _COUNT_BITS | mean.frames, mean.rows))
        ]
        keys = [_means_key(watch.id, fingerprint), deleted_key(watch.stream_id), _watches_key(watch.stream_id)]
        with redis_errors():
            self._put_means(keys=keys, args=[KNOWN_S, watch.id, LOADED, *words])

    def read_means(self, watch_ids: Sequence[str], fingerprint: str, intervals: range) -> list[dict[int, IntervalMean]]:
        """Interval -> mean, for each watch; one round trip for all."""
        if not intervals:
            return [{} for _ in watch_ids]
        with redis_errors(), self._redis.pipeline(transaction=False) as pipeline:
            for watch_id in watch_ids:
                pipeline.hmget(_means_key(watch_id, fingerprint), [str(interval) for interval in intervals])
            replies = cast(list[list[bytes | None]], pipeline.execute())
        return [
            {
                interval: IntervalMean(found[0] & ((1 << _COUNT_BITS) - 1), found[0] >> _COUNT_BITS, found[1])
                for interval, blob in zip(intervals, blobs, strict=True)
                if blob and (found := unpack_array(blob, 2))
            }
            for blobs in replies
        ]

    def forget_means(self, watch_id: str, fingerprint: str, before: int) -> None:
        """Removes the means of intervals before this one."""
        key = _means_key(watch_id, fingerprint)
        with redis_errors():
            old = [name for name in self._redis.hkeys(key) if int(name) < before]
            if old:
                self._redis.hdel(key, *cast(Any, old))

    # what they answered

    def read_status(self, watch_ids: Sequence[str]) -> list[WatchStatus]:
        """What each watch last saw; one command."""
        if not watch_ids:
            return []
        with redis_errors():
            found = mget(self._redis, [_status_key(watch_id) for watch_id in watch_ids])
        return [_parse_status(blob) for blob in found]

    def note(self, watch_id: str, status: WatchStatus, evaluation: Evaluation, most: int) -> None:
        """Stores the status after an evaluation, and adds it to the history of at most `most`."""
        with redis_errors(), self._redis.pipeline() as pipeline:
            pipeline.set(_status_key(watch_id), status.model_dump_json(), ex=KNOWN_S)
            pipeline.xadd(_history_key(watch_id), {"evaluation": evaluation.model_dump_json()}, maxlen=most)
            pipeline.expire(_history_key(watch_id), KNOWN_S)
            pipeline.execute()

    def read_history(self, watch_id: str, count: int) -> list[Evaluation]:
        """The last evaluations, newest first."""
        with redis_errors():
            entries = cast(
                list[tuple[bytes, dict[bytes, bytes]]], self._redis.xrevrange(_history_key(watch_id), count=count)
            )
        found = []
        for _, fields in entries:
            try:
                found.append(Evaluation.model_validate_json(fields[b"evaluation"]))
            except (ValidationError, KeyError) as error:
                log.error("a damaged entry of the history of watch %s is left out: %s", watch_id, error)
        return found


def _parse_all(copies: Mapping[bytes, bytes]) -> list[Watch]:
    watches = []
    for name, content in sorted(copies.items()):
        if name != LOADED:
            try:
                watches.append(parse_document(Watch, content, f"the copy of watch {as_text(name)} in Redis"))
            except (DamagedFile, NewerDocument) as error:
                log.error("%s", error)
    return watches


def _parse_status(blob: bytes | None) -> WatchStatus:
    try:
        return WatchStatus() if blob is None else WatchStatus.model_validate(json.loads(blob))
    except ValueError as error:
        log.error("a damaged status of a watch is forgotten: %s", error)
        return WatchStatus()


def _derived_keys(watch_id: str, fingerprints: Iterable[str]) -> list[str]:
    means = [_means_key(watch_id, fingerprint) for fingerprint in fingerprints]
    return [_status_key(watch_id), _history_key(watch_id), *means]


def _watches_key(stream_id: str) -> str:
    return f"lw:watches:{stream_id}"


def _means_key(watch_id: str, fingerprint: str) -> str:
    return f"lw:watch-means:{fingerprint}:{watch_id}"


def _status_key(watch_id: str) -> str:
    return f"lw:watch-status:{watch_id}"


def _history_key(watch_id: str) -> str:
    return f"lw:watch-history:{watch_id}"
