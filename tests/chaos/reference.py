"""The results for each medium without disturbances: pictures, tokens and answers."""

import hashlib
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from storage.documents import Question
from storage.records import Half
from storage.store import Store
from storage.timeline import places_in
from tests.chaos.inputs import Medium
from tests.chaos.ledger import SentVideo
from tests.chaos.users import User
from tests.waiting import wait_until

# Frames share batches with other videos' frames, and batches of other sizes add numbers in another order.
CLOSE = 2e-3  # two steps of float16 at 1


@dataclass(frozen=True)
class Segment:
    """A segment's stored pictures and tokens."""

    pictures: dict[tuple[str, int], str]  # (kind, place) -> hash
    tokens: Half | None


@dataclass(frozen=True)
class Reference:
    """The results for a medium."""

    segments: dict[int, Segment]
    answers: dict[int, Question]  # by the question's number


def read_segments(store: Store, video_id: str, fingerprint: str) -> dict[int, Segment]:
    """Reads a video's segments from the archive."""
    return {
        segment: _read_segment(store, video_id, segment, fingerprint)
        for segment in store.archive.list_contents(video_id).sampled
    }


def _read_segment(store: Store, video_id: str, segment: int, fingerprint: str) -> Segment:
    pictures = {}
    with store.archive.open_segment(video_id, segment) as kept:
        for place in places_in(kept.mask):
            for kind in ("model", "view"):
                if kept.has(kind, place):
                    pictures[kind, place] = hashlib.sha256(kept.read_picture(kind, place)).hexdigest()
    record = store.archive.read_record(video_id, segment, fingerprint)
    return Segment(pictures, None if record is None else record.tokens)


def compare_segments(wanted: dict[int, Segment], found: dict[int, Segment]) -> str:
    """Says what differs; empty if nothing does."""
    if sorted(wanted) != sorted(found):
        return f"segments {sorted(found)}, not {sorted(wanted)}"
    for number, segment in wanted.items():
        other = found[number]
        if segment.pictures != other.pictures:
            differing = {
                key for key in segment.pictures | other.pictures if segment.pictures.get(key) != other.pictures.get(key)
            }
            return f"pictures of segment {number} differ: {sorted(differing)[:5]}"
        if other.tokens is None or segment.tokens is None:
            return f"segment {number} has no record"
        if not np.allclose(segment.tokens.astype(np.float32), other.tokens.astype(np.float32), rtol=CLOSE, atol=CLOSE):
            worst = np.abs(segment.tokens.astype(np.float32) - other.tokens.astype(np.float32)).max()
            return f"tokens of segment {number} differ by {worst}"
    return ""


def compare_answers(wanted: Question, found: Question) -> str:
    """Says what differs; empty if nothing does."""
    one, other = wanted.answer, found.answer
    if one is None or other is None:
        return f"{found.status}: {found.problem}"
    facts = (
        "text",
        "finish_reason",
        "start_s",
        "end_s",
        "frames",
        "frames_missing",
        "fusion",
        "fusion_frames",
        "tokens",
    )
    differing = [
        f"{name} is {getattr(other, name)!r}, not {getattr(one, name)!r}"
        for name in facts
        if getattr(one, name) != getattr(other, name)
    ]
    return "; ".join(differing)


def learn_reference(http: httpx.Client, store: Store, user: User, medium: Medium) -> tuple[SentVideo, Reference]:
    """Submits the medium and its questions to the undisturbed service, and returns the results."""
    video = user.submit(medium, "path", content=medium.content)
    assert video is not None, f"{medium.name} was refused"

    def is_complete() -> bool:
        return bool((http.get(f"/v1/videos/{video.id}").json()["progress"] or {}).get("complete"))

    wait_until(is_complete, within_s=180, step_s=0.3)
    answers: dict[int, Question] = {}
    for number, asked in enumerate(medium.questions):
        more: dict[str, Any] = {} if asked.follows is None else {"previous_question_id": answers[asked.follows].id}
        question_id = user.ask(video, asked, **more)
        assert question_id is not None, asked
        wait_until(lambda wanted=question_id: store.read_question(wanted).settled, within_s=60)  # type: ignore[misc]
        answers[number] = store.read_question(question_id)
        assert answers[number].status == "done", answers[number]
    return video, Reference(read_segments(store, video.id, store.workers.read_model()), answers)
