"""The real service under a real server, over an archive that a test fills as ingest, encoder and reasoner would."""

import socket
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
from api.serve import server_config
from configs.settings import ApiSettings, Settings
from storage.ids import new_question_id, new_video_id
from storage.models import Answer, Question, Timings, Tokens, Video
from storage.records import Record
from storage.store import Store
from tests.waiting import wait_until

MODEL = "model-1"
JPEG = b"\xff\xd8 picture %d"  # the service hands pictures on unopened
Seed = Callable[..., Video]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Small limits, so that going over them is quick."""
    api = ApiSettings(
        max_upload_bytes=300_000,
        max_body_bytes=2_000,
        max_question_chars=500,
        max_wait_s=20,
        progress_interval_s=0.05,
        min_free_disk_bytes=0,
    )
    return settings.model_copy(update={"api": api})


@contextmanager
def serving(app: FastAPI, settings: ApiSettings) -> Iterator[httpx.Client]:
    """A client of `app`, which runs under the service's own server meanwhile."""
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
def unused_port() -> int:
    """A port on which nobody listened a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture
def seed(store: Store) -> Seed:
    """Puts a video into the archive: `frames` of them sampled, `encoded` of them encoded."""

    def put(frames: int = 70, encoded: int = 70, **fields: Any) -> Video:
        given = {"status": "ready", "frames_sampled": frames, "frames_expected": frames, **fields}
        video = new_video(**given)
        store.hot.announce_model(MODEL)
        store.archive.put_video(video)
        for first in range(0, frames, 64):
            count = min(64, frames - first)
            pictures = [JPEG % (first + k) for k in range(count)]
            store.put_frames(video.id, first, pictures, [first + k + 0.5 for k in range(count)])
            done = min(max(encoded - first, 0), count)
            if done:
                tokens = np.zeros((done, 1, 8), np.float16)
                store.put_record(video.id, first // 64, Record(MODEL, tuple(k + 0.5 for k in range(done)), tokens))
        return video

    return put


def new_video(**fields: Any) -> Video:
    """A video that nobody has stored yet."""
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
    """A question that nobody has stored yet."""
    given = {"id": new_question_id(video.id), "video_id": video.id, "text": "is it red ?", "fusion": "focused"}
    return Question.model_validate(given | fields)


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


def settle(store: Store, question_id: str, text: str) -> None:
    """Ends a question as the reasoner does."""
    question = store.archive.question(question_id)
    store.settle_question(question.model_copy(update={"status": "done", "answer": an_answer(text)}))


def require_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem that `response` must be."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (body["type"], body["status"]) == (f"urn:longwatch:problem:{code}", status)
    assert body["title"]
    assert body["detail"]
    return body
