"""The names, queues and ids of all jobs. An id names its target, so a lost job can be derived again."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from storage.ids import QUESTION_ID, VIDEO_ID, WATCH_ID

FETCH, INGEST, ENCODE, FUSE = "fetch", "ingest", "encode", "fuse"
ANSWER, WATCH, DELIVER = "answer", "watch", "deliver"
QUEUES = (FETCH, INGEST, ENCODE, FUSE, ANSWER, WATCH, DELIVER)

# Job name -> queue. A job is one of these names, never an import path; each worker binds names to functions.
JOBS = {
    "fetch_video": FETCH,
    "ingest_video": INGEST,
    "encode_segment": ENCODE,
    "fuse_question": FUSE,
    "answer_question": ANSWER,
    "evaluate_watches": WATCH,
    "try_watch": WATCH,
    "deliver_events": DELIVER,
}

# (token ids of the text, its first row to keep, [(segment, mask of the frames to average over)])
FusionRequest = tuple[list[int], int, list[tuple[int, int]]]
_ENCODE_ID = re.compile(rf"encode-({VIDEO_ID.pattern})-(\d+)")
_VIDEO_JOB_ID = re.compile(rf"(?:fetch|ingest)-({VIDEO_ID.pattern})")
_DELIVER_ID = re.compile(rf"deliver-({VIDEO_ID.pattern})-({WATCH_ID.pattern})")
_ANSWER_ID = re.compile(rf"answer-({QUESTION_ID.pattern})")


@dataclass(frozen=True)
class Target:
    """What a job works on."""

    video_id: str | None = None
    question_id: str | None = None
    watch: tuple[str, str] | None = None  # stream id, watch id


def fetch_job_id(video_id: str) -> str:
    """The id of the one job that downloads this video."""
    return f"fetch-{video_id}"


def ingest_job_id(video_id: str) -> str:
    """The id of the one job that samples this video."""
    return f"ingest-{video_id}"


def encode_job_id(video_id: str, segment: int) -> str:
    """The id of the one job that encodes this segment."""
    return f"encode-{video_id}-{segment}"


def fuse_job_id(video_id: str, requests: Sequence[FusionRequest]) -> str:
    """The id of the one job that makes these fusions."""
    digest = hashlib.sha256(json.dumps(requests).encode()).hexdigest()[:16]
    return f"fuse-{video_id}-{digest}"


def watch_job_id(stream_id: str) -> str:
    """The id of the one job that evaluates this stream's watches."""
    return f"watch-{stream_id}"


def trial_job_id(trial_id: str) -> str:
    """The id of the one job that tries a watch on the past."""
    return f"trial-{trial_id}"


def answer_job_id(question_id: str) -> str:
    """The id of the one job that answers this question."""
    return f"answer-{question_id}"


def deliver_job_id(stream_id: str, watch_id: str) -> str:
    """The id of the one job that delivers the events of this watch to its webhook."""
    return f"deliver-{stream_id}-{watch_id}"


def find_target(job_id: str) -> Target:
    """Returns what the job works on.

    Empty for `fuse`, because the reasoner itself requests lost fusions again, and for `watch`: the next interval does.
    """
    if match := _ENCODE_ID.fullmatch(job_id) or _VIDEO_JOB_ID.fullmatch(job_id):
        return Target(video_id=match[1])
    if match := _ANSWER_ID.fullmatch(job_id):
        return Target(question_id=match[1])
    if match := _DELIVER_ID.fullmatch(job_id):
        return Target(watch=(match[1], match[2]))
    return Target()
