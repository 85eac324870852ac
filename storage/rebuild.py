"""Builds the state in Redis from the archive, when it is new or was flushed."""

import logging
from collections.abc import Callable

from storage import agenda as due
from storage.documents import Video
from storage.errors import DamagedFile, NewerDocument, NotFound
from storage.store import Store

log = logging.getLogger(__name__)


def rebuild_state(store: Store, renew_lease: Callable[[], bool]) -> None:
    """Lists the archive's videos and puts each on the agenda. The reconciler counts it and finds its open questions.

    Reads one document per video and lists no segments, so video lists work again within seconds. A slow archive can
    take longer than the lease of this process, so each video renews it. Once it is lost, another process rebuilds.
    """
    log.info("Redis holds no state: building it from the archive")
    generation = store.index.read_generation()
    store.index.forget_unreadable()
    store.agenda.forget_all_waiting()
    owners: dict[str, str] = {}
    for video_id in store.archive.list_video_ids():
        if not renew_lease():
            log.warning("the lease is lost: another process builds the state")
            return
        try:
            video = store.archive.read_video(video_id)
        except NotFound:
            store.agenda.put(due.DELETIONS, video_id)  # a deletion or upload that was interrupted, or is in progress
            continue
        except (DamagedFile, NewerDocument) as error:
            log.error("%s", error)
            store.index.report_unreadable(video_id, str(error))
            continue
        store.index.put_video(video)
        store.coverage.forget(video_id)  # some marks may be left: count it again, and find its open questions
        store.agenda.put(due.VIDEOS, video_id)
        if video.content_key and _can_own(video):
            owners.setdefault(video.content_key, video_id)
    for content_key, video_id in owners.items():
        store.index.claim_content(content_key, video_id)
    if not store.index.set_ready(generation):
        log.warning("Redis was flushed meanwhile: building the state again")


def _can_own(video: Video) -> bool:
    return video.duplicate_of is None and video.status != "failed"
