"""Questions over HTTP: asked, waited for, streamed, joined again, cancelled."""

import json
import threading
from typing import Any

import httpx
import pytest

from cli.event_stream import parse_events, split_lines
from configs.settings import Settings
from storage.models import Problem
from storage.queues import ANSWER
from storage.store import Store
from tests.api.conftest import Seed, new_question, require_problem, settle
from tests.waiting import wait_until

STREAM = {"accept": "text/event-stream"}


class Reader(threading.Thread):
    """Follows a stream of events in a thread of its own."""

    def __init__(self, http: httpx.Client, method: str, path: str, **request: Any) -> None:
        super().__init__(daemon=True)
        self.events: list[tuple[str, str]] = []
        self._request = (http, method, path, request)
        self.start()

    def run(self) -> None:
        http, method, path, request = self._request
        with http.stream(method, path, headers=STREAM, **request) as response:
            for event in parse_events(split_lines(response.iter_text())):
                self.events.append(event)

    @property
    def names(self) -> list[str]:
        """The events' names so far."""
        return [name for name, _ in self.events]

    @property
    def text(self) -> str:
        """The answer's text so far: what came since the last restart."""
        last = max((k for k, name in enumerate(self.names) if name == "restart"), default=0)
        return "".join(data for name, data in self.events[last:] if name == "text")

    def finish(self) -> Any:
        """Waits for the end of the stream; the last event's data."""
        self.join(timeout=30)
        assert not self.is_alive()
        return json.loads(self.events[-1][1])


def test_a_question_is_taken_in_as_asked(http: httpx.Client, seed: Seed, store: Store) -> None:
    video = seed()
    earlier = new_question(video, status="done")
    store.archive.put_question(earlier)
    body = {
        "question": "  what is there now ? ",
        "start_s": 10,
        "end_s": 20.5,
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
    kept = store.archive.question(shown["id"])
    assert (kept.start_s, kept.end_s, kept.fusion, kept.previous_question_id) == (10, 20.5, "exact", earlier.id)
    assert kept.options.model_dump() == {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 3}
    assert store.queues.is_live(ANSWER, f"answer-{kept.id}")
    assert http.get(response.headers["location"]).json() == shown


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ('{"question": "?", "start_s": 5, "end_s": 5}', 422, "invalid"),
        ('{"question": "?", "start_s": -1}', 422, "invalid"),
        ('{"question": "?", "start_s": NaN}', 422, "invalid"),
        ('{"question": "?", "end_s": Infinity}', 422, "invalid"),
        ('{"question": "?", "end_s": 1e999}', 422, "invalid"),
        ('{"question": "?", "fusion": "best"}', 422, "invalid"),
        ('{"question": "?", "top_p": 0}', 422, "invalid"),
        ('{"question": "?", "colour": "red"}', 422, "invalid"),
        ('{"question": "  "}', 422, "invalid"),
        ('{"question"', 422, "invalid"),
        ("[]", 422, "invalid"),
        ("", 422, "invalid"),
        ('{"question": "' + "x" * 501 + '"}', 400, "bad-request"),
        ('{"question": "' + "x" * 5000 + '"}', 413, "too-large"),
        ('{"question": "?", "start_s": 70}', 400, "bad-request"),
        ('{"question": "?", "previous_question_id": "../x"}', 400, "bad-request"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    http: httpx.Client, seed: Seed, store: Store, body: str, status: int, code: str
) -> None:
    video = seed()
    path, headers = f"/v1/videos/{video.id}/questions", {"content-type": "application/json"}
    require_problem(http.post(path, content=body, headers=headers), status, code)
    require_problem(http.post(path, content=iter([body.encode()]), headers=headers), status, code)  # length not told
    assert store.archive.question_ids(video.id) == []


def test_a_follow_up_needs_an_answered_question_of_the_same_video(http: httpx.Client, seed: Seed, store: Store) -> None:
    video, other = seed(), seed()
    elsewhere, unanswered = new_question(other, status="done"), new_question(video)
    for question in (elsewhere, unanswered):
        store.archive.put_question(question)
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


def test_the_answer_is_waited_for_as_long_as_preferred(http: httpx.Client, seed: Seed, store: Store) -> None:
    path = f"/v1/videos/{seed().id}/questions"
    at_once = http.post(path, json={"question": "?"}, headers={"prefer": "respond-async"})
    assert (at_once.status_code, "preference-applied" in at_once.headers) == (202, False)
    for prefer, applied in (("wait=0", "wait=0"), ("return=minimal, Wait=1", "wait=1")):
        late = http.post(path, json={"question": "?"}, headers={"prefer": prefer})
        assert (late.status_code, late.headers["preference-applied"]) == (202, applied)

    known = set(store.hot.unfinished())

    def answer_the_new_one() -> None:
        wait_until(lambda: set(store.hot.unfinished()) - known)
        (question_id,) = set(store.hot.unfinished()) - known
        store.answers.send(question_id, "text", "red")
        settle(store, question_id, "red")

    reasoner = threading.Thread(target=answer_the_new_one)
    reasoner.start()
    in_time = http.post(path, json={"question": "?"}, headers={"prefer": "wait=1000"})
    reasoner.join()
    assert (in_time.status_code, in_time.json()["answer"]["text"]) == (200, "red")
    assert in_time.headers["preference-applied"] == "wait=20"  # api.max_wait_s


def test_an_answer_is_streamed_as_it_is_generated(http: httpx.Client, seed: Seed, store: Store) -> None:
    reader = Reader(http, "POST", f"/v1/videos/{seed().id}/questions", json={"question": "?"})
    wait_until(lambda: reader.names == ["question"])
    question_id = json.loads(reader.events[0][1])["id"]
    store.answers.send(question_id, "text", "a red")
    wait_until(lambda: reader.text == "a red")

    store.answers.send(question_id, "restart")  # the reasoner died, another took over
    pieces = ("two\nlines", "\n", "  and\u2028a rest\u0085 ü")
    for piece in pieces:
        store.answers.send(question_id, "text", piece)
    joined = Reader(http, "GET", f"/v1/questions/{question_id}")
    wait_until(lambda: joined.text == "".join(pieces))
    settle(store, question_id, "".join(pieces))
    for each in (reader, joined):
        final = each.finish()
        assert each.names == ["question", "text", "restart", "text", "text", "text", "answer"]
        assert each.text == final["answer"]["text"] == "".join(pieces)
        assert final["status"] == "done"

    late = Reader(http, "GET", f"/v1/questions/{question_id}")
    assert late.finish() == final
    assert (late.names, late.text) == (["question", "text", "answer"], "".join(pieces))


def test_a_stream_ends_although_redis_forgot_its_pieces(http: httpx.Client, seed: Seed, store: Store) -> None:
    reader = Reader(http, "POST", f"/v1/videos/{seed().id}/questions", json={"question": "?"})
    wait_until(lambda: reader.names == ["question"])
    question_id = json.loads(reader.events[0][1])["id"]
    settle(store, question_id, "red")
    store.hot.redis.flushall()
    assert reader.finish()["answer"]["text"] == "red"


def test_a_failure_ends_the_stream_with_its_problem(http: httpx.Client, seed: Seed, store: Store) -> None:
    question = new_question(seed())
    store.add_question(question)
    reader = Reader(http, "GET", f"/v1/questions/{question.id}")
    wait_until(lambda: reader.names == ["question"])
    problem = Problem(code="context-full", message="too long: 900 frames would fit")
    store.settle_question(question.model_copy(update={"status": "failed", "problem": problem}))
    assert reader.finish()["problem"] == problem.model_dump()
    assert reader.names[-1] == "error"


def test_deleting_the_video_ends_the_streams_about_it(http: httpx.Client, seed: Seed, store: Store) -> None:
    video = seed(frames=10, encoded=0)
    progress = Reader(http, "GET", f"/v1/videos/{video.id}/events")
    answer = Reader(http, "POST", f"/v1/videos/{video.id}/questions", json={"question": "?"})
    wait_until(lambda: progress.names == ["progress"] and answer.names == ["question"])
    assert http.delete(f"/v1/videos/{video.id}").status_code == 204
    for reader in (progress, answer):
        assert reader.finish()["type"] == "urn:longwatch:problem:not-found"
        assert reader.names[-1] == "problem"


def test_progress_is_streamed_until_all_is_encoded(http: httpx.Client, seed: Seed, store: Store) -> None:
    video = seed(frames=10, encoded=0)
    reader = Reader(http, "GET", f"/v1/videos/{video.id}/events")
    for encoded in (3, 10):
        wait_until(lambda: reader.events)
        store.hot.set_count(video.id, "tokens:0", encoded)
        if encoded < 10:
            wait_until(lambda: len(reader.events) >= 2)
    assert reader.finish()["progress"]["complete"]
    encoded_so_far = [json.loads(data)["progress"]["frames_encoded"] for _, data in reader.events]
    assert list(dict.fromkeys(encoded_so_far)) == [0, 3, 10]  # the estimate of time may change in between
    assert set(reader.names) == {"progress"}


def test_a_client_that_goes_away_leaves_no_work_behind(http: httpx.Client, seed: Seed, store: Store) -> None:
    video = seed(frames=10, encoded=0)
    question = new_question(video)
    store.add_question(question)
    for path in (f"/v1/videos/{video.id}/events", f"/v1/questions/{question.id}"):
        with http.stream("GET", path, headers=STREAM) as response:
            next(response.iter_text())
    # Whoever followed would go on asking Redis; its own statistics show that nobody does.
    wait_until(lambda: _silent(store))


def _silent(store: Store) -> bool:
    def looks() -> list[object]:
        statistics = store.hot.redis.info("commandstats")
        return [statistics.get(f"cmdstat_{command}", {}).get("calls") for command in ("hgetall", "xread")]

    before = looks()
    threading.Event().wait(0.3)  # six intervals of progress
    return before == looks() and not store.hot.redis.info("clients")["blocked_clients"]


def test_a_waiting_question_is_cancelled_at_once_and_a_running_one_asked_to_stop(
    http: httpx.Client, seed: Seed, store: Store
) -> None:
    video = seed()
    waiting, running, done = (new_question(video, status=status) for status in ("queued", "running", "done"))
    store.add_question(waiting)
    for question in (running, done):
        store.archive.put_question(question)
    reader = Reader(http, "GET", f"/v1/questions/{waiting.id}")
    wait_until(lambda: reader.names)
    shown = {q.id: http.delete(f"/v1/questions/{q.id}").json()["status"] for q in (waiting, running, done)}
    assert list(shown.values()) == ["cancelled", "running", "done"]
    assert reader.finish()["status"] == "cancelled"
    assert not store.queues.is_live(ANSWER, f"answer-{waiting.id}")
    assert [store.answers.cancelled(q.id) for q in (waiting, running, done)] == [True, True, False]
    require_problem(http.delete(f"/v1/questions/{new_question(video).id}"), 404, "not-found")


def test_questions_are_listed_newest_first_page_by_page_without_damaged_ones(
    http: httpx.Client, seed: Seed, store: Store
) -> None:
    video = seed()
    questions = sorted((new_question(video) for _ in range(4)), key=lambda question: question.id)
    for question in questions:
        store.archive.put_question(question)
    store.archive.files.write(f"{video.id}/questions/{questions[1].id}.json", b"{")
    path = f"/v1/videos/{video.id}/questions"
    first = http.get(path, params={"limit": 2}).json()
    assert [question["id"] for question in first["questions"]] == [questions[3].id, questions[2].id]
    second = http.get(path, params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert ([question["id"] for question in second["questions"]], second["next_cursor"]) == ([questions[0].id], None)
    require_problem(http.get(path, params={"cursor": video.id}), 400, "bad-request")


def test_streams_do_not_keep_other_requests_waiting(http: httpx.Client, seed: Seed, store: Store) -> None:
    question = new_question(seed())
    store.add_question(question)
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=http.base_url, timeout=30, trust_env=False, limits=limits) as crowd:
        readers = [Reader(crowd, "GET", f"/v1/questions/{question.id}") for _ in range(60)]  # threads for routes: 40
        wait_until(lambda: store.hot.redis.info("clients")["blocked_clients"] == len(readers))
        assert http.get(f"/v1/questions/{question.id}").status_code == 200
        settle(store, question.id, "red")
        assert {reader.finish()["answer"]["text"] for reader in readers} == {"red"}


def test_the_settings_choose_the_fusion_unless_the_question_does(
    http: httpx.Client, seed: Seed, settings: Settings
) -> None:
    asked = http.post(f"/v1/videos/{seed().id}/questions", json={"question": "?"}).json()
    assert asked["fusion"] == settings.reasoner.fusion
