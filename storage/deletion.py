"""Deletes a video and all that belongs to it. If the process dies, another one finishes the deletion."""

from storage import agenda as due
from storage.errors import Conflict, DamagedFile, NewerDocument, NotFound
from storage.ids import check_video_id
from storage.store import UNWRITTEN_S, Store

EVERY_QUESTION = 2**31


def delete_video(store: Store, video_id: str) -> None:
    """Removes the video; raises NotFound, and Conflict while other videos use its frames."""
    if store.index.get_video(check_video_id(video_id)) is None and not store.archive.files.names(video_id):
        store.index.forget_video(video_id)
        raise NotFound(f"no video {video_id}: `longwatch list` shows the ids")
    store.agenda.put(due.DELETIONS, video_id, in_s=UNWRITTEN_S)  # another process finishes it if this one dies
    if not store.index.mark_deleted(video_id):
        duplicates = _list_duplicates(store, video_id)
        if duplicates or not store.index.mark_deleted(video_id):
            store.agenda.remove(due.DELETIONS, video_id)
            names = ", ".join(duplicates) or "another video"
            raise Conflict(f"{video_id} holds the frames of {names} (same content); delete these first")
    finish_deletion(store, video_id)


def finish_deletion(store: Store, video_id: str) -> None:
    """Removes everything that belongs to a video marked as deleted."""
    video = store.index.get_video(video_id)
    question_ids = store.index.list_questions(video_id, None, EVERY_QUESTION)
    store.archive.delete_video(video_id)
    store.cache.forget_settled(question_ids)
    if video is not None and video.duplicate_of is not None:
        store.agenda.stop_waiting(video.duplicate_of, question_ids)
    store.forget_video(video or video_id)
    store.agenda.remove(due.DELETIONS, video_id)


def _list_duplicates(store: Store, video_id: str) -> list[str]:
    """The videos that use this one's frames; entries of videos that no longer do are removed."""
    duplicates = []
    for other_id in store.index.list_duplicates(video_id):
        if _uses_frames(store, other_id, video_id):
            duplicates.append(other_id)
        else:
            store.index.remove_duplicate(other_id, video_id)
    return duplicates


def _uses_frames(store: Store, video_id: str, holder_id: str) -> bool:
    try:
        return store.read_video(video_id).duplicate_of == holder_id
    except NotFound:
        return False
    except (DamagedFile, NewerDocument):
        return True  # it may use them
