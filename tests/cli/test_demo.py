"""The demo: its data are private, and it asks about its video and compares the answers with the truth."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

import demo.__main__ as demo
from api.app import create_app
from cli.client import Client
from configs.settings import Settings
from demo import media
from encoder_worker.__main__ import load_encoder
from encoder_worker.jobs import EncoderJobs
from ingest.jobs import IngestJobs
from jobs.names import ANSWER, ENCODE, FETCH, FUSE, INGEST
from jobs.runner import Handler
from jobs.worker import Pool
from reasoner.__main__ import load_engine
from reasoner.jobs import ReasonerJobs
from storage.store import Store
from tests.api.conftest import serving
from tests.cli.conftest import ROOT
from tests.tiny import with_tiny
from tests.waiting import wait_until
from tests.working import working
from training.world import generate


def test_only_the_user_can_read_its_data(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-m", "demo"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE
    ) as process:
        try:
            folder = tmp_path / "data" / "demo" / "media"
            wait_until(lambda: folder.exists() or process.poll() is not None)
            assert {path.stat().st_mode & 0o777 for path in (tmp_path / "data", folder.parent, folder)} == {0o700}
        finally:
            process.kill()


@contextmanager
def running_here(settings: Settings, store: Store) -> Iterator[tuple[Client, str]]:
    """The whole service in threads of the test process; it starts sooner than `longwatch up`."""
    encoder, engine = load_encoder(settings), load_engine(settings)
    ingesting, encoding = IngestJobs(settings, store), EncoderJobs(settings, store, encoder)
    reasoning = ReasonerJobs(settings, store, engine)
    ingests = {
        "fetch_video": Handler(ingesting.fetch_video, ingesting.give_up_video),
        "ingest_video": Handler(ingesting.ingest_video, ingesting.give_up_video),
    }
    encodes = {
        "fuse_question": Handler(encoding.fuse_question, encoding.give_up_fusions),
        "encode_segment": Handler(encoding.encode_segment, encoding.give_up_segment),
    }
    answers = {"answer_question": Handler(reasoning.answer_question, reasoning.give_up_question)}
    store.index.set_ready(store.index.read_generation())
    with (
        working(settings, store, "ingest", [Pool((FETCH, INGEST), 1)], ingests),
        working(settings, store, "encode", [Pool((FUSE, ENCODE), 1)], encodes, encoder.fingerprint),
        working(settings, store, "reason", [Pool((ANSWER,), 1)], answers, engine.fingerprint),
        serving(create_app(settings, store), settings.api) as http,
        Client(str(http.base_url)) as client,
    ):
        yield client, str(http.base_url)


def test_it_asks_about_its_video_streams_the_answers_and_compares_them_with_the_truth(
    settings: Settings,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a minute of the generated world instead of ten."""
    monkeypatch.setattr(media, "SECONDS", 60)
    monkeypatch.setattr(demo, "RIGHT_AT_LEAST", 2)
    monkeypatch.setattr(demo, "DATA", tmp_path / "demo")
    monkeypatch.setattr(sys, "argv", ["demo"])
    asked = [question for _, _, question in media.dozen(generate(media.SEED, 60, media.CHAPTER_S))]
    assert len(asked) == 3
    with running_here(with_tiny(settings), store) as service:
        monkeypatch.setattr(demo, "running", lambda *_: nullcontext(service))
        with pytest.raises(SystemExit) as ended:
            demo.main()
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    stored = {
        question.text: question.answer.text
        for video_id in store.index.list_videos(None, 10)
        for question in store.read_questions(store.index.list_questions(video_id, None, 10))
        if question.answer is not None
    }
    assert set(stored) == {*(question.text for question in asked), demo.REAL_QUESTION}
    for text, answer in stored.items():
        assert f"{text} {answer}".strip() in printed
    right = sum(stored[question.text].strip() == question.answer for question in asked)
    assert f"{right} of 3 answers about the generated video are right." in printed
    assert (right >= 2, ended.value.code) == (True, 0)
