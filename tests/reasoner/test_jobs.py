"""Questions are answered from and into the archive, with a real model, real records and a real Redis."""

import re
import threading
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch

from configs.settings import Settings
from encoder_worker.encoder import Encoder, decode_jpeg
from encoder_worker.jobs import EncoderJobs
from ingest.files.scaling import encode_jpeg
from jobs.intake import Intake
from jobs.names import ANSWER, ENCODE, FUSE
from jobs.runner import Handler
from jobs.worker import Pool
from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from reasoner.engine import Engine
from reasoner.jobs import ReasonerJobs
from storage import agenda as due
from storage.answers import Piece
from storage.documents import Options, Problem, Question, Video
from storage.errors import GivenAway, NotFound
from storage.ids import new_question_id
from storage.records import Record
from storage.store import Store
from storage.workers import Worker
from tests.reasoner.asking import FRAMES, TEXT, ask, make_engine, make_gatherer
from tests.reasoner.conftest import Encoding
from tests.submitting import add_sampled, new_question, new_video, put_frames
from tests.tiny import TINY
from tests.tolerance import HALF
from tests.waiting import wait_until
from tests.watched import WatchedLanguage, with_language
from tests.working import WorkerThreads, count_waiting, working
from training.render import render
from training.world import Thing, World

TALK, LONG = "describe the video .", Options(temperature=2.0, seed=7)  # eight words


@pytest.fixture
def intake(store: Store, settings: Settings) -> Intake:
    return Intake(store, settings)


@pytest.fixture
def reasoning(settings: Settings, store: Store, jobs: ReasonerJobs, engine: Engine) -> Iterator[WorkerThreads]:
    """A live reasoner with two threads."""
    handlers = {"answer_question": Handler(jobs.answer_question, jobs.give_up_question)}
    with working(settings, store, "reason", [Pool((ANSWER,), 2)], handlers, engine.fingerprint) as worker:
        yield worker


def submit(intake: Intake, video: Video, **values: Any) -> Question:
    return intake.add_question(new_question(video, **values))


def wait_settled(store: Store, question: Question) -> Question:
    wait_until(lambda: store.read_question(question.id).settled)
    return store.read_question(question.id)


def read_pieces(store: Store, question: Question) -> list[Piece]:
    return list(store.answers.read(question.id))


def read_text(pieces: list[Piece]) -> str:
    """Returns the text that a reader shows in the end: everything after the last restart."""
    text = ""
    for piece in pieces:
        text = "" if piece.kind == "restart" else text + piece.text
    return text


@pytest.mark.usefixtures("encoding")
def test_exact_fusion_is_the_model_itself(
    settings: Settings, jobs: ReasonerJobs, store: Store, video: Video, engine: Engine, pictures: tuple[bytes, ...]
) -> None:
    """The stretch's edges cut segments. The same rows go into the LLM, and the same answer comes out."""
    asked = ask(jobs, store, video, fusion="exact", start_s=10, end_s=90, options=Options(max_tokens=8))
    assert asked.answer is not None
    model = LlavaMini.from_pretrained(TINY)
    frames = np.stack([decode_jpeg(picture, "") for picture in pictures[10:90]])
    prompt = engine.build_prompt([(TEXT, None)])
    trace = model.trace(model.preprocess(frames)[:, None], torch.tensor([prompt.ids]), 8)
    prompts = PromptBuilder.from_pretrained(TINY)
    ids = trace["generated_ids"].tolist()
    ended = next((k for k, i in enumerate(ids) if i in prompts.end_ids), len(ids))
    assert asked.answer.text == prompts.decode(ids[:ended])
    assert (asked.answer.frames, asked.answer.fusion_frames) == (80, 80)
    expected = prompts.gauge.measure_probability(trace["logits_last"], ids[0])
    assert asked.answer.probability == pytest.approx(expected, abs=2e-2)

    masks = {0: (1 << 64) - (1 << 10), 1: (1 << 26) - 1}
    gather = make_gatherer(settings, store, engine.fingerprint, video, masks)
    system, tokens = gather.load_system(prompt.before), gather.load_tokens()
    known = [value for key, value in rows_in_cache(store) if b"exact" in key]
    pooled = np.delete(trace["pooled_text"].numpy(), len(prompt.before), axis=0)  # the placeholder's row
    np.testing.assert_allclose(known[0], pooled[len(prompt.before) :], **HALF)
    np.testing.assert_allclose(system, pooled[: len(prompt.before)], **HALF)
    np.testing.assert_allclose(tokens, trace["compressed_tokens"].numpy(), **HALF)
    rows = np.concatenate([system, tokens[:, 0], known[0]])
    logits = model.language.advance(model.language.make_cache(), torch.from_numpy(rows))
    torch.testing.assert_close(logits, trace["logits_last"], atol=5e-2, rtol=1e-2)

    shares = attended(trace["inputs_embeds"], len(prompt.before), 80)
    found = {evidence.slot - 10: evidence.score for evidence in asked.answer.evidence}
    np.testing.assert_allclose(list(found.values()), shares[list(found)], rtol=5e-3)  # float16
    assert min(found.values()) >= np.sort(shares)[-4] * (1 - 5e-3)


def rows_in_cache(store: Store) -> list[tuple[bytes, Any]]:
    """Returns key and rows of every pooled question in the cache."""
    keys = cast(list[bytes], store.cache.redis.keys("lw:rows:*"))
    found = []
    for key in keys:
        fingerprint, _, name = key.decode().removeprefix("lw:rows:").partition(":")
        rows = store.cache.read_rows(name, fingerprint)
        assert rows is not None
        found.append((key, rows[1].astype(np.float32)))
    return found


def attended(embeds: torch.Tensor, start: int, frames: int) -> np.ndarray[Any, Any]:
    """Returns the question's attention share per frame, from a full eager pass over the model's own input."""
    eager = LlavaMini.from_pretrained(TINY, attention="eager", parts=("language",))
    with torch.no_grad():
        weights = eager.language.llm.model(inputs_embeds=embeds[None], output_attentions=True).attentions[1:]
    stop = start + frames
    per_frame = sum(layer[0].mean(0)[stop:, start:stop].sum(0) for layer in weights).numpy()
    return np.asarray(per_frame / per_frame.sum())


@pytest.mark.usefixtures("encoding")
def test_focused_fusion_of_four_frames_is_the_exact_mean(jobs: ReasonerJobs, store: Store, video: Video) -> None:
    """Up to four frames are all sampled and all focused on."""
    focused, exact = (ask(jobs, store, video, fusion=mode, start_s=61, end_s=65) for mode in ("focused", "exact"))
    assert focused.answer is not None
    assert exact.answer is not None
    assert (focused.answer.frames, focused.answer.fusion_frames) == (4, 4)
    (one, other) = (rows for _, rows in rows_in_cache(store))
    np.testing.assert_allclose(one, other, **HALF)


@pytest.mark.usefixtures("encoding")
@pytest.mark.parametrize(("mode", "frames"), [("focused", (17, 28)), ("sampled", (16, 16)), ("exact", (100, 100))])
def test_an_answer_says_which_frames_it_is_based_on(
    mode: str, frames: tuple[int, int], jobs: ReasonerJobs, store: Store, video: Video
) -> None:
    asked = ask(jobs, store, video, fusion=mode)
    answer = asked.answer
    assert asked.status == "done"
    assert answer is not None
    assert frames[0] <= answer.fusion_frames <= frames[1]
    assert (answer.frames, answer.start_s, answer.end_s, answer.frames_missing) == (FRAMES, 0.5, 99.5, 0)
    assert len({evidence.slot for evidence in answer.evidence}) == 4
    for evidence in answer.evidence:
        assert evidence.t_s == evidence.slot + 0.5
        assert evidence.picture == f"/v1/videos/{video.id}/frames/{evidence.slot}.jpg"
    assert (answer.video_complete, answer.tokens.vision) == (True, FRAMES)
    assert 0 <= answer.timings.first_token_s <= answer.timings.total_s
    assert (answer.start_at, answer.evidence[0].at) == (None, None)
    pieces = read_pieces(store, asked)
    assert read_text(pieces) == answer.text != ""
    assert pieces[-1].kind == "done"


@pytest.mark.usefixtures("encoding")
def test_a_focused_answer_points_at_the_frames_that_show_it(
    jobs: ReasonerJobs, store: Store, records: list[Record]
) -> None:
    """A thing is visible for 6 of 64 seconds, and most of the evidence shows it."""
    thing = Thing("red", "circle", 0, "left", ((40, 46),))
    world = World("street", 64, (thing,))
    video = add_sampled(store, [encode_jpeg(render(world, k + 0.5, 336), 90) for k in range(64)])
    wait_until(lambda: (p := store.read_progress([video])[0]) is not None and p.complete)
    asked = ask(jobs, store, video)
    assert asked.answer is not None
    assert asked.answer.text == "yes"
    assert sum(40 <= evidence.slot < 46 for evidence in asked.answer.evidence) >= 3


@pytest.mark.usefixtures("encoding")
def test_answers_about_a_video_with_a_wall_clock_use_its_time(
    jobs: ReasonerJobs, store: Store, pictures: tuple[bytes, ...], records: list[Record]
) -> None:
    video = add_sampled(store, pictures[:64], recorded_at="2026-11-21T14:00:00Z")
    store.create_record(video.id, 0, records[0])
    answer = ask(jobs, store, video, start_s=10, end_s=20).answer
    assert answer is not None
    assert (str(answer.start_at), str(answer.end_at)) == (
        "2026-11-21 14:00:10.500000+00:00",
        "2026-11-21 14:00:19.500000+00:00",
    )
    assert answer.evidence[0].at == video.grid.clock(answer.evidence[0].t_s) is not None


@pytest.mark.usefixtures("encoding")
def test_a_follow_up_includes_the_earlier_turns(jobs: ReasonerJobs, store: Store, video: Video, engine: Engine) -> None:
    first = ask(jobs, store, video)
    second = ask(jobs, store, video, previous_question_id=first.id, text="what place is this ?")
    third = ask(jobs, store, video, previous_question_id=second.id, text="what is there now ?")
    assert first.answer is not None
    assert second.answer is not None
    assert third.answer is not None
    turns = [(first.text, first.answer.text), (second.text, second.answer.text), (third.text, None)]
    assert third.answer.tokens.text == len(engine.build_prompt(turns).text)
    assert third.answer.tokens.text > second.answer.tokens.text > first.answer.tokens.text


@pytest.mark.usefixtures("encoding")
def test_a_settled_question_is_left_alone(jobs: ReasonerJobs, store: Store, video: Video) -> None:
    asked = ask(jobs, store, video)
    pieces = read_pieces(store, asked)
    jobs.answer_question(asked.id)
    assert store.archive.read_question(asked.id) == asked
    assert read_pieces(store, asked) == pieces
    assert store.index.get_video(video.id) is not None
    assert store.cache.read_settled([asked.id]) == [asked]  # lists and polls read the copy


@pytest.mark.usefixtures("encoding")
def test_a_settled_question_is_stored_before_its_end_is_announced(
    jobs: ReasonerJobs, store: Store, video: Video
) -> None:
    """A reader of `done` finds the whole answer."""
    question = new_question(video)
    store.add_question(question)
    found: list[Question] = []

    def follow() -> None:
        cursor = "0"
        while not found:
            for piece in store.answers.read(question.id, cursor, wait_s=1):
                cursor = piece.cursor
                if piece.kind == "done":
                    store.cache.redis.flushall()
                    found.append(store.archive.read_question(question.id))

    reader = threading.Thread(target=follow)
    reader.start()
    jobs.answer_question(question.id)
    reader.join(20)
    assert found[0].answer is not None
    assert found[0].answer.text == read_text(read_pieces(store, question))


# waiting


def test_a_question_waits_for_its_stretch_without_occupying_a_thread(
    reasoning: WorkerThreads,
    intake: Intake,
    store: Store,
    pictures: tuple[bytes, ...],
    records: list[Record],
    encoding: Encoding,
) -> None:
    """Three questions wait for missing segments. Both threads of the reasoner are free for a fourth."""
    video = new_video(status="sampling", frames_expected=FRAMES)
    store.add_video(video)
    put_frames(store, video, pictures[:64])
    store.create_record(video.id, 0, records[0])
    waiting = [submit(intake, video, end_s=end_s) for end_s in (90, None, 100)]
    assert [question.status for question in waiting] == ["waiting"] * 3
    early = wait_settled(store, submit(intake, video, end_s=60))
    assert early.answer is not None
    assert (early.answer.frames, early.answer.video_complete) == (60, False)
    assert [store.read_question(question.id).status for question in waiting] == ["waiting"] * 3
    assert count_waiting(store, ANSWER) == 0

    put_frames(store, video, pictures[64:], first_segment=1)
    store.update_video(video.model_copy(update={"status": "ready", "frames_sampled": FRAMES}))
    settled = [wait_settled(store, question) for question in waiting]
    answers = [question.answer for question in settled if question.answer]
    assert [answer.frames for answer in answers] == [90, FRAMES, FRAMES]
    assert read_pieces(store, settled[0])[0].kind == "state"


def test_a_partial_question_is_answered_at_once_from_the_encoded_frames(
    reasoning: WorkerThreads,
    intake: Intake,
    store: Store,
    pictures: tuple[bytes, ...],
    records: list[Record],
    settings: Settings,
    encoder: Encoder,
) -> None:
    """The worker here only fuses, so the second segment is never encoded."""
    video = new_video(status="sampling", frames_expected=FRAMES)
    store.add_video(video)
    put_frames(store, video, pictures)
    store.create_record(video.id, 0, records[0])
    with fusing_only(settings, store, encoder):
        answer = wait_settled(store, submit(intake, video, partial=True)).answer
    assert answer is not None
    assert (answer.frames, answer.frames_missing, answer.encoded_until_s) == (64, 36, 64.0)
    assert not answer.video_complete


def fusing_only(settings: Settings, store: Store, encoder: Encoder) -> Any:
    made = EncoderJobs(settings, store, encoder)
    handlers = {"fuse_question": Handler(made.fuse_question, made.give_up_fusions)}
    return working(settings, store, "encode", [Pool((FUSE,), 1)], handlers, encoder.fingerprint)


def test_a_partial_question_without_any_frames_waits_for_the_first_ones(
    reasoning: WorkerThreads, intake: Intake, store: Store, pictures: tuple[bytes, ...], encoding: Encoding
) -> None:
    video = new_video(status="sampling", frames_expected=FRAMES)
    store.add_video(video)
    asked = submit(intake, video, partial=True, end_s=100)
    assert asked.status == "waiting"
    put_frames(store, video, pictures[:64])
    store.agenda.put("lw:due:questions", asked.id)
    wait_until(lambda: store.read_coverage(video, range(1), encoding.worker._fingerprint or "").encoded)
    store.agenda.put("lw:due:questions", asked.id)
    answer = wait_settled(store, asked).answer
    assert answer is not None
    assert answer.frames == 64


def test_a_question_waits_for_an_encoder_and_is_answered_when_one_starts(
    reasoning: WorkerThreads, intake: Intake, store: Store, video: Video, settings: Settings, encoder: Encoder
) -> None:
    asked = submit(intake, video)
    wait_until(lambda: store.read_question(asked.id).status == "running")
    wait_until(lambda: store.read_question(asked.id).status == "waiting")
    wait_until(lambda: not reasoning.running)  # it occupies no thread
    with fusing_only(settings, store, encoder):
        store.agenda.put("lw:due:questions", asked.id)  # happens by itself after recheck_after_s
        assert wait_settled(store, asked).status == "done"


def test_a_lost_record_is_made_again_while_the_question_waits(
    reasoning: WorkerThreads, intake: Intake, store: Store, video: Video, encoding: Encoding, encoder: Encoder
) -> None:
    wanted = wait_settled(store, submit(intake, video, fusion="sampled", end_s=90))
    store.cache.redis.flushall()
    store.archive.files.write(f"{video.id}/000001/tokens-{encoder.fingerprint}.safetensors", b"garbage")
    asked = wait_settled(
        store, submit(intake, video, fusion="sampled", end_s=95)
    )  # another stretch, which has no prefix yet
    assert wanted.answer is not None
    assert asked.answer is not None
    assert (asked.answer.frames, asked.answer.frames_missing) == (95, 0)
    assert store.archive.read_record(video.id, 1, encoder.fingerprint) is not None


def test_an_answer_counts_the_frames_that_could_not_be_encoded(
    reasoning: WorkerThreads, intake: Intake, store: Store, pictures: tuple[bytes, ...], encoding: Encoding
) -> None:
    video = add_sampled(store, [*pictures[:64], *([b"garbage"] * 64), *pictures[:10]])
    asked = submit(intake, video)
    failed = submit(intake, video, start_s=70, end_s=90)
    answer = wait_settled(store, asked).answer
    assert answer is not None
    assert (answer.frames, answer.frames_missing, answer.video_complete) == (74, 64, True)
    settled = wait_settled(store, failed)
    assert settled.problem is not None
    assert "could not be encoded" in settled.problem.message
    assert f"longwatch retry {video.id}" in settled.problem.message
    (progress,) = store.read_progress([video])
    assert progress is not None
    assert (progress.complete, progress.frames_encoded, progress.frames_failed) == (True, 74, 64)


def test_a_question_waits_during_an_outage_of_the_cache_and_is_answered_after_it(
    reasoning: WorkerThreads, intake: Intake, store: Store, video: Video, encoding: Encoding, settings: Settings
) -> None:
    """The cache refuses reads and writes, like one that is loading or out of memory."""
    redis: Any = store.cache.redis
    commands = ("get", "set", "mget")
    redis.acl_setuser("default", enabled=True, nopass=True, commands=[f"-{command}" for command in commands])
    try:
        asked = submit(intake, video)
        wait_until(lambda: reasoning.runner.trouble)
        assert not store.read_question(asked.id).settled
    finally:
        redis.acl_setuser("default", enabled=True, nopass=True, commands=[f"+{command}" for command in commands])
    store.agenda.put("lw:due:questions", asked.id)  # happens by itself after surroundings_retry_after_s
    assert wait_settled(store, asked).status == "done"
    wait_until(lambda: reasoning.runner.trouble is None)


# cancelled, deleted, given away


def test_cancelling_keeps_the_text_so_far(
    reasoning: WorkerThreads, intake: Intake, store: Store, video: Video, encoding: Encoding, language: WatchedLanguage
) -> None:
    released = slow_down(language, after=2)
    asked = submit(intake, video, text=TALK, options=LONG)
    wait_until(lambda: language.count("step") >= 2)
    intake.cancel_question(asked.id)
    released.set()
    settled = wait_settled(store, asked)
    assert (settled.status, settled.answer is not None) == ("cancelled", True)
    assert settled.answer is not None
    assert settled.answer.finish_reason == "cancelled"
    assert 0 < settled.answer.tokens.answer < 8
    assert settled.answer.text == read_text(read_pieces(store, asked))


@pytest.fixture
def language(model: LlavaMini) -> WatchedLanguage:
    return WatchedLanguage(model)


@pytest.fixture
def engine(model: LlavaMini, prompts: PromptBuilder, settings: Settings, language: WatchedLanguage) -> Engine:
    return make_engine(with_language(model, language), prompts, settings)


def slow_down(language: WatchedLanguage, after: int) -> threading.Event:
    """Makes each step from number `after` on wait for the returned event and then for 50 ms."""
    released = threading.Event()

    def wait(call: int) -> None:
        if language.calls[call - 1][0] == "step" and language.count("step") >= after:
            assert released.wait(60)
            threading.Event().wait(0.05)

    language.before = wait
    return released


def test_a_question_that_waits_for_fusions_can_be_cancelled_and_withdraws_its_orders(
    reasoning: WorkerThreads, intake: Intake, store: Store, video: Video
) -> None:
    store.workers.announce(Worker("stuck", "encode", "here", 1, (FUSE, ENCODE)), 60)
    asked = submit(intake, video)
    wait_until(lambda: count_waiting(store, FUSE))
    assert intake.cancel_question(asked.id).status == "running"  # it ends at its next check
    settled = wait_settled(store, asked)
    assert (settled.status, settled.answer) == ("cancelled", None)
    wait_until(lambda: read_pieces(store, asked)[-1].kind == "done")
    wait_until(lambda: count_waiting(store, FUSE) == 0)


def test_a_waiting_or_queued_question_is_cancelled_at_once(
    intake: Intake, store: Store, video: Video, jobs: ReasonerJobs
) -> None:
    unsampled = new_video(status="sampling")
    store.add_video(unsampled)
    for asked in (submit(intake, unsampled), submit(intake, video)):
        assert intake.cancel_question(asked.id).status == "cancelled"
        assert read_pieces(store, asked)[-1].kind == "done"
        jobs.answer_question(asked.id)  # its job may have been taken just before
        assert store.read_question(asked.id).status == "cancelled"
    assert count_waiting(store, ANSWER) == 0
    assert store.agenda.count(due.QUESTIONS) == 0


def test_a_cancelled_question_is_never_begun(jobs: ReasonerJobs, store: Store, video: Video) -> None:
    """The request to cancel arrives between the queue and the worker."""
    question_id = new_question_id(video.id)
    store.answers.cancel(question_id)
    asked = ask(jobs, store, video, id=question_id)
    assert (asked.status, asked.answer) == ("cancelled", None)
    assert [piece.kind for piece in read_pieces(store, asked)] == ["done"]


@pytest.mark.parametrize("moment", ["fusing", "answering"])
def test_a_video_deleted_during_an_answer_stays_deleted_and_readers_see_the_end(
    moment: str,
    reasoning: WorkerThreads,
    intake: Intake,
    store: Store,
    video: Video,
    language: WatchedLanguage,
    settings: Settings,
    encoder: Encoder,
) -> None:
    released = slow_down(language, after=1)
    asked = submit(intake, video, text=TALK, options=LONG)
    if moment == "fusing":
        store.workers.announce(Worker("stuck", "encode", "here", 1, (FUSE, ENCODE)), 60)
        wait_until(lambda: count_waiting(store, FUSE))
        intake.delete_video(video.id)
    else:
        with fusing_only(settings, store, encoder):
            wait_until(lambda: language.count("step"))
            intake.delete_video(video.id)
    released.set()
    wait_until(lambda: any(piece.kind == "done" for piece in read_pieces(store, asked)))
    wait_until(lambda: not reasoning.running)
    assert store.archive.list_video_ids() == []
    with pytest.raises(NotFound):
        store.read_question(asked.id)
    assert store.agenda.count(due.QUESTIONS) == 0


@pytest.mark.usefixtures("encoding")
@pytest.mark.parametrize("broken_off", [False, True])
def test_deleting_a_video_deletes_the_answers_about_it(
    broken_off: bool, intake: Intake, jobs: ReasonerJobs, store: Store, video: Video, settings: Settings
) -> None:
    """If the deleting process dies in the middle, any worker finishes the deletion."""
    asked = ask(jobs, store, video)
    if broken_off:
        store.index.mark_deleted(video.id)
        store.agenda.put("lw:due:deletions", video.id)
        store.archive.files.delete(f"{video.id}/video.json")
        wait_until(lambda: not store.agenda.count("lw:due:deletions"))
    else:
        intake.delete_video(video.id)
    for gone in (lambda: store.read_question(asked.id), lambda: store.read_video(video.id)):
        with pytest.raises(NotFound):
            gone()
    assert store.index.list_videos(None, 10) == store.archive.list_video_ids() == []


def test_an_attempt_that_lost_its_job_changes_nothing_any_more(
    jobs: ReasonerJobs,
    store: Store,
    video: Video,
    encoding: Encoding,
    language: WatchedLanguage,
    settings: Settings,
    model: LlavaMini,
    prompts: PromptBuilder,
) -> None:
    """The first attempt is taken for dead in the middle. Stream and archive keep the second one's answer."""
    released = slow_down(language, after=2)
    question = new_question(video, text=TALK, options=LONG)
    store.add_question(question)
    ended: list[Exception] = []

    def answer() -> None:
        try:
            jobs.answer_question(question.id)
        except GivenAway as error:
            ended.append(error)

    first = threading.Thread(target=answer)
    first.start()
    wait_until(lambda: any(piece.kind == "text" for piece in read_pieces(store, question)))
    second = ReasonerJobs(settings, store, make_engine(model, prompts, settings))
    second.answer_question(question.id)
    settled = store.archive.read_question(question.id)
    released.set()
    first.join(60)
    assert len(ended) == 1
    assert settled.answer is not None
    assert store.archive.read_question(question.id) == settled
    pieces = read_pieces(store, question)
    kinds = [piece.kind for piece in pieces if piece.kind != "state"]
    assert (kinds.count("restart"), kinds.count("done"), kinds[-1]) == (1, 1, "done")
    assert read_text(pieces) == settled.answer.text != ""


# impossible questions


@pytest.mark.usefixtures("encoding")
@pytest.mark.parametrize(
    ("values", "code", "says"),
    [
        (
            {"start_s": 500.0},
            "bad-request",
            "no frame lies from 500 s on: there is one every 1 s, the first at 0.5 s, ",
        ),
        ({"start_s": 1.6, "end_s": 2.4}, "bad-request", "between 1.6 and 2.4 s: .* the last at 99.5 s"),
        ({"options": Options(max_tokens=4090)}, "stretch-too-long", "shorten the question"),
        (
            {"previous_question_id": "20261121-020851123-4f2a9c_20261121-020851123-4f2a9c"},
            "bad-request",
            "without previous_question_id",
        ),
    ],
)
def test_an_impossible_question_fails_and_says_why(
    values: dict[str, Any], code: str, says: str, jobs: ReasonerJobs, store: Store, video: Video
) -> None:
    asked = ask(jobs, store, video, **values)
    assert asked.status == "failed"
    assert asked.problem is not None
    assert asked.problem.code == code
    assert re.search(says, asked.problem.message)
    assert read_pieces(store, asked)[-1].kind == "done"


def test_a_question_about_a_video_that_failed_says_why(reasoning: WorkerThreads, intake: Intake, store: Store) -> None:
    problem = Problem(code="source-unsupported", message="holds no picture that can be decoded")
    video = new_video(status="failed", problem=problem, frames_sampled=0)
    store.add_video(video)
    settled = wait_settled(store, submit(intake, video))
    assert settled.problem is not None
    assert settled.problem.message == f"the video has no frames here: {problem.message}"


def test_a_question_ends_when_the_video_that_it_waits_for_fails(
    reasoning: WorkerThreads, intake: Intake, store: Store
) -> None:
    video = new_video(status="fetching")
    store.add_video(video)
    asked = submit(intake, video)
    problem = Problem(code="source-unavailable", message="the server is gone")
    store.update_video(video.model_copy(update={"status": "failed", "problem": problem, "frames_sampled": 0}))
    settled = wait_settled(store, asked)
    assert settled.problem is not None
    assert "the server is gone" in settled.problem.message


def test_an_unexpected_error_is_retried_and_then_reported(
    reasoning: WorkerThreads, intake: Intake, store: Store, video: Video, encoding: Encoding, language: WatchedLanguage
) -> None:
    def fail(call: int) -> None:
        raise RuntimeError("a kernel that is not there")

    language.before = fail
    settled = wait_settled(store, submit(intake, video))
    assert language.count("prefill") == 3
    assert settled.problem is not None
    assert settled.problem.code == "internal"
    assert "RuntimeError: a kernel that is not there" in settled.problem.message
    assert "logs/reasoner.log" in settled.problem.message


def test_a_deleted_question_is_no_error(jobs: ReasonerJobs, store: Store, video: Video) -> None:
    question_id = new_question_id(video.id)
    jobs.answer_question(question_id)
    jobs.give_up_question("why", question_id)
    with pytest.raises(NotFound):
        store.archive.read_question(question_id)


def test_questions_about_a_duplicate_use_its_owners_frames(
    reasoning: WorkerThreads, intake: Intake, store: Store, video: Video, encoding: Encoding
) -> None:
    again = new_video(status="duplicate", duplicate_of=video.id)
    store.add_video(again)
    settled = wait_settled(store, submit(intake, again, end_s=30))
    assert settled.answer is not None
    assert settled.answer.frames == 30
    assert settled.answer.evidence[0].picture.startswith(f"/v1/videos/{again.id}/")


def test_a_question_survives_the_deletion_of_its_videos_owner(
    intake: Intake, store: Store, video: Video, jobs: ReasonerJobs
) -> None:
    """If the owner is deleted at the wrong moment, the question waits until its own video is sampled."""
    again = new_video(status="duplicate", duplicate_of="20261121-020851123-4f2a9c")
    store.add_video(again)
    asked = submit(intake, again)
    jobs._inspector.inspect_video(again.id)
    assert store.read_video(again.id).status == "queued"
    jobs._inspector.inspect_question(asked.id)
    assert store.read_question(asked.id).status == "waiting"
    assert store.agenda.count(due.QUESTIONS) == 1
