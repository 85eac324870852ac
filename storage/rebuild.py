"""Builds the state in Redis from the archive, when it is new or was flushed."""

import logging
from collections.abc import Callable

from storage import agenda as due
from storage.documents import Video
from storage.errors import DamagedFile, NewerDocument, NotFound
from storage.ids import VIDEO_ID
from storage.store import Store

log = logging.getLogger(__name__)

EVENTS_AT_ONCE = 200


def rebuild_state(store: Store, renew_lease: Callable[[], bool]) -> None:
    """Lists the archive's videos and puts each on the agenda. The reconciler counts it and finds its open questions.

    Reads one document per video and lists no segments, so video lists work again within seconds. A slow archive can
    take longer than the lease of this process, so each video renews it. Once it is lost, another process rebuilds.
    """
    log.info("Redis holds no state: building it from the archive")
    generation = store.index.read_generation()
    store.index.forget_unreadable()
    store.events.forget_log()
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
        if video.is_live:
            store.agenda.put(due.EVENTS, video_id)
        if video.content_key and _can_own(video):
            owners.setdefault(video.content_key, video_id)
    for content_key, video_id in owners.items():
        store.index.claim_content(content_key, video_id)
    if not store.index.set_ready(generation):
        log.warning("Redis was flushed meanwhile: building the state again")


def _can_own(video: Video) -> bool:
    return video.duplicate_of is None and video.status != "failed"


def rebuild_events(store: Store, renew_lease: Callable[[], bool], stream_id: str) -> None:
    """Reads a stream's events from the archive into the log, as far back as the log reaches.

    Until this is done for all streams, no event is published or read: a reader must not pass events that are missing.
    If the lease is lost, the stream stays due, and another process reads it.
    """
    if not VIDEO_ID.fullmatch(stream_id):
        log.error("%s in Redis is not a stream; it is removed", stream_id)
        store.agenda.remove(due.EVENTS, stream_id)
        return
    due_at_s = store.agenda.postpone(due.EVENTS, stream_id, in_s=0)
    store.events.forget_stream_log(stream_id)
    first_id = store.events.read_oldest_id()
    days = [day for day in store.archive.list_event_days(stream_id) if day >= first_id[:8]]
    for day in days:
        listed = store.archive.list_day(stream_id, day)
        for first in range(0, len(listed.event_ids), EVENTS_AT_ONCE):
            if not renew_lease():
                log.warning("the lease is lost: another process reads the events of %s", stream_id)
                return
            chunk = [one for one in listed.event_ids[first : first + EVENTS_AT_ONCE] if one >= first_id]
            events, unreadable = store.archive.read_events(stream_id, chunk)
            delivered = [one for one in chunk if one in listed.delivery_ids]
            deliveries, also_unreadable = store.archive.read_deliveries(stream_id, delivered)
            store.events.restore(stream_id, events, deliveries)
            for path, reason in (unreadable | also_unreadable).items():
                store.index.report_unreadable(path, reason)
        store.events.trim()
    store.agenda.finish(due.EVENTS, stream_id, due_at_s)
