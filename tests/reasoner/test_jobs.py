"""Questions from the archive to their answers there, with a real model, real records and a real Redis."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from rq import Queue
from rq.serializers import JSONSerializer

from configs.settings import ReasonerSettings, Settings
from encoder_worker.__main__ import load_encoder
from encoder_worker.encoder import Encoder, decoded
from encoder_worker.jobs import EncoderJobs
from ingest.pictures import encode_jpeg
from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from reasoner.__main__ import load_engine
from reasoner.engine import Engine
from reasoner.jobs import ReasonerJobs
from reasoner.records import Gatherer
from storage.errors import NotFound
from storage.ids import new_question_id
from storage.models import Options, Question, Video
from storage.queues import ENCODE, FUSE
from storage.records import Record
from storage.store import Store
from storage.worker import Handlers
from tests.storage.test_archive import new_video
from tests.tiny import TINY, with_tiny
from tests.waiting import wait_until
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
    handlers: Handlers = {"fuse_segment": encoder_jobs.fuse_segment, "encode_segment": encoder_jobs.encode_segment}
    queues = [Queue(name, connection=store.hot.redis, serializer=JSONSerializer) for name in (FUSE, ENCODE)]
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            for job in (job for queue in queues for job in queue.jobs):
                handlers[str(job.func_name)](*job.args)
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


@pytest.fixture
def unencoded(store: Store, encoder: Encoder) -> Video:
    """One frame, and no encoder anywhere."""
    store.hot.announce_model(encoder.fingerprint)
    video = new_video(status="ready")
    store.add_video(video)
    store.put_frames(video.id, 0, [b"x"], [0.5])
    return video


@pytest.fixture
def patient(settings: Settings, store: Store, engine: Engine) -> ReasonerJobs:
    """Waits for longer than any test runs."""
    return ReasonerJobs(settings, store, engine)


def gatherer(settings: Settings, store: Store, engine: Engine, video: Video) -> Gatherer:
    return Gatherer(settings, store, engine.fingerprint, video, lambda: None)


def ask(jobs: ReasonerJobs, store: Store, video: Video, **values: Any) -> Question:
    base = {"id": new_question_id(video.id), "video_id": video.id, "text": TEXT, "fusion": "focused"}
    question = Question.model_validate(base | values)
    store.archive.put_question(question)
    jobs.answer_question(question.id)
    return store.archive.question(question.id)


def test_exact_fusion_is_the_model_itself(
    settings: Settings, jobs: ReasonerJobs, store: Store, video: Video, engine: Engine, pictures: list[bytes]
) -> None:
    """Over a stretch whose edges cut segments: the same rows go into the LLM, and the same answer comes out."""
    asked = ask(jobs, store, video, fusion="exact", start_s=10, end_s=90, options=Options(max_tokens=8))
    assert asked.answer is not None
    model = LlavaMini.from_pretrained(TINY)
    frames = np.stack([decoded(picture) for picture in pictures[10:90]])
    prompt = engine.prompt([(TEXT, None)])
    trace = model.trace(model.preprocess(frames)[:, None], torch.tensor([prompt.ids]), 8)
    prompts = PromptBuilder.from_pretrained(TINY)
    ids = trace["generated_ids"].tolist()
    ended = next((k for k, i in enumerate(ids) if i in prompts.end_ids), len(ids))
    assert asked.answer.text == prompts.decode(ids[:ended])
    assert (asked.answer.frames, asked.answer.fusion_frames) == (80, 80)

    gather = gatherer(settings, store, engine, video)
    covered = gather.covered(10, 90)
    before, whole = (gather.fusion(ids, covered.frames) for ids in (prompt.before, prompt.text))
    pooled = np.delete(trace["pooled_text"].numpy(), len(prompt.before), axis=0)  # the placeholder's row
    np.testing.assert_allclose(whole, pooled, atol=2e-2, rtol=2e-3)  # float16
    np.testing.assert_allclose(before, pooled[: len(before)], atol=2e-2, rtol=2e-3)
    tokens = gather.tokens(covered.frames)
    np.testing.assert_allclose(tokens, trace["compressed_tokens"].numpy(), atol=2e-2, rtol=2e-3)
    rows = np.concatenate([before, tokens[:, 0], whole[len(before) :]])
    logits = model.language.advance(model.language.new_cache(), torch.from_numpy(rows))
    torch.testing.assert_close(logits, trace["logits_last"], atol=5e-2, rtol=1e-2)

    shares = attended(trace["inputs_embeds"], len(prompt.before), 80)
    found = {int(evidence.t_s) - 10: evidence.score for evidence in asked.answer.evidence}
    np.testing.assert_allclose(list(found.values()), shares[list(found)], rtol=5e-3)  # float16
    assert min(found.values()) >= np.sort(shares)[-4] * (1 - 5e-3)


def attended(embeds: torch.Tensor, start: int, frames: int) -> np.ndarray[Any, Any]:
    """Share of the question's attention per frame, from a full pass of eager attention over the model's own input."""
    eager = LlavaMini.from_pretrained(TINY, attention="eager", parts=("language",))
    with torch.no_grad():
        weights = eager.language.llm.model(inputs_embeds=embeds[None], output_attentions=True).attentions[1:]
    stop = start + frames
    per_frame = sum(layer[0].mean(0)[stop:, start:stop].sum(0) for layer in weights).numpy()
    return np.asarray(per_frame / per_frame.sum())


def test_a_focus_on_all_frames_is_the_exact_mean(
    settings: Settings, jobs: ReasonerJobs, store: Store, video: Video
) -> None:
    """Up to four frames are sampled whole and focused on whole."""
    focused, exact = (ask(jobs, store, video, fusion=mode, start_s=62, end_s=66) for mode in ("focused", "exact"))
    assert focused.answer is not None
    assert exact.answer is not None
    assert (focused.answer.frames, focused.answer.fusion_frames) == (4, 4)
    assert focused.answer.text == exact.answer.text
    assert [e.t_s for e in focused.answer.evidence] == [e.t_s for e in exact.answer.evidence]


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
    ask(jobs, store, video)  # so that nothing is left to wait for
    question_id = new_question_id(video.id)
    store.answers.cancel(question_id)
    asked = ask(jobs, store, video, id=question_id)
    assert asked.status == "cancelled"
    assert asked.answer is not None
    assert asked.answer.finish_reason == "cancelled"
    assert list(store.answers.read(question_id))[-1].kind == "done"


def test_a_question_that_waits_for_an_encoder_can_be_cancelled(
    patient: ReasonerJobs, store: Store, unencoded: Video
) -> None:
    question_id = new_question_id(unencoded.id)
    store.answers.cancel(question_id)
    asked = ask(patient, store, unencoded, id=question_id)
    assert (asked.status, asked.answer) == ("cancelled", None)
    assert [piece.kind for piece in store.answers.read(question_id)] == ["done"]


def test_a_video_deleted_while_a_question_waits_stays_deleted(
    patient: ReasonerJobs, store: Store, unencoded: Video, encoder: Encoder
) -> None:
    store.put_record(unencoded.id, 0, Record(encoder.fingerprint, (0.5,), np.zeros((1, 1, 192), np.float16)))
    question = Question(id=new_question_id(unencoded.id), video_id=unencoded.id, text=TEXT, fusion="focused")
    store.archive.put_question(question)
    answering = threading.Thread(target=patient.answer_question, args=(question.id,))
    answering.start()
    wait_until(lambda: store.queues.depths()[FUSE])  # from here on it waits for the fusion
    store.delete_video(unencoded.id)
    answering.join()
    assert store.archive.video_ids() == []
    assert [piece.kind for piece in store.answers.read(question.id)] == ["error"]


def test_a_second_try_tells_readers_to_begin_anew(jobs: ReasonerJobs, store: Store, video: Video) -> None:
    question_id = new_question_id(video.id)
    store.answers.send(question_id, "text", "half an ans")
    ask(jobs, store, video, id=question_id)
    assert [piece.kind for piece in store.answers.read(question_id)][:2] == ["text", "restart"]


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"start_s": 500.0}, "bad-request"),
        ({"start_s": 1.6, "end_s": 2.4}, "bad-request"),
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
    if code == "bad-request":
        assert "one every 1 s from 0.5 s to 99.5 s" in asked.problem.message
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


@pytest.mark.parametrize("loss", ["damaged", "gone", "foreign"])
def test_a_lost_record_is_made_again_while_the_question_waits(
    loss: str, jobs: ReasonerJobs, store: Store, video: Video
) -> None:
    wanted = ask(jobs, store, video, fusion="sampled")
    path = f"{video.id}/000001/tokens.safetensors"
    if loss == "gone":
        store.archive.files.delete(path)
    elif loss == "damaged":
        store.archive.files.write(path, b"garbage")
    else:
        store.archive.put_record(video.id, 1, Record("another", (0.5,), np.zeros((1, 1, 8), np.float16)))
    store.hot.drop_record(video.id, 1)
    asked = ask(jobs, store, video, fusion="sampled")
    assert wanted.answer is not None
    assert asked.answer is not None
    assert (asked.answer.frames, asked.answer.text) == (FRAMES, wanted.answer.text)


def test_a_fusion_asked_for_is_asked_for_again_once_redis_forgot(
    settings: Settings, store: Store, engine: Engine, encoder: Encoder, video: Video
) -> None:
    gather = gatherer(settings, store, engine, video)
    frames = gather.covered(20, 30).frames
    gather.order([(encoder.system_text, frames)])
    store.hot.redis.flushall()
    assert gather.fusion(encoder.system_text, frames).shape == (len(encoder.system_text), 192)


def test_what_one_pass_can_make_is_one_job(
    settings: Settings, store: Store, engine: Engine, encoder: Encoder, unencoded: Video
) -> None:
    store.put_record(unencoded.id, 0, Record(encoder.fingerprint, (0.5,), np.zeros((1, 1, 192), np.float16)))
    gather = gatherer(settings, store, engine, unencoded)
    frames = gather.covered(0, None).frames
    for _ in range(2):
        gather.order([([1, 2], frames), ([3], frames)])
    assert store.queues.depths()[FUSE] == 1


def test_without_an_encoder_the_question_says_so(
    settings: Settings, store: Store, engine: Engine, unencoded: Video
) -> None:
    impatient = settings.model_copy(update={"reasoner": ReasonerSettings(fusion_timeout_s=0.5)})
    asked = ask(ReasonerJobs(impatient, store, engine), store, unencoded)
    assert asked.problem is not None
    assert asked.problem.code == "encoder-missing"
    assert "longwatch worker encode" in asked.problem.message


def test_an_encoder_that_does_not_deliver_is_told_from_a_missing_one(
    settings: Settings, store: Store, engine: Engine, unencoded: Video
) -> None:
    store.hot.announce_worker("stuck", [FUSE, ENCODE], 60)
    impatient = settings.model_copy(update={"reasoner": ReasonerSettings(fusion_timeout_s=0.5)})
    asked = ask(ReasonerJobs(impatient, store, engine), store, unencoded)
    assert asked.problem is not None
    assert "alive: 1" in asked.problem.message


def test_what_nobody_foresaw_is_recorded_and_raised(
    jobs: ReasonerJobs, store: Store, unencoded: Video, encoder: Encoder
) -> None:
    too_narrow = np.zeros((1, 1, 8), np.float16)
    fusions = {(encoder.system_id, 1): np.zeros((len(encoder.system_text), 8), np.float16)}
    store.put_record(unencoded.id, 0, Record(encoder.fingerprint, (0.5,), too_narrow, fusions))
    question = Question(id=new_question_id(unencoded.id), video_id=unencoded.id, text=TEXT, fusion="sampled")
    store.archive.put_question(question)
    with pytest.raises(RuntimeError):
        jobs.answer_question(question.id)
    asked = store.archive.question(question.id)
    assert asked.problem is not None
    assert asked.problem.code == "internal"


def test_a_deleted_question_is_no_error(jobs: ReasonerJobs, store: Store, video: Video) -> None:
    question_id = new_question_id(video.id)
    jobs.answer_question(question_id)
    with pytest.raises(NotFound):
        store.archive.question(question_id)
