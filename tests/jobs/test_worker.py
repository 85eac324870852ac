"""Worker processes die, hang, stop and meet outages: every job ends, and only the guilty one fails."""

import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from redis import Redis

from configs.settings import Settings
from jobs.attempts import Attempts
from jobs.names import encode_job_id
from jobs.queues import Queues
from storage.documents import Video
from storage.store import Store
from tests.conftest import running_redis
from tests.jobs.conftest import Spawn, add_segments
from tests.storage.making import MODEL, list_keys
from tests.waiting import wait_until


def read_notes(notes: Path) -> list[str]:
    file = notes / "notes"
    return file.read_text().splitlines() if file.exists() else []


def has_notes(notes: Path, count: int) -> bool:
    return len(read_notes(notes)) >= count


def is_settled(store: Store, video: Video) -> bool:
    covered = store.read_coverage(video, range(64), MODEL)
    return bool(covered.sampled) and not covered.missing()


def read_failed(store: Store, video: Video) -> dict[int, str]:
    return store.read_coverage(video, range(64), MODEL).failed


@pytest.fixture
def supervised(spawn: Spawn) -> Iterator[None]:
    """A worker process that is restarted whenever it dies, as `longwatch up` does."""
    over = threading.Event()

    def supervise() -> None:
        while not over.is_set():
            process = spawn(3)
            while process.poll() is None and not over.wait(0.05):
                continue

    thread = threading.Thread(target=supervise)
    thread.start()
    yield
    over.set()
    thread.join()


def test_a_job_that_kills_its_worker_three_times_fails_and_no_other_job_does(
    store: Store, notes: Path, supervised: None
) -> None:
    """The process runs three jobs at once. The killer takes two others down with it, and neither may be blamed."""
    (notes / "company").touch()
    (notes / "kill-1").touch()
    for segment in (0, 2):
        (notes / f"hold-{segment}").touch()
    video = add_segments(store, 0, 1, 2)
    wait_until(lambda: read_notes(notes).count("begin 1") == 1)
    for segment in (0, 2):
        (notes / f"hold-{segment}").unlink()
    wait_until(lambda: is_settled(store, video), within_s=120)
    assert list(read_failed(store, video)) == [1]
    assert "died 3 times" in read_failed(store, video)[1]
    assert read_notes(notes).count("begin 1") == 3
    (progress,) = store.read_progress([video])
    assert progress is not None
    assert progress.complete
    assert (progress.frames_encoded, progress.frames_failed) == (128, 64)


def test_another_worker_does_the_job_of_a_killed_one(store: Store, notes: Path, spawn: Spawn) -> None:
    (notes / "hold-0").touch()
    first = spawn()
    video = add_segments(store, 0)
    wait_until(lambda: "begin 0" in read_notes(notes))
    first.kill()
    (notes / "hold-0").unlink()
    spawn()
    wait_until(lambda: is_settled(store, video))
    assert read_notes(notes) == ["begin 0", "begin 0", "end 0"]
    assert Attempts(store.state).count(encode_job_id(video.id, 0)) == 0


def test_a_failing_job_is_tried_three_times_and_then_settled_with_its_reason(
    store: Store, notes: Path, spawn: Spawn
) -> None:
    (notes / "fail-0").touch()
    spawn()
    video = add_segments(store, 0, 1)
    wait_until(lambda: is_settled(store, video))
    assert read_notes(notes).count("begin 0") == 3
    assert read_failed(store, video) == {0: "ValueError: these pictures are odd"}


def test_an_outage_is_not_counted_against_the_job_and_is_reported(
    store: Store, settings: Settings, notes: Path, spawn: Spawn
) -> None:
    (notes / "away-0").touch()
    quick = settings.jobs.model_copy(update={"surroundings_retry_after_s": 0.3})
    spawn(chosen=settings.model_copy(update={"jobs": quick}))
    video = add_segments(store, 0)
    wait_until(lambda: read_notes(notes).count("begin 0") > settings.jobs.max_attempts + 1)
    assert Attempts(store.state).count(encode_job_id(video.id, 0)) <= 1
    wait_until(lambda: "the archive is away" in str([worker.trouble for worker in store.workers.list_alive()]))
    (notes / "away-0").unlink()
    wait_until(lambda: is_settled(store, video))
    assert read_failed(store, video) == {}
    wait_until(lambda: [worker.trouble for worker in store.workers.list_alive()] == [None])


def test_hosts_whose_clocks_are_an_hour_apart_do_not_take_each_other_for_dead(
    store: Store, notes: Path, spawn: Spawn
) -> None:
    for segment in (0, 1):
        (notes / f"hold-{segment}").touch()
    spawn(clock_off_s=-3600)
    spawn(clock_off_s=3600)
    video = add_segments(store, 0, 1)
    wait_until(lambda: len(read_notes(notes)) == 2)
    threading.Event().wait(4)  # longer than a job may go without a heartbeat
    assert len(store.workers.list_alive()) == 2
    for segment in (0, 1):
        (notes / f"hold-{segment}").unlink()
    wait_until(lambda: is_settled(store, video))
    assert sorted(read_notes(notes)) == ["begin 0", "begin 1", "end 0", "end 1"]


def test_another_worker_does_the_job_of_a_frozen_one_that_wakes_later(store: Store, notes: Path, spawn: Spawn) -> None:
    (notes / "hold-0").touch()
    frozen = spawn()
    video = add_segments(store, 0, 1)
    wait_until(lambda: "begin 0" in read_notes(notes))
    frozen.send_signal(signal.SIGSTOP)
    (notes / "hold-0").unlink()
    spawn()
    wait_until(lambda: is_settled(store, video))
    assert read_failed(store, video) == {}
    frozen.send_signal(signal.SIGCONT)
    wait_until(lambda: read_notes(notes).count("end 0") == 2)  # late, and harmless
    wait_until(lambda: store.state.zcard("rq:wip:encode") == 0)
    more = add_segments(store, 0, 1, 2, 3)
    wait_until(lambda: is_settled(store, more))
    assert frozen.poll() is None
    assert no_job_is_left(store)


def test_a_worker_that_is_told_to_stop_gives_its_jobs_back_without_counting_an_attempt(
    store: Store, settings: Settings, notes: Path, spawn: Spawn
) -> None:
    once = settings.model_copy(update={"jobs": settings.jobs.model_copy(update={"max_attempts": 1})})
    for segment in range(3):
        (notes / f"hold-{segment}").touch()
    for _ in range(2):  # one more attempt than the limit here
        process = spawn(2, once)
        if not read_notes(notes):
            video = add_segments(store, 0, 1, 2)
        begun = len(read_notes(notes))
        wait_until(partial(has_notes, notes, begun + 2))
        process.terminate()
        assert process.wait(timeout=30) == 0
        attempts = Attempts(store.state)
        assert [attempts.count(encode_job_id(video.id, segment)) for segment in range(3)] == [0, 0, 0]
        assert store.workers.list_alive() == []
    for segment in range(3):
        (notes / f"hold-{segment}").unlink()
    spawn(1, once)
    wait_until(lambda: is_settled(store, video))
    assert read_failed(store, video) == {}


def test_a_flush_during_a_job_harms_neither_the_worker_nor_the_job(store: Store, notes: Path, spawn: Spawn) -> None:
    (notes / "hold-0").touch()
    process = spawn(2)
    video = add_segments(store, 0, 1)
    wait_until(lambda: "begin 0" in read_notes(notes) and "end 1" in read_notes(notes))
    store.state.flushall()
    (notes / "hold-0").unlink()
    wait_until(lambda: store.index.is_ready() and is_settled(store, video))
    more = add_segments(store, 0, 1)
    wait_until(lambda: is_settled(store, more))
    assert process.poll() is None
    assert no_job_is_left(store)


def test_job_threads_survive_a_redis_that_hangs(settings: Settings, notes: Path, spawn: Spawn) -> None:
    (notes / "hold-0").touch()
    with running_redis() as url, Redis.from_url(url) as redis:
        jobs = settings.jobs.model_copy(update={"worker_dead_after_s": 2})
        redis_settings = settings.redis.model_copy(update={"state_url": url})
        chosen = settings.model_copy(update={"jobs": jobs, "redis": redis_settings})
        store = Store.open(chosen)
        process = spawn(2, chosen)
        video = add_segments(store, 0)
        wait_until(lambda: "begin 0" in read_notes(notes))
        pid = int(redis.info("server")["process_id"])
        os.kill(pid, signal.SIGSTOP)
        threading.Event().wait(jobs.worker_dead_after_s + 2)
        os.kill(pid, signal.SIGCONT)
        (notes / "hold-0").unlink()
        wait_until(lambda: is_settled(store, video))
        assert read_failed(store, video) == {}
        more = add_segments(store, 0, 1)
        wait_until(lambda: is_settled(store, more))
        assert process.poll() is None
        assert Attempts(store.state).count(encode_job_id(video.id, 0)) == 0


def test_a_long_job_of_a_live_worker_is_not_given_away(
    store: Store, settings: Settings, notes: Path, spawn: Spawn
) -> None:
    (notes / "hold-0").touch()
    spawn()
    spawn()
    video = add_segments(store, 0)
    wait_until(lambda: "begin 0" in read_notes(notes))
    first = claimed_until(store)
    wait_until(lambda: claimed_until(store) > first + settings.jobs.worker_dead_after_s)  # beats extend the claim
    assert read_notes(notes) == ["begin 0"]
    (notes / "hold-0").unlink()
    wait_until(lambda: is_settled(store, video))


def claimed_until(store: Store) -> float:
    return max((score for _, score in store.state.zscan_iter("rq:wip:encode")), default=0.0)


def no_job_is_left(store: Store) -> bool:
    """Waits until the queue is empty; returns whether no job is stuck between queue and worker."""
    wait_until(lambda: not store.state.exists("rq:wip:encode", "rq:queue:encode", "rq:queue:encode:intermediate"))
    return list_keys(store.state, "rq:job:*") == [] and Queues(store.state).take_dead() == []
