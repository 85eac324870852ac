"""Builds the state in Redis from the archive: after a flush, and when it is new."""

import logging
from collections.abc import Callable

from storage import agenda as due
from storage.documents import Video
from storage.errors import DamagedFile, NewerDocument, NotFound
from storage.store import Store

log = logging.getLogger(__name__)


def rebuild_state(store: Store, renew_lease: Callable[[], bool]) -> None:
    """Lists the archive's videos and puts each on the agenda, which counts it and finds its open questions.

    Reads one document a video and lists no segments: lists answer again within seconds. A slow archive can take longer
    than the lease of whoever rebuilds, so it is renewed with each video; once it is lost, another process rebuilds.
    """
    log.info("looking through the archive: Redis holds no state")
    generation = store.index.read_generation()
    store.index.forget_unreadable()
    store.agenda.forget_all_waiting()
    owners: dict[str, str] = {}
    for video_id in store.archive.list_video_ids():
        if not renew_lease():
            log.warning("another process looks through the archive")
            return
        try:
            video = store.archive.read_video(video_id)
        except NotFound:
            store.agenda.put(due.DELETIONS, video_id)  # a deletion or an upload that broke off, or is under way
            continue
        except (DamagedFile, NewerDocument) as error:
            log.error("%s", error)
            store.index.report_unreadable(video_id, str(error))
            continue
        store.index.put_video(video)
        store.coverage.forget(video_id)  # if not all was lost: it is counted anew, and its open questions are found
        store.agenda.put(due.VIDEOS, video_id)
        if video.content_key and _can_own(video):
            owners.setdefault(video.content_key, video_id)
    for content_key, video_id in owners.items():
        store.index.claim_content(content_key, video_id)
    if not store.index.set_ready(generation):
        log.warning("Redis was emptied meanwhile: the archive is looked through again")


def _can_own(video: Video) -> bool:
    return video.duplicate_of is None and video.status != "failed"
