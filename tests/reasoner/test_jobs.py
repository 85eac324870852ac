"""Questions from the archive to their answers there, with a real model, real records and a real Redis."""

import threading
from typing import Any

import numpy as np
import pytest
import torch

from configs.settings import Settings
from encoder_worker.encoder import Encoder, decoded
from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from reasoner.engine import Engine
from reasoner.jobs import ReasonerJobs
from storage.errors import NotFound
from storage.ids import new_question_id
from storage.models import Options, Question, Video
from storage.queues import FUSE
from storage.records import Record
from storage.store import Store
from tests.reasoner.asking import FRAMES, TEXT, ask, gatherer
from tests.tiny import TINY
from tests.waiting import wait_until


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
    logits = model.language.advance(model.language.make_cache(), torch.from_numpy(rows))
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


@pytest.fixture
def waiting(
    patient: ReasonerJobs, store: Store, unencoded: Video, encoder: Encoder
) -> tuple[Question, threading.Thread]:
    """A question that waits for a fusion which nobody makes, and the thread that answers it."""
    store.put_record(unencoded.id, 0, Record(encoder.fingerprint, (0.5,), np.zeros((1, 1, 192), np.float16)))
    question = Question(id=new_question_id(unencoded.id), video_id=unencoded.id, text=TEXT, fusion="focused")
    store.archive.put_question(question)
    answering = threading.Thread(target=patient.answer_question, args=(question.id,))
    answering.start()
    wait_until(lambda: store.queues.depths()[FUSE])
    return question, answering


def test_a_cancelled_question_takes_its_orders_back(waiting: tuple[Question, threading.Thread], store: Store) -> None:
    question, answering = waiting
    store.answers.cancel(question.id)
    answering.join()
    assert store.queues.depths()[FUSE] == 0


def test_a_video_deleted_while_a_question_waits_stays_deleted(
    waiting: tuple[Question, threading.Thread], store: Store
) -> None:
    question, answering = waiting
    store.delete_video(question.video_id)
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
