"""Small videos, questions, segments and records for the tests of storage and jobs."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
from redis import Redis

from storage import agenda as due
from storage.connection import as_text
from storage.documents import Capture, Question, Video
from storage.ids import new_question_id, new_video_id
from storage.records import Record
from storage.segments import SegmentFrame
from storage.store import Store
from storage.timeline import FULL_MASK, mask_of

MODEL = "0123456789abcdef"
OTHER_MODEL = "fedcba9876543210"
STREAM_START = datetime(2026, 11, 20, 8, tzinfo=UTC)


def list_keys(redis: Redis, pattern: str = "*") -> list[str]:
    """The keys that exist, sorted."""
    return sorted(as_text(key) for key in redis.keys(pattern))


def make_due(store: Store, *agendas: str) -> None:
    """Makes everything due, as if `recheck_after_s` had passed."""
    for agenda in agendas or (due.VIDEOS, due.QUESTIONS, due.DELETIONS):
        scores = dict.fromkeys((member for member, _ in store.state.zscan_iter(agenda)), 0)
        if scores:
            store.state.zadd(agenda, scores)


def make_video(**values: Any) -> Video:
    """A video that was just submitted."""
    base = {"id": new_video_id(), "kind": "url", "source": "s", "location": "s", "sample_fps": 1.0, "mode": "exact"}
    return Video.model_validate(base | values)


def make_stream(**values: Any) -> Video:
    """A stream that began a while ago."""
    base = {"kind": "stream", "status": "live", "recorded_at": STREAM_START, "capture": Capture()}
    return make_video(**(base | values))


def make_question(video: Video, **values: Any) -> Question:
    """A question about all of the video."""
    base = {"id": new_question_id(video.id), "video_id": video.id, "text": "what?", "fusion": "focused"}
    return Question.model_validate(base | values)


def make_frames(count: int, first_place: int = 0, content: bytes = b"jpg") -> list[SegmentFrame]:
    """Frames side by side."""
    return [
        SegmentFrame(place, place + 0.5, b"model-%d-" % place + content, b"view-%d-" % place + content)
        for place in range(first_place, first_place + count)
    ]


def make_record(count: int = 64, fingerprint: str = MODEL, value: float = 2.0) -> Record:
    """The record of a segment whose first `count` slots have frames."""
    tokens = np.full((count, 1, 8), value, np.float16)
    mask = FULL_MASK if count == 64 else mask_of(range(count))
    return Record(fingerprint, mask, tokens, "system", np.full((3, 8), value, np.float16))


def add_encoded(store: Store, frames: int = 70, encoded: int = 1, **values: Any) -> Video:
    """A sampled video of `frames` frames, whose first `encoded` segments have records."""
    store.workers.announce_model(MODEL)
    base = {"status": "ready", "frames_sampled": frames, "frames_expected": frames}
    video = make_video(**(base | values))
    store.add_video(video)
    for segment in range(-(-frames // 64)):
        count = min(64, frames - 64 * segment)
        store.create_segment(video.id, segment, make_frames(count))
        if segment < encoded:
            store.create_record(video.id, segment, make_record(count))
    return video
