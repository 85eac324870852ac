"""The real service on a real server, with an archive that tests fill as ingest, encoder and reasoner would."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.connections import server_config
from configs.settings import ApiSettings, Settings
from jobs.intake import Intake
from jobs.queues import Queues
from storage.documents import Answer, Question, QuestionStatus, Timings, Tokens, Video
from storage.fences import Fence
from storage.ids import new_question_id, new_video_id
from storage.records import Record, text_id
from storage.segments import SegmentFrame
from storage.store import Store
from storage.workers import Worker
from tests.waiting import wait_until

MODEL = "abc123"
JPEG = b"\xff\xd8 %s of slot %d"  # the service never opens pictures
Seed = Callable[..., Video]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Small limits that tests can exceed quickly."""
    api = ApiSettings(
        max_upload_bytes=300_000,
        max_body_bytes=2_000,
        max_question_chars=500,
        max_wait_s=20,
        progress_interval_s=0.05,
        min_free_disk_bytes=0,
        max_unsettled_videos=8,
        max_unsettled_questions=8,
        max_waiting_questions_per_video=4,
        max_waiting_questions=6,
    )
    return settings.model_copy(update={"api": api})


@contextmanager
def serving(app: FastAPI, settings: ApiSettings) -> Iterator[httpx.Client]:
    """Runs `app` on the service's own server, and yields a client."""
    server = uvicorn.Server(server_config(app, settings, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, step_s=0.01)
        host, port = server.servers[0].sockets[0].getsockname()
        with httpx.Client(base_url=f"http://{host}:{port}", timeout=30, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


@pytest.fixture
def http(settings: Settings, store: Store) -> Iterator[httpx.Client]:
    """A client of the service."""
    with serving(create_app(settings, store), settings.api) as client:
        yield client


@pytest.fixture
def store(store: Store) -> Store:
    """A store as workers leave it: the lists are built, and the model is announced."""
    store.index.set_ready(store.index.read_generation())
    store.workers.announce_model(MODEL)
    return store


@pytest.fixture
def intake(store: Store, settings: Settings) -> Intake:
    """Adds videos and questions without the service."""
    return Intake(store, settings)


@pytest.fixture
def queues(store: Store) -> Queues:
    """The queues as workers see them."""
    return Queues(store.state)


@pytest.fixture
def seed(store: Store) -> Seed:
    """Puts a video into the archive with `frames` sampled frames, of which `encoded` (whole segments) are encoded."""

    def put(frames: int = 70, encoded: int = 70, **fields: Any) -> Video:
        video = new_video(**({"status": "ready", "frames_sampled": frames, "frames_expected": frames} | fields))
        store.add_video(video)
        if video.settled:
            store.agenda.remove("lw:due:videos", video.id)
        for first in range(0, frames, 64):
            slots = range(first, min(first + 64, frames))
            store.create_segment(video.id, first // 64, [a_frame(slot) for slot in slots])
            if slots.stop <= encoded:
                encode(store, video, first // 64, len(slots))
        return video

    return put


def a_frame(slot: int, **fields: Any) -> SegmentFrame:
    """A frame with two fake pictures."""
    given = {"model": JPEG % (b"model", slot), "view": JPEG % (b"view", slot)} | fields
    return SegmentFrame(place=slot % 64, t_s=slot + 0.5, **given)


def encode(store: Store, video: Video, segment: int, frames: int) -> None:
    """Stores a segment's record, as an encoder does."""
    tokens, system = np.zeros((frames, 1, 8), np.float16), np.zeros((3, 8), np.float16)
    store.create_record(video.id, segment, Record(MODEL, (1 << frames) - 1, tokens, text_id([1]), system))


def announce(store: Store, kind: str, **fields: Any) -> None:
    """Announces a live worker of this kind."""
    store.workers.announce(Worker(f"{kind} of a test", kind, "here", 1, (), **fields), alive_s=60)


def new_video(**fields: Any) -> Video:
    """A video that is not stored yet."""
    given = {
        "id": new_video_id(),
        "kind": "url",
        "source": "https://example.org/a.mp4",
        "location": "https://user:secret@example.org/a.mp4?token=secret",
        "sample_fps": 1.0,
        "mode": "exact",
    }
    return Video.model_validate(given | fields)


def new_question(video: Video, **fields: Any) -> Question:
    """A question that is not stored yet."""
    given = {"id": new_question_id(video.id), "video_id": video.id, "text": "is it red ?", "fusion": "focused"}
    return Question.model_validate(given | fields)


def keep(store: Store, question: Question) -> Question:
    """Stores a question as it is, without queueing it."""
    store.archive.write_question(question)
    store.index.add_questions(question.video_id, [question.id])
    return question


def an_answer(text: str, **fields: Any) -> Answer:
    """An answer as the reasoner writes it."""
    given = {
        "text": text,
        "finish_reason": "stop",
        "start_s": 0.5,
        "end_s": 69.5,
        "frames": 70,
        "fusion": "focused",
        "fusion_frames": 32,
        "encoded_until_s": 70.0,
        "video_complete": True,
        "tokens": Tokens(text=10, vision=70, answer=2),
        "timings": Timings(queue_s=0.1, fusion_s=0.1, prefill_s=0.1, first_token_s=0.3, total_s=0.4),
    }
    return Answer.model_validate(given | fields)


def begin(store: Store, question_id: str) -> Fence:
    """Begins an attempt at a question as the reasoner does."""
    fence = store.fences.take(question_id)
    assert store.answers.begin(fence)
    return fence


def settle(store: Store, question_id: str, text: str, status: QuestionStatus = "done") -> None:
    """Ends a question as the reasoner does."""
    question = store.read_question(question_id)
    store.settle_question(question.model_copy(update={"status": status, "answer": an_answer(text)}))


def require_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Asserts that `response` is this problem; returns its body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (body["type"], body["status"]) == (f"urn:longwatch:problem:{code}", status)
    assert body["title"]
    assert body["detail"]
    return body
