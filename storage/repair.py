"""Removes values of a wrong type from Redis, so that they are rebuilt from the archive."""

import logging
from typing import cast

from storage import agenda, coverage, event_log, events, index, workers
from storage.connection import as_text, redis_errors
from storage.event_scripts import DOCUMENTS
from storage.store import Store

log = logging.getLogger(__name__)

# Keys that all videos share -> their type.
SHARED = {
    index.VIDEOS: "zset",
    index.STREAMS: "zset",
    index.STREAMS_VERSION: "string",
    index.UNREADABLE: "hash",
    index.READY: "string",
    index.GENERATION: "string",
    agenda.VIDEOS: "zset",
    agenda.QUESTIONS: "zset",
    agenda.DELETIONS: "zset",
    agenda.FOUND: "zset",
    agenda.WAITING: "zset",
    agenda.EVENTS: "zset",
    agenda.DELIVERIES: "zset",
    event_log.LOG: "zset",
    DOCUMENTS: "hash",
    event_log.OPEN: "zset",
    events.RESERVED: "hash",
    event_log.LAST: "string",
    coverage.MODELS: "set",
    workers.ALIVE: "set",
    workers.MODEL: "string",
}


_FIND_DAMAGED = """
local damaged = {}
for at, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= ARGV[at] then damaged[#damaged + 1] = key end
end
return damaged
"""


def repair_shared(store: Store) -> None:
    """Removes shared keys whose value has a wrong type. If there are any, the whole state is rebuilt."""
    with redis_errors():
        found = store.state.eval(_FIND_DAMAGED, len(SHARED), *SHARED, *SHARED.values())
        damaged = [as_text(key) for key in cast(list[bytes], found)]
        if damaged:
            log.error("removing values of a wrong type from Redis: %s", ", ".join(damaged))
            store.state.delete(*damaged, index.READY)
    if coverage.MODELS in damaged:
        store.coverage.find_models()


def repair_video(store: Store, video_id: str) -> None:
    """Removes what Redis holds about the video's segments and questions. The next look reads it from the archive."""
    store.coverage.forget(video_id)
    store.agenda.forget_waiting(video_id)
    for key, kind in index.types_of(video_id).items():
        with redis_errors():
            found = store.state.type(key)
            if found not in (kind, b"none"):
                log.error("%s in Redis has the wrong type %s and is removed", key, as_text(found))
                store.state.delete(key)
