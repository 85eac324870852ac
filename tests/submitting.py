"""Stores videos, segments and questions as users and ingest would."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ingest.files.scaling import encode_jpeg
from storage.documents import Question, Video
from storage.ids import new_question_id, new_video_id
from storage.segments import SegmentFrame
from storage.store import Store
from storage.timeline import SEGMENT_SLOTS
from training.render import render
from training.world import generate


def new_video(**values: Any) -> Video:
    """A video document; `values` replace its defaults."""
    base = {"id": new_video_id(), "kind": "url", "source": "s", "location": "s", "sample_fps": 1.0, "mode": "exact"}
    return Video.model_validate(base | values)


def new_question(video: Video, **values: Any) -> Question:
    """A question document about a video; `values` replace its defaults."""
    base = {"id": new_question_id(video.id), "video_id": video.id, "text": "is there a red circle ?"}
    return Question.model_validate(base | {"fusion": "focused"} | values)


@lru_cache
def draw_pictures(count: int, side_px: int = 336) -> tuple[bytes, ...]:
    """JPEGs of one world, of the kind that the bundled model was trained on."""
    world = generate(3, count)
    return tuple(encode_jpeg(render(world, k + 0.5, side_px), 90) for k in range(count))


def put_frames(store: Store, video: Video, pictures: Sequence[bytes], first_segment: int = 0) -> None:
    """Stores the pictures as ingest does, 64 in each segment."""
    for at in range(0, len(pictures), SEGMENT_SLOTS):
        part = pictures[at : at + SEGMENT_SLOTS]
        segment = first_segment + at // SEGMENT_SLOTS
        frames = [
            SegmentFrame(place, video.grid.time_s(SEGMENT_SLOTS * segment + place), picture, None)
            for place, picture in enumerate(part)
        ]
        store.create_segment(video.id, segment, frames)


def add_sampled(store: Store, pictures: Sequence[bytes], **values: Any) -> Video:
    """Adds a video with all of its frames."""
    video = new_video(**{"status": "ready", "frames_sampled": len(pictures)} | values)
    store.add_video(video)
    put_frames(store, video, pictures)
    return video
