"""Removes values in Redis that are of no type of ours, so that they are built anew from the archive."""

import logging

from storage import agenda, coverage, index, workers
from storage.connection import as_text, redis_errors
from storage.store import Store

log = logging.getLogger(__name__)

# Keys that belong to no single video -> their type.
SHARED = {
    index.VIDEOS: b"zset",
    index.UNREADABLE: b"hash",
    index.READY: b"string",
    index.GENERATION: b"string",
    agenda.VIDEOS: b"zset",
    agenda.QUESTIONS: b"zset",
    agenda.DELETIONS: b"zset",
    coverage.MODELS: b"set",
    workers.ALIVE: b"zset",
    workers.MODEL: b"string",
}


def repair_shared(store: Store) -> bool:
    """Removes what is not of its type among the keys that all videos share; has the state rebuilt if there was any."""
    with redis_errors(), store.state.pipeline(transaction=False) as pipeline:
        for key in SHARED:
            pipeline.type(key)
        types = pipeline.execute()
        damaged = [key for key, kind in zip(SHARED, types, strict=True) if kind not in (SHARED[key], b"none")]
        if damaged:
            log.error("these values in Redis are none of ours and are removed: %s", ", ".join(damaged))
            store.state.delete(*damaged, index.READY)
    return bool(damaged)


def repair_video(store: Store, video_id: str) -> None:
    """Removes what Redis knows of the video's segments and questions: the next look reads it from the archive."""
    store.coverage.forget(video_id)
    store.agenda.forget_waiting(video_id)
    for key, kind in index.types_of(video_id).items():
        with redis_errors():
            found = store.state.type(key)
            if found not in (kind, b"none"):
                log.error("%s in Redis is a %s, none of ours, and is removed", key, as_text(found))
                store.state.delete(key)
