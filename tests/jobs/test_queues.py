"""Queues hold each job at most once, and none is lost on its way to a worker."""

import threading
import time

from configs.settings import Settings
from jobs.names import (
    ANSWER,
    ENCODE,
    FUSE,
    INGEST,
    QUEUES,
    answer_job_id,
    encode_job_id,
    find_target,
    fuse_job_id,
    ingest_job_id,
)
from jobs.queues import Queues, encode_call, fetch_call, ingest_call
from jobs.reconciler import Reconciler
from storage.ids import new_question_id, new_video_id
from storage.store import Store
from tests.storage.making import add_encoded, make_video
from tests.working import count_waiting

VIDEO_ID = new_video_id()
QUESTION_ID = new_question_id(VIDEO_ID)
REQUESTS = [([1, 2], 0, [(0, 5)])]


def test_a_job_is_queued_once(store: Store) -> None:
    queues = Queues(store.state)
    for expected in (True, False, False):
        queues.ensure([fetch_call(VIDEO_ID)])
        queues.ensure([ingest_call(VIDEO_ID)])
        queues.ensure([encode_call(VIDEO_ID, 0), encode_call(VIDEO_ID, 1)])
        queues.enqueue_fusions(VIDEO_ID, REQUESTS)
        assert queues.enqueue_answer(QUESTION_ID) is expected
    assert {name: count_waiting(store, name) for name in QUEUES} == {
        "fetch": 1,
        "ingest": 1,
        "encode": 2,
        "fuse": 1,
        "answer": 1,
        "watch": 0,
        "deliver": 0,
    }


def test_a_job_is_queued_once_if_many_processes_queue_it_at_the_same_moment(store: Store, settings: Settings) -> None:
    start = threading.Barrier(6)
    queued: list[bool] = []

    def ask() -> None:
        queues = Queues(Store.open(settings).state)
        for number in range(20):
            start.wait()
            queued.append(queues.enqueue_answer(f"{VIDEO_ID}_20261121-0000000{number:02d}-aaaaaa"))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queued.count(True) == 20
    assert count_waiting(store, ANSWER) == 20


def test_a_running_job_is_not_queued_again(store: Store) -> None:
    queues, job_id = Queues(store.state), encode_job_id(VIDEO_ID, 1)
    store.state.zadd("rq:wip:encode", {f"{job_id}:execution": time.time() + 60})
    queues.ensure([encode_call(VIDEO_ID, 1), encode_call(VIDEO_ID, 11)])
    assert queues.list_live(ENCODE, [job_id, encode_job_id(VIDEO_ID, 11), encode_job_id(VIDEO_ID, 2)]) == {
        job_id,
        encode_job_id(VIDEO_ID, 11),
    }
    assert count_waiting(store, ENCODE) == 1  # segment 11 is not segment 1


def test_a_job_whose_worker_is_silent_is_reported_once_and_can_be_queued_again(store: Store) -> None:
    queues, job_id = Queues(store.state), ingest_job_id(VIDEO_ID)
    store.state.zadd("rq:wip:ingest", {f"{job_id}:dead": time.time() - 1, "ingest-live:x": time.time() + 60})
    assert queues.take_dead() == [job_id]
    assert queues.take_dead() == []
    queues.ensure([ingest_call(VIDEO_ID)])
    assert queues.list_live(INGEST, [job_id]) == {job_id}


def test_a_job_lost_between_queue_and_worker_is_found_again(store: Store, settings: Settings) -> None:
    video = make_video(kind="path", location="/x")
    store.add_video(video)
    reconciler = Reconciler(store, settings.jobs)
    reconciler.run_once()
    assert store.state.lmove("rq:queue:ingest", "rq:queue:ingest:intermediate") is not None  # the worker dies here
    store.state.zadd("lw:due:videos", {video.id: 0})  # `recheck_after_s` later
    reconciler.run_once()
    assert count_waiting(store, INGEST) == 1


def test_a_withdrawn_job_is_gone_and_can_be_queued_again(store: Store) -> None:
    queues = Queues(store.state)
    for _ in range(2):
        queues.enqueue_fusions(VIDEO_ID, REQUESTS)
        assert queues.enqueue_answer(QUESTION_ID)
        queues.withdraw_fuse(VIDEO_ID, REQUESTS)
        queues.withdraw_answer(QUESTION_ID)
        assert not any(count_waiting(store, name) for name in QUEUES)
        assert store.state.keys("rq:job:*") == []
    queues.withdraw_answer(QUESTION_ID)  # twice is harmless


def test_ids_name_their_targets(store: Store) -> None:
    assert find_target(encode_job_id(VIDEO_ID, 7)).video_id == VIDEO_ID
    assert find_target(ingest_job_id(VIDEO_ID)).video_id == VIDEO_ID
    assert find_target(answer_job_id(QUESTION_ID)).question_id == QUESTION_ID
    for foreign in (fuse_job_id(VIDEO_ID, REQUESTS), "", "encode-x-1", f"encode-{VIDEO_ID}-1/../x", "junk"):
        assert find_target(foreign).video_id is None
        assert find_target(foreign).question_id is None


def test_one_videos_jobs_never_flood_a_queue(store: Store, settings: Settings) -> None:
    video = add_encoded(store, 64 * 30, encoded=0)
    reconciler = Reconciler(store, settings.jobs)
    for _ in range(3):
        reconciler.inspector.inspect_video(video.id)
    assert count_waiting(store, ENCODE) == settings.jobs.max_pending_segments
    assert count_waiting(store, FUSE) == 0


def test_a_job_that_is_queued_again_keeps_nothing_of_its_damaged_predecessor(store: Store) -> None:
    """A single malformed field would prevent RQ from ever reading the job."""
    key = f"rq:job:{ingest_job_id(VIDEO_ID)}"
    store.state.hset(key, mapping={"data": "x", "retries_left": "many", "success_callback_name": "os.abort"})
    assert Queues(store.state).ensure([ingest_call(VIDEO_ID)])
    assert store.state.hget(key, "retries_left") is None
    assert store.state.hget(key, "success_callback_name") == b""
