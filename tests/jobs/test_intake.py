"""Requests from users: started at once, cancelled in each state, retried, deleted."""

import pytest

from configs.settings import Settings
from jobs.intake import Intake
from jobs.names import ANSWER, ENCODE, FETCH, INGEST, QUEUES
from storage import agenda as due
from storage.documents import Problem, Question
from storage.errors import Conflict, GivenAway, NotFound, StateRebuilding
from storage.store import Store
from storage.timeline import FULL_MASK
from tests.storage.making import MODEL, add_encoded, make_question, make_video
from tests.working import count_waiting


@pytest.fixture
def intake(store: Store, settings: Settings) -> Intake:
    store.index.set_ready(store.index.read_generation())
    store.workers.announce_model(MODEL)
    return Intake(store, settings)


def kinds(store: Store, question: Question) -> list[str]:
    return [piece.kind for piece in store.answers.read(question.id)]


def test_the_first_job_of_a_video_is_queued_at_once(intake: Intake, store: Store) -> None:
    intake.add_video(make_video())
    intake.add_video(make_video(kind="path"))
    waiting = {name: count_waiting(store, name) for name in QUEUES}
    assert (waiting[FETCH], waiting[INGEST]) == (1, 1)
    assert intake.count_unsettled_videos() == 2


def test_an_upload_with_known_content_returns_the_known_video(intake: Intake, store: Store) -> None:
    first, second = (make_video(kind="upload", location="", in_archive=True, sha256="ab") for _ in range(2))
    assert intake.claim_upload(first) is None
    intake.add_video(first)
    assert intake.claim_upload(second) == first


def test_a_waiting_question_is_cancelled_at_once(intake: Intake, store: Store) -> None:
    question = intake.add_question(make_question(add_encoded(store, 70)))
    assert question.status == "waiting"
    assert store.agenda.count(due.QUESTIONS) == 1
    assert intake.cancel_question(question.id).status == "cancelled"
    assert store.read_question(question.id).status == "cancelled"
    assert store.agenda.count(due.QUESTIONS) == 0
    assert store.agenda.list_waiting(question.video_id, None) == []
    assert kinds(store, question) == ["state", "done"]


def test_a_queued_question_is_cancelled_at_once_and_leaves_the_queue(intake: Intake, store: Store) -> None:
    question = intake.add_question(make_question(add_encoded(store, 64)))
    assert question.status == "queued"
    assert intake.cancel_question(question.id).status == "cancelled"
    assert count_waiting(store, ANSWER) == 0


def test_a_running_question_is_asked_to_stop_and_its_worker_ends_it(intake: Intake, store: Store) -> None:
    question = intake.add_question(make_question(add_encoded(store, 64)))
    fence = store.fences.take(question.id)
    assert store.answers.begin(fence)
    assert intake.cancel_question(question.id).status == "running"
    assert store.answers.send(fence, "the current piece") is False
    store.settle_question(question.model_copy(update={"status": "cancelled"}), fence)
    assert store.read_question(question.id).status == "cancelled"


def test_a_settled_question_stays_as_it_is(intake: Intake, store: Store) -> None:
    question = intake.add_question(make_question(add_encoded(store, 64)))
    store.settle_question(question.model_copy(update={"status": "done"}))
    assert intake.cancel_question(question.id).status == "done"
    assert store.archive.read_question(question.id).status == "done"


def test_an_attempt_that_begins_while_its_question_is_cancelled_does_not_count(intake: Intake, store: Store) -> None:
    question = intake.add_question(make_question(add_encoded(store, 64)))
    early = store.fences.take(question.id)  # dequeued, but not yet marked as running
    assert intake.cancel_question(question.id).status == "cancelled"
    with pytest.raises(GivenAway):
        store.answers.send(early, "x")


def test_cancelling_leaves_the_end_to_an_attempt_that_begins_later(
    intake: Intake, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = intake.add_question(make_question(add_encoded(store, 64)))
    settle = Store.settle_question

    def settle_late(self: Store, *args: object) -> None:
        store.fences.take(question.id)
        settle(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "settle_question", settle_late)
    assert not intake.cancel_question(question.id).settled
    assert not store.answers.is_wanted(question.id)  # that attempt ends it as cancelled


def test_a_failed_video_is_retried(intake: Intake, store: Store) -> None:
    problem = Problem(code="source-unavailable", message="x")
    video = make_video(status="failed", problem=problem, frames_sampled=0)
    store.add_video(video)
    again = intake.retry_video(video.id)
    assert (again.status, again.problem, again.frames_sampled) == ("queued", None, None)
    assert store.read_video(video.id) == again
    assert count_waiting(store, FETCH) == 1


@pytest.mark.parametrize("by_duplicate", [True, False])
def test_segments_that_could_not_be_encoded_are_retried(intake: Intake, store: Store, by_duplicate: bool) -> None:
    video = add_encoded(store, 128, encoded=1)
    copy = make_video(status="duplicate", duplicate_of=video.id)
    store.add_video(copy)
    store.coverage.mark_failed(video.id, 1, FULL_MASK, MODEL, "reason")
    intake.retry_video(copy.id if by_duplicate else video.id)
    assert store.read_coverage(video, range(2), MODEL).missing() == [1]
    assert count_waiting(store, ENCODE) == 1


def test_a_healthy_video_is_not_retried(intake: Intake, store: Store) -> None:
    video = add_encoded(store, 64)
    with pytest.raises(Conflict, match="nothing to retry: it is ready"):
        intake.retry_video(video.id)
    store.coverage.forget(video.id)
    with pytest.raises(StateRebuilding):
        intake.retry_video(video.id)


def test_a_video_is_not_deleted_before_its_duplicates_are_known(intake: Intake, store: Store) -> None:
    video = add_encoded(store, 64)
    store.add_video(make_video(status="duplicate", duplicate_of=video.id))
    store.state.flushall()
    with pytest.raises(StateRebuilding):
        intake.delete_video(video.id)
    assert store.archive.has_video(video.id)


def test_deleting_a_video_ends_its_questions(intake: Intake, store: Store, settings: Settings) -> None:
    video = add_encoded(store, 70)
    question = intake.add_question(make_question(video))
    intake.delete_video(video.id)
    with pytest.raises(NotFound):
        store.read_question(question.id)
    with pytest.raises(NotFound):
        intake.cancel_question(question.id)
    intake._inspector.inspect_question(question.id)
    assert store.agenda.count(due.QUESTIONS) == 0
