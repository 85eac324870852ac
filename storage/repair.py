"""Removes values in Redis that are of no type of ours, so that they are built anew from the archive."""

import logging
from typing import cast

from storage import agenda, coverage, index, workers
from storage.connection import as_text, redis_errors
from storage.store import Store

log = logging.getLogger(__name__)

# Keys that belong to no single video -> their type.
SHARED = {
    index.VIDEOS: "zset",
    index.UNREADABLE: "hash",
    index.READY: "string",
    index.GENERATION: "string",
    agenda.VIDEOS: "zset",
    agenda.QUESTIONS: "zset",
    agenda.DELETIONS: "zset",
    agenda.FOUND: "zset",
    agenda.WAITING: "zset",
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
    """Removes what is not of its type among the keys that all videos share; has the state rebuilt if there was any."""
    with redis_errors():
        found = store.state.eval(_FIND_DAMAGED, len(SHARED), *SHARED, *SHARED.values())
        damaged = [as_text(key) for key in cast(list[bytes], found)]
        if damaged:
            log.error("these values in Redis are none of ours and are removed: %s", ", ".join(damaged))
            store.state.delete(*damaged, index.READY)
    if coverage.MODELS in damaged:
        store.coverage.find_models()


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
