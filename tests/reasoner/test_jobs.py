"""Questions from the archive to their answers there, with a real model, real records and a real Redis."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from configs.settings import ReasonerSettings, Settings
from encoder_worker.__main__ import load_encoder
from encoder_worker.encoder import Encoder, decoded
from encoder_worker.jobs import EncoderJobs
from ingest.pictures import encode_jpeg
from llava_mini.model import LlavaMini
from reasoner.__main__ import load_engine
from reasoner.engine import Engine
from reasoner.jobs import ReasonerJobs
from storage.errors import NotFound
from storage.ids import new_question_id
from storage.models import Options, Question, Video
from storage.queues import FUSE
from storage.reconciler import Reconciler
from storage.records import Record
from storage.store import Store
from tests.storage.test_archive import new_video
from tests.tiny import TINY, with_tiny
from training.render import render
from training.world import generate

FRAMES = 100
TEXT = "is there a red circle ?"


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    world = generate(4, FRAMES)
    return [encode_jpeg(render(world, k + 0.5, 336), 90) for k in range(FRAMES)]


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return load_encoder(with_tiny(Settings()))


@pytest.fixture(scope="session")
def engine() -> Engine:
    return load_engine(with_tiny(Settings()))


@pytest.fixture
def jobs(settings: Settings, store: Store, engine: Engine) -> ReasonerJobs:
    quick = ReasonerSettings(fusion_timeout_s=20, max_tokens=12)
    return ReasonerJobs(settings.model_copy(update={"reasoner": quick}), store, engine)


@pytest.fixture
def encoding(settings: Settings, store: Store, encoder: Encoder) -> Iterator[EncoderJobs]:
    """An encoder that works off the queues beside the test, as its worker would."""
    encoder_jobs = EncoderJobs(settings, store, encoder)
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            for queue in (store.queues._queues["fuse"], store.queues._queues["encode"]):
                for job in queue.jobs:
                    handler = getattr(encoder_jobs, str(job.func_name))
                    handler(*job.args)
                    job.delete()

    thread = threading.Thread(target=work)
    thread.start()
    yield encoder_jobs
    stop.set()
    thread.join()


@pytest.fixture
def video(store: Store, encoding: EncoderJobs, encoder: Encoder, pictures: list[bytes]) -> Video:
    store.hot.announce_model(encoder.fingerprint)
    video = new_video(status="ready", frames_sampled=FRAMES)
    store.add_video(video)
    for first in (0, 64):
        part = pictures[first : first + 64]
        store.put_frames(video.id, first, part, [first + k + 0.5 for k in range(len(part))])
        encoding.encode_segment(video.id, first // 64)
    return video


def ask(jobs: ReasonerJobs, store: Store, video: Video, **values: Any) -> Question:
    base = {"id": new_question_id(video.id), "video_id": video.id, "text": TEXT, "fusion": "focused"}
    question = Question.model_validate(base | values)
    store.archive.put_question(question)
    jobs.answer_question(question.id)
    return store.archive.question(question.id)


def test_exact_fusion_is_the_model_itself(
    jobs: ReasonerJobs, store: Store, video: Video, engine: Engine, pictures: list[bytes]
) -> None:
    asked = ask(jobs, store, video, fusion="exact", start_s=10, end_s=90, options=Options(max_tokens=4))
    assert asked.answer is not None
    model = LlavaMini.from_pretrained(TINY)
    frames = np.stack([decoded(picture) for picture in pictures[10:90]])
    prompt = engine.prompt([(TEXT, None)])
    trace = model.trace(model.preprocess(frames)[:, None], torch.tensor([prompt.ids]), 4)
    stream = engine._prompts.stream()
    ids = trace["generated_ids"].tolist()
    ended = next((k for k, i in enumerate(ids) if i in engine._prompts.end_ids), len(ids))
    assert asked.answer.text == "".join([stream.push(i) for i in ids[:ended]]) + stream.finish()
    assert (asked.answer.frames, asked.answer.fusion_frames) == (80, 80)


@pytest.mark.parametrize(("mode", "frames"), [("focused", (16, 28)), ("sampled", (16, 16)), ("exact", (100, 100))])
def test_an_answer_says_what_it_rests_on(
    mode: str, frames: tuple[int, int], jobs: ReasonerJobs, store: Store, video: Video
) -> None:
    asked = ask(jobs, store, video, fusion=mode)
    answer = asked.answer
    assert asked.status == "done"
    assert answer is not None
    assert frames[0] <= answer.fusion_frames <= frames[1]
    assert (answer.frames, answer.start_s, answer.end_s) == (FRAMES, 0.5, 99.5)
    assert len(answer.evidence) == 4
    assert answer.video_complete
    assert answer.tokens.vision == FRAMES
    assert 0 <= answer.timings.first_token_s <= answer.timings.total_s
    pieces = list(store.answers.read(asked.id))
    assert "".join(piece.text for piece in pieces if piece.kind == "text") == answer.text
    assert pieces[-1].kind == "done"


def test_asking_again_is_free_and_gives_the_same(jobs: ReasonerJobs, store: Store, video: Video) -> None:
    first, second = (ask(jobs, store, video, start_s=20, end_s=80) for _ in range(2))
    assert first.answer is not None
    assert second.answer is not None
    assert second.answer.text == first.answer.text
    assert second.answer.evidence == first.answer.evidence
    assert store.queues.depths()[FUSE] == 0


def test_a_follow_up_knows_what_was_said(jobs: ReasonerJobs, store: Store, video: Video) -> None:
    first = ask(jobs, store, video)
    second = ask(jobs, store, video, previous_question_id=first.id)
    assert first.answer is not None
    assert second.answer is not None
    assert second.answer.tokens.text > first.answer.tokens.text


def test_a_settled_question_is_left_alone(jobs: ReasonerJobs, store: Store, video: Video) -> None:
    asked = ask(jobs, store, video)
    jobs.answer_question(asked.id)
    assert store.archive.question(asked.id) == asked


def test_cancelling_keeps_what_was_said(jobs: ReasonerJobs, store: Store, video: Video) -> None:
    question_id = new_question_id(video.id)
    store.answers.cancel(question_id)
    asked = ask(jobs, store, video, id=question_id)
    assert asked.status == "cancelled"
    assert asked.answer is not None
    assert asked.answer.finish_reason == "cancelled"
    assert list(store.answers.read(question_id))[-1].kind == "done"


def test_a_second_try_tells_readers_to_begin_anew(jobs: ReasonerJobs, store: Store, video: Video) -> None:
    question_id = new_question_id(video.id)
    store.answers.send(question_id, "text", "half an ans")
    ask(jobs, store, video, id=question_id)
    assert [piece.kind for piece in store.answers.read(question_id)][:2] == ["text", "restart"]


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"start_s": 500.0}, "bad-request"),
        ({"options": Options(max_tokens=4090)}, "stretch-too-long"),
        ({"previous_question_id": "20261121-020851123-4f2a9c_20261121-020851123-4f2a9c"}, "not-found"),
    ],
)
def test_what_cannot_be_answered_says_why(
    values: dict[str, Any], code: str, jobs: ReasonerJobs, store: Store, video: Video
) -> None:
    asked = ask(jobs, store, video, **values)
    assert asked.status == "failed"
    assert asked.problem is not None
    assert asked.problem.code == code
    assert list(store.answers.read(asked.id))[-1].kind == "error"


def test_a_video_still_being_encoded_is_answered_as_far_as_it_is(
    jobs: ReasonerJobs, store: Store, encoding: EncoderJobs, encoder: Encoder, pictures: list[bytes]
) -> None:
    store.hot.announce_model(encoder.fingerprint)
    video = new_video(status="sampling", frames_expected=200)
    store.add_video(video)
    store.put_frames(video.id, 0, pictures[:64], [k + 0.5 for k in range(64)])
    store.put_frames(video.id, 64, pictures[64:80], [64 + k + 0.5 for k in range(16)])
    encoding.encode_segment(video.id, 0)
    asked = ask(jobs, store, video)
    assert asked.answer is not None
    assert (asked.answer.frames, asked.answer.encoded_until_s, asked.answer.video_complete) == (64, 64.0, False)


def test_a_lost_record_is_made_again_while_the_question_waits(
    settings: Settings, jobs: ReasonerJobs, store: Store, video: Video
) -> None:
    wanted = ask(jobs, store, video, fusion="sampled")
    store.archive.files.write(f"{video.id}/000001/tokens.safetensors", b"garbage")
    store.hot.drop_record(video.id, 1)
    Reconciler(store, settings.queues).video(video.id)
    asked = ask(jobs, store, video, fusion="sampled")
    assert wanted.answer is not None
    assert asked.answer is not None
    assert (asked.answer.frames, asked.answer.text) == (FRAMES, wanted.answer.text)


def test_without_an_encoder_the_question_says_so(
    settings: Settings, store: Store, engine: Engine, encoder: Encoder
) -> None:
    store.hot.announce_model(encoder.fingerprint)
    video = new_video(status="ready")
    store.add_video(video)
    store.put_frames(video.id, 0, [b"x"], [0.5])
    store.put_record(video.id, 0, Record(encoder.fingerprint, (0.5,), np.zeros((1, 1, 192), np.float16)))
    impatient = settings.model_copy(update={"reasoner": ReasonerSettings(fusion_timeout_s=0.5)})
    asked = ask(ReasonerJobs(impatient, store, engine), store, video)
    assert asked.problem is not None
    assert asked.problem.code == "encoder-missing"
    assert "longwatch worker encode" in asked.problem.message


def test_a_deleted_question_is_no_error(jobs: ReasonerJobs, store: Store, video: Video) -> None:
    question_id = new_question_id(video.id)
    jobs.answer_question(question_id)
    with pytest.raises(NotFound):
        store.archive.question(question_id)
