"""Reads the pictures of a stretch, wherever they are: in the archive, or still open."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from storage.documents import Video
from storage.errors import DamagedFile, NotFound
from storage.store import Store
from storage.timeline import SEGMENT_SLOTS, places_in


class Picture(NamedTuple):
    """A picture for people; the model's if there is no other."""

    slot: int
    t_s: float
    jpeg: bytes


def read_pictures(store: Store, holder: Video, masks: Mapping[int, int]) -> Iterator[Picture]:
    """The pictures of these frames (segment -> mask), in order of time. Lost and damaged ones are left out."""
    for segment in sorted(masks):
        found = _read_archived(store, holder, segment, masks[segment])
        missing = masks[segment] & ~sum(1 << place for place in found)
        if missing and holder.is_live:
            for place, frame in store.open_frames.read_pictures(holder.id, segment, missing).items():
                found[place] = Picture(segment * SEGMENT_SLOTS + place, frame.t_s, frame.view or frame.model or b"")
        yield from (found[place] for place in sorted(found))


def _read_archived(store: Store, holder: Video, segment: int, mask: int) -> dict[int, Picture]:
    found: dict[int, Picture] = {}
    try:
        with store.archive.open_segment(holder.id, segment) as reader:
            for place in places_in(mask & reader.mask):
                kind = "view" if reader.has("view", place) else "model"
                if reader.has(kind, place):
                    jpeg = reader.read_picture(kind, place)
                    found[place] = Picture(segment * SEGMENT_SLOTS + place, reader.times_s[place], jpeg)
    except NotFound:
        pass  # it is open, or it was removed
    except DamagedFile as error:
        store.index.report_unreadable(f"{holder.id}/{segment:06d}", str(error))
    return found
