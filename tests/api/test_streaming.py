"""Streams over HTTP: an answer's pieces and a video's progress. Each stream ends, and carries the whole text."""

import json
import threading

import httpx
import pytest

from jobs.intake import Intake
from storage.documents import Problem, Question
from storage.store import Store
from tests.api.conftest import MODEL, Seed, begin, encode, new_question, settle
from tests.api.sse import STREAM, Reader
from tests.waiting import wait_until


@pytest.fixture
def asked(seed: Seed, intake: Intake) -> Question:
    """A question that is queued."""
    return intake.add_question(new_question(seed()))


def test_an_answer_is_streamed_as_it_is_generated(http: httpx.Client, seed: Seed, store: Store) -> None:
    reader = Reader(http, "POST", f"/v1/videos/{seed().id}/questions", json={"question": "?"})
    wait_until(lambda: reader.names == ["question"])
    question_id = json.loads(reader.events[0][1])["id"]
    store.answers.send(begin(store, question_id), "a red")
    wait_until(lambda: reader.text == "a red")

    fence = begin(store, question_id)  # the reasoner died, another took over
    pieces = ("two\nlines", "\n", "  and\u2028a rest\u0085 ü")
    for piece in pieces:
        store.answers.send(fence, piece)
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


@pytest.mark.parametrize(
    ("sent", "end"),
    [([], ["text"]), (["re"], ["text"]), (["red"], []), (["blue"], ["restart", "text"]), (["red and more"], None)],
)
def test_a_stream_carries_the_whole_text_whatever_pieces_were_lost(
    http: httpx.Client, store: Store, asked: Question, sent: list[str], end: list[str] | None
) -> None:
    reader = Reader(http, "GET", f"/v1/questions/{asked.id}")
    fence = begin(store, asked.id)
    for piece in sent:
        store.answers.send(fence, piece)
    wait_until(lambda: reader.text == "".join(sent))
    settle(store, asked.id, "red")
    assert reader.finish()["answer"]["text"] == reader.text == "red"
    assert reader.names[1 + len(sent) : -1] == (["restart", "text"] if end is None else end)


def test_pieces_that_come_between_the_last_read_and_the_end_are_sent(
    http: httpx.Client, store: Store, asked: Question
) -> None:
    for round_ in range(5):
        question = store.read_question(asked.id)
        reader = Reader(http, "GET", f"/v1/questions/{asked.id}")
        wait_until(lambda: reader.names)  # noqa: B023 - waited for within the round
        fence = begin(store, asked.id)
        for piece in "red":
            store.answers.send(fence, piece)
        settle(store, asked.id, "red")
        assert (reader.finish()["status"], reader.text) == ("done", "red"), round_
        store.state.delete(f"lw:pieces:{asked.id}")  # as if it had just been asked
        store.cache.redis.flushall()
        store.archive.write_question(question)


def test_a_stream_ends_even_if_redis_lost_its_pieces(http: httpx.Client, store: Store, asked: Question) -> None:
    reader = Reader(http, "GET", f"/v1/questions/{asked.id}")
    wait_until(lambda: reader.names == ["question"])
    settle(store, asked.id, "red")
    store.state.flushall()
    assert reader.finish()["answer"]["text"] == reader.text == "red"


def test_a_failure_ends_the_stream_with_its_problem(http: httpx.Client, store: Store, asked: Question) -> None:
    reader = Reader(http, "GET", f"/v1/questions/{asked.id}")
    wait_until(lambda: reader.names == ["question"])
    problem = Problem(code="context-full", message="too long:\x1b[2J 900 frames would fit")
    store.settle_question(asked.model_copy(update={"status": "failed", "problem": problem}))
    assert reader.finish()["problem"] == {"code": "context-full", "message": r"too long:\x1b[2J 900 frames would fit"}
    assert reader.names[-1] == "error"


def test_a_stream_says_what_its_question_waits_for_until_it_is_queued(
    http: httpx.Client, seed: Seed, store: Store, intake: Intake
) -> None:
    video = seed(frames=192, encoded=0)
    reader = Reader(http, "POST", f"/v1/videos/{video.id}/questions", json={"question": "?"})
    for segment in range(3):
        wait_until(lambda: reader.names)
        encode(store, video, segment, 64)
        if segment < 2:
            wait_until(lambda: len(reader.names) > segment + 1)  # noqa: B023 - waited for within the round
    (question_id,) = store.index.list_questions(video.id, None, 10)
    store.set_question_state(question_id, "queued")
    settle(store, question_id, "red")
    reader.finish()
    assert reader.names == ["question", "waiting", "waiting", "text", "answer"]
    waited = [view["waiting"]["frames_encoded"] for view in (*reader.data_of("question"), *reader.data_of("waiting"))]
    assert waited == [0, 64, 128]


def test_deleting_the_video_ends_the_streams_about_it(http: httpx.Client, seed: Seed) -> None:
    video = seed(frames=10, encoded=0)
    progress = Reader(http, "GET", f"/v1/videos/{video.id}/events")
    answer = Reader(http, "POST", f"/v1/videos/{video.id}/questions", json={"question": "?"})
    wait_until(lambda: progress.names == ["progress"] and answer.names == ["question"])
    assert http.delete(f"/v1/videos/{video.id}").status_code == 204
    for reader in (progress, answer):
        assert reader.finish()["type"] == "urn:longwatch:problem:not-found"
        assert reader.names[-1] == "problem"


def test_progress_is_streamed_until_all_is_encoded(http: httpx.Client, seed: Seed, store: Store) -> None:
    video = seed(frames=74, encoded=0)
    reader = Reader(http, "GET", f"/v1/videos/{video.id}/events")
    for segment, frames in enumerate((64, 10)):
        wait_until(lambda: len(reader.events) > segment)  # noqa: B023 - waited for within the round
        encode(store, video, segment, frames)
    assert reader.finish()["progress"]["complete"]
    assert [json.loads(data)["progress"]["frames_encoded"] for _, data in reader.events] == [0, 64, 74]
    assert set(reader.names) == {"progress"}


def test_progress_also_ends_if_segments_failed(http: httpx.Client, seed: Seed, store: Store) -> None:
    video = seed(frames=1300, encoded=64)
    reader = Reader(http, "GET", f"/v1/videos/{video.id}/events")
    wait_until(lambda: reader.events)
    for segment in range(1, 21):
        store.coverage.mark_failed(video.id, segment, (1 << min(64, 1300 - segment * 64)) - 1, MODEL, "no memory")
    progress = reader.finish()["progress"]
    assert (progress["complete"], progress["frames_encoded"], progress["frames_failed"]) == (True, 64, 1236)


def test_progress_is_shown_without_the_archive(http: httpx.Client, seed: Seed, store: Store) -> None:
    video = seed(frames=10, encoded=0, status="sampling", frames_sampled=None)
    aside = store.archive.files.local_path("")
    assert aside is not None
    away = aside.rename(aside.with_name("away"))
    try:
        assert http.get(f"/v1/videos/{video.id}").json()["progress"]["frames_sampled"] == 10
        (listed,) = http.get("/v1/videos").json()["videos"]
        assert listed["progress"]["frames_sampled"] == 10
    finally:
        away.rename(aside)


def test_a_client_that_disconnects_leaves_no_work_behind(
    http: httpx.Client, seed: Seed, store: Store, intake: Intake
) -> None:
    video = seed(frames=10, encoded=0)
    question = intake.add_question(new_question(video))
    for path in (f"/v1/videos/{video.id}/events", f"/v1/questions/{question.id}"):
        with http.stream("GET", path, headers=STREAM) as response:
            next(response.iter_text())
    # A stream that still ran would keep asking Redis; Redis' statistics show that none does.
    wait_until(lambda: _is_silent(store))


def _is_silent(store: Store) -> bool:
    def looks() -> list[object]:
        statistics = store.state.info("commandstats")
        return [statistics.get(f"cmdstat_{command}", {}).get("calls") for command in ("get", "hgetall", "xread")]

    before = looks()
    threading.Event().wait(0.3)  # six intervals of progress
    return before == looks() and not store.state.info("clients")["blocked_clients"]


def test_streams_do_not_keep_other_requests_waiting(http: httpx.Client, store: Store, asked: Question) -> None:
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=http.base_url, timeout=30, trust_env=False, limits=limits) as crowd:
        readers = [Reader(crowd, "GET", f"/v1/questions/{asked.id}") for _ in range(60)]  # threads for routes: 40
        wait_until(lambda: store.state.info("clients")["blocked_clients"] == len(readers))
        assert http.get(f"/v1/questions/{asked.id}").status_code == 200
        settle(store, asked.id, "red")
        assert {reader.finish()["answer"]["text"] for reader in readers} == {"red"}
