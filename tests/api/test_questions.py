"""Questions over HTTP: asked, waited for, listed, cancelled."""

import threading

import httpx
import pytest

from configs.settings import Settings
from jobs.intake import Intake
from jobs.names import ANSWER
from jobs.queues import Queues
from jobs.reconciler import Reconciler
from storage.documents import Problem
from storage.rebuild import rebuild_state
from storage.store import Store
from storage.workers import Worker
from tests.api.conftest import MODEL, Seed, begin, encode, keep, new_question, require_problem, settle
from tests.api.sse import Reader
from tests.waiting import wait_until


def test_a_question_is_stored_as_asked(http: httpx.Client, seed: Seed, store: Store, queues: Queues) -> None:
    video = seed(recorded_at="2026-11-21T14:00:00Z")
    earlier = keep(store, new_question(video, status="done"))
    body = {
        "question": "  what is there now ? ",
        "start": 10,
        "end": "2026-11-21T15:00:20.5+01:00",
        "fusion": "exact",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "seed": 3,
        "previous_question_id": earlier.id,
    }
    response = http.post(f"/v1/videos/{video.id}/questions", json=body)
    shown = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/questions/{shown['id']}"
    assert (shown["status"], shown["question"], shown["answer"]) == ("queued", "what is there now ?", None)
    assert (shown["start_s"], shown["end_s"], shown["start_at"]) == (10, 20.5, "2026-11-21T14:00:10Z")
    assert shown["end_at"] == "2026-11-21T14:00:20.500000Z"
    kept = store.read_question(shown["id"])
    assert (kept.start_s, kept.end_s, kept.fusion, kept.previous_question_id) == (10, 20.5, "exact", earlier.id)
    assert kept.options.model_dump() == {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 3}
    assert queues.list_live(ANSWER, [f"answer-{kept.id}"])
    assert http.get(response.headers["location"]).json() == shown


def test_a_stretch_that_the_model_cannot_take_is_refused_before_it_is_encoded(
    http: httpx.Client, seed: Seed, store: Store
) -> None:
    path = f"/v1/videos/{seed(frames=70, encoded=0).id}/questions"
    assert http.post(path, json={"question": "?"}).status_code == 202  # no reasoner has announced its limit
    store.workers.announce(Worker("reason-here-1", "reason", "here", 1, (ANSWER,), MODEL, max_frames=50), 60)
    refused = http.post(path, json={"question": "?"})
    require_problem(refused, 400, "bad-request")
    assert "70 frames; the model takes 50 at most: ask about 50 s or less" in refused.json()["detail"]
    assert http.post(path, json={"question": "?", "end": 50}).status_code == 202
    assert http.post(path, json={"question": "?", "partial": True}).status_code == 202


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ('{"question": "?", "start": 5, "end": 5}', 400, "bad-request"),
        ('{"question": "?", "start": -1}', 422, "invalid"),
        ('{"question": "?", "start": NaN}', 422, "invalid"),
        ('{"question": "?", "end": Infinity}', 422, "invalid"),
        ('{"question": "?", "end": 1e999}', 422, "invalid"),
        ('{"question": "?", "fusion": "best"}', 422, "invalid"),
        ('{"question": "?", "start_s": 5}', 422, "invalid"),
        ('{"question": "?", "start": "noon"}', 400, "bad-request"),
        ('{"question": "?", "start": "2026-11-21T14:00:00"}', 400, "bad-request"),  # in which time zone?
        ('{"question": "?", "end": "2026-11-21T14:00:00Z"}', 400, "bad-request"),  # the video has no wall clock
        ('{"question": "?", "start": "0001-01-01T00:00:00+23:00"}', 400, "bad-request"),
        ('{"question": "?", "end": 1e10}', 400, "bad-request"),
        ('{"question": "?", "start": 3.6, "end": 4.4}', 400, "bad-request"),  # between two frames
        ('{"question": "?", "top_p": 0}', 422, "invalid"),
        ('{"question": "?", "top_p": 1e-300}', 422, "invalid"),
        ('{"question": "?", "temperature": 1e-300}', 422, "invalid"),
        ('{"question": "?", "colour": "red"}', 422, "invalid"),
        ('{"question": "  "}', 422, "invalid"),
        ('{"question"', 422, "invalid"),
        ("[]", 422, "invalid"),
        ("", 422, "invalid"),
        ('{"question": "' + "x" * 501 + '"}', 400, "bad-request"),
        ('{"question": "' + "x" * 5000 + '"}', 413, "too-large"),
        ('{"question": "?", "start": 70}', 400, "bad-request"),
        ('{"question": "?", "previous_question_id": "../x"}', 400, "bad-request"),
    ],
)
def test_invalid_questions_are_refused(
    http: httpx.Client, seed: Seed, store: Store, body: str, status: int, code: str
) -> None:
    video = seed()
    path, headers = f"/v1/videos/{video.id}/questions", {"content-type": "application/json"}
    require_problem(http.post(path, content=body, headers=headers), status, code)
    require_problem(http.post(path, content=iter([body.encode()]), headers=headers), status, code)  # no content-length
    assert store.index.list_questions(video.id, None, 10) == []


def test_a_follow_up_needs_an_answered_question_of_the_same_video(http: httpx.Client, seed: Seed, store: Store) -> None:
    video, other = seed(), seed()
    elsewhere, unanswered = new_question(other, status="done"), new_question(video)
    for question in (elsewhere, unanswered):
        keep(store, question)
        body = {"question": "and now ?", "previous_question_id": question.id}
        require_problem(http.post(f"/v1/videos/{video.id}/questions", json=body), 400, "bad-request")


def test_a_video_without_frames_cannot_be_asked_about_and_says_why(http: httpx.Client, seed: Seed) -> None:
    problem = Problem(code="source-unsupported", message="the file holds no video")
    failed = seed(frames=0, encoded=0, status="failed", problem=problem)
    refusal = require_problem(http.post(f"/v1/videos/{failed.id}/questions", json={"question": "?"}), 409, "conflict")
    assert problem.message in refusal["detail"]
    assert problem.code in refusal["detail"]
    coming = seed(frames=0, encoded=0, status="fetching", frames_sampled=None)
    assert http.post(f"/v1/videos/{coming.id}/questions", json={"question": "?"}).status_code == 202


def test_the_request_waits_for_the_answer_as_long_as_preferred(http: httpx.Client, seed: Seed, store: Store) -> None:
    path = f"/v1/videos/{seed().id}/questions"
    at_once = http.post(path, json={"question": "?"}, headers={"prefer": "respond-async"})
    assert (at_once.status_code, "preference-applied" in at_once.headers) == (202, False)
    for prefer, applied in (("wait=0", "wait=0"), ("return=minimal, Wait=1", "wait=1")):
        late = http.post(path, json={"question": "?"}, headers={"prefer": prefer})
        assert (late.status_code, late.headers["preference-applied"]) == (202, applied)

    (video_id,) = store.index.list_videos(None, 10)
    known = set(store.index.list_questions(video_id, None, 10))

    def answer_the_new_one() -> None:
        wait_until(lambda: set(store.index.list_questions(video_id, None, 10)) - known)
        (question_id,) = set(store.index.list_questions(video_id, None, 10)) - known
        store.answers.send(begin(store, question_id), "red")
        settle(store, question_id, "red")

    reasoner = threading.Thread(target=answer_the_new_one)
    reasoner.start()
    in_time = http.post(path, json={"question": "?"}, headers={"prefer": "wait=1000"})
    reasoner.join()
    assert (in_time.status_code, in_time.json()["answer"]["text"]) == (200, "red")
    assert in_time.headers["preference-applied"] == "wait=20"  # api.max_wait_s


def test_a_question_waits_for_its_stretch_and_shows_the_progress(
    http: httpx.Client, seed: Seed, store: Store, queues: Queues
) -> None:
    video = seed(frames=192, encoded=64, status="sampling", frames_sampled=None, frames_expected=600)
    path = f"/v1/videos/{video.id}/questions"

    def asked(**body: object) -> dict[str, object]:
        shown: dict[str, object] = http.post(path, json={"question": "?", **body}).json()
        return shown

    whole, early, late = asked(), asked(end=60), asked(start=32, end=128)
    assert [question["status"] for question in (whole, early, late)] == ["waiting", "queued", "waiting"]
    assert whole["waiting"] == {"for": "frames", "frames_encoded": 64, "frames_expected": 600}
    assert late["waiting"] == {"for": "frames", "frames_encoded": 32, "frames_expected": 96}
    partial = asked(partial=True)
    assert (partial["status"], partial["waiting"], partial["partial"]) == ("queued", None, True)
    live = queues.list_live(ANSWER, [f"answer-{question['id']}" for question in (whole, early, late, partial)])
    assert live == {f"answer-{early['id']}", f"answer-{partial['id']}"}
    listed = http.get(path).json()["questions"]
    assert {question["id"]: question["waiting"] for question in listed} == {
        question["id"]: question["waiting"] for question in (whole, early, late, partial)
    }


def test_a_partial_question_is_queued_once_its_first_segment_is_encoded(
    http: httpx.Client, seed: Seed, store: Store, settings: Settings, queues: Queues
) -> None:
    video = seed(frames=192, encoded=0, status="sampling", frames_sampled=None, frames_expected=600)
    bodies: list[dict[str, object]] = [{"partial": True}, {"partial": True, "start": 70, "end": 500}, {}]
    path = f"/v1/videos/{video.id}/questions"
    asked = [http.post(path, json={"question": "?", **body}).json() for body in bodies]
    assert {question["status"] for question in asked} == {"waiting"}
    reconciler = Reconciler(store, settings.jobs)
    for segment, queued in enumerate([1, 2]):
        encode(store, video, segment, 64)
        reconciler.inspector.wake_questions(video.id)
        assert queues.list_live(ANSWER, [f"answer-{question['id']}" for question in asked]) == {
            f"answer-{question['id']}" for question in asked[:queued]
        }


@pytest.mark.parametrize("start", [-1, [3], "x" * 65])
def test_a_time_of_the_wrong_type_is_one_error_of_its_field(http: httpx.Client, seed: Seed, start: object) -> None:
    response = http.post(f"/v1/videos/{seed().id}/questions", json={"question": "?", "start": start})
    (error,) = require_problem(response, 422, "invalid")["errors"]
    assert error["at"] == "body.start"
    assert "seconds from the start" in error["message"]


def test_questions_over_the_limit_are_told_to_retry(http: httpx.Client, seed: Seed, settings: Settings) -> None:
    path = f"/v1/videos/{seed().id}/questions"
    most = settings.api.max_unsettled_questions
    answers = [http.post(path, json={"question": "?"}) for _ in range(most + 1)]
    assert [answer.status_code for answer in answers[:most]] == [202] * most
    assert "api.max_unsettled_questions" in require_problem(answers[most], 429, "too-many")["detail"]
    assert int(answers[most].headers["retry-after"]) > 0
    waiting = seed(frames=192, encoded=0, status="sampling", frames_sampled=None)
    assert http.post(f"/v1/videos/{waiting.id}/questions", json={"question": "?"}).status_code == 202


def test_questions_that_wait_for_frames_do_not_count_against_those_that_can_be_answered(
    http: httpx.Client, seed: Seed, store: Store, intake: Intake, settings: Settings
) -> None:
    coming = [seed(frames=192, encoded=64, status="sampling", frames_sampled=None) for _ in range(2)]
    paths = [f"/v1/videos/{video.id}/questions" for video in coming]
    most = settings.api.max_waiting_questions_per_video
    waiting = [http.post(paths[0], json={"question": "?"}).json()["id"] for _ in range(most)]
    refused = require_problem(http.post(paths[0], json={"question": "?"}), 429, "too-many")
    assert "api.max_waiting_questions_per_video" in refused["detail"]
    assert http.post(paths[0], json={"question": "?", "end": 60}).status_code == 202  # its stretch is encoded
    for _ in range(settings.api.max_waiting_questions - most):
        assert http.post(paths[1], json={"question": "?"}).status_code == 202
    refused = require_problem(http.post(paths[1], json={"question": "?"}), 429, "too-many")
    assert "(api.max_waiting_questions)" in refused["detail"]
    ready = f"/v1/videos/{seed().id}/questions"
    queued = [http.post(ready, json={"question": "?"}) for _ in range(settings.api.max_unsettled_questions)]
    assert [answer.status_code for answer in queued] == [202] * (len(queued) - 1) + [429]
    intake.cancel_question(waiting[0])
    assert http.post(paths[0], json={"question": "?"}).status_code == 202


def test_settled_questions_do_not_count_after_a_flush(
    http: httpx.Client, seed: Seed, store: Store, settings: Settings
) -> None:
    video = seed()
    for _ in range(settings.api.max_unsettled_questions):
        keep(store, new_question(video, status="done"))
    store.state.flushall()
    rebuild_state(store, lambda: True)
    store.workers.announce_model(MODEL)
    assert http.post(f"/v1/videos/{video.id}/questions", json={"question": "?"}).status_code == 202


def test_a_waiting_question_is_cancelled_at_once_and_a_running_one_asked_to_stop(
    http: httpx.Client, seed: Seed, store: Store, intake: Intake, queues: Queues
) -> None:
    video = seed()
    waiting = intake.add_question(new_question(video))
    running, done = (keep(store, new_question(video, status=status)) for status in ("queued", "done"))
    begin(store, running.id)
    reader = Reader(http, "GET", f"/v1/questions/{waiting.id}")
    wait_until(lambda: reader.names)
    shown = {q.id: http.delete(f"/v1/questions/{q.id}").json()["status"] for q in (waiting, running, done)}
    assert list(shown.values()) == ["cancelled", "running", "done"]
    assert reader.finish()["status"] == "cancelled"
    assert not queues.list_live(ANSWER, [f"answer-{waiting.id}"])
    assert [store.answers.is_wanted(q.id) for q in (waiting, running, done)] == [False, False, True]
    require_problem(http.delete(f"/v1/questions/{new_question(video).id}"), 404, "not-found")


def test_questions_are_listed_newest_first_page_by_page(http: httpx.Client, seed: Seed, store: Store) -> None:
    video = seed()
    ids = sorted((keep(store, new_question(video)).id for _ in range(3)), reverse=True)
    path = f"/v1/videos/{video.id}/questions"
    first = http.get(path, params={"limit": 2}).json()
    second = http.get(path, params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [[question["id"] for question in page["questions"]] for page in (first, second)] == [ids[:2], ids[2:]]
    assert second["next_cursor"] is None
    (found,) = http.get(path, params={"prefix": ids[1]}).json()["questions"]
    assert found["id"] == ids[1]
    assert http.get(path, params={"prefix": "3"}).json()["questions"] == []
    require_problem(http.get(path, params={"prefix": "\xff"}), 422, "invalid")
    require_problem(http.get(path, params={"cursor": video.id}), 400, "bad-request")


def test_a_flush_hides_the_lists_until_they_are_rebuilt(http: httpx.Client, seed: Seed, store: Store) -> None:
    video = seed()
    question = keep(store, new_question(video))
    store.state.flushall()
    for path in ("/v1/videos", f"/v1/videos/{video.id}/questions"):
        rebuilding = http.get(path)
        require_problem(rebuilding, 503, "state-rebuilding")
        assert int(rebuilding.headers["retry-after"]) > 0
    rebuild_state(store, lambda: True)
    assert [each["id"] for each in http.get("/v1/videos").json()["videos"]] == [video.id]
    (found,) = http.get(f"/v1/videos/{video.id}/questions").json()["questions"]
    assert found["id"] == question.id


def test_the_settings_choose_the_fusion_unless_the_question_does(
    http: httpx.Client, seed: Seed, settings: Settings
) -> None:
    asked = http.post(f"/v1/videos/{seed().id}/questions", json={"question": "?"}).json()
    assert asked["fusion"] == settings.reasoner.fusion


def test_an_empty_question_is_named_in_plain_words(http: httpx.Client, seed: Seed) -> None:
    path = f"/v1/videos/{seed().id}/questions"
    for empty in ("", "  "):
        problem = require_problem(http.post(path, json={"question": empty}), 422, "invalid")
        assert problem["detail"] == "body.question: the question is empty"
