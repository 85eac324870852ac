"""Jobs: allow-listed, at most once at a time, and never lost with their worker."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from configs.settings import Settings
from storage.errors import JobNotAllowed
from storage.ids import new_question_id
from storage.models import Question
from storage.queues import ANSWER, ENCODE, INGEST, encode_job_id
from storage.reconciler import Reconciler
from storage.store import Store
from storage.worker import run_worker
from tests.storage.test_archive import new_video
from tests.waiting import wait_until

Spawn = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def spawn(settings: Settings, tmp_path: Path) -> Iterator[Spawn]:
    """Starts worker processes that note what they do in `tmp_path`."""
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.storage.worker_process", settings.model_dump_json(), str(tmp_path)]
        with (tmp_path / f"log-{len(processes)}").open("wb") as log:
            processes.append(subprocess.Popen(command, stderr=log))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_a_killed_workers_job_is_done_by_another(spawn: Spawn, store: Store, tmp_path: Path) -> None:
    video = new_video()
    first = spawn()
    store.queues.encode(video.id, 0)
    wait_until((tmp_path / "0-0").exists)
    first.send_signal(signal.SIGKILL)
    (tmp_path / "go").touch()
    spawn()
    wait_until((tmp_path / "done-0").exists)
    assert (tmp_path / "0-1").exists()
    wait_until(lambda: not store.queues.is_live(ENCODE, encode_job_id(video.id, 0)))
    assert not (tmp_path / "0-2").exists()
    assert "Traceback" not in (tmp_path / "log-1").read_text()


def test_a_long_job_of_a_live_worker_is_not_given_away(
    spawn: Spawn, store: Store, settings: Settings, tmp_path: Path
) -> None:
    video = new_video()
    for _ in range(2):
        spawn()
    store.queues.encode(video.id, 0)
    wait_until((tmp_path / "0-0").exists)
    first = _claimed_until(store)
    wait_until(lambda: _claimed_until(store) > first + settings.queues.worker_dead_after_s)  # it lives past its claim
    assert store.queues.is_live(ENCODE, encode_job_id(video.id, 0))
    assert not (tmp_path / "0-1").exists()
    (tmp_path / "go").touch()
    wait_until((tmp_path / "done-0").exists)


def _claimed_until(store: Store) -> float:
    entries: Any = store.hot.redis.zrange(f"rq:wip:{ENCODE}", 0, -1, withscores=True)
    return float(entries[0][1]) if entries else 0.0


def test_a_failing_job_is_tried_again_after_a_while(spawn: Spawn, store: Store, tmp_path: Path) -> None:
    video = new_video()
    spawn()
    store.queues.encode(video.id, 1)
    wait_until((tmp_path / "done-1").exists)
    assert (tmp_path / "1-2").exists()


def test_a_flush_in_the_middle_of_a_job_harms_neither_worker_nor_work(
    spawn: Spawn, store: Store, tmp_path: Path
) -> None:
    video = new_video(status="ready")
    store.archive.put_video(video)
    process = spawn()
    store.queues.encode(video.id, 0)
    wait_until((tmp_path / "0-0").exists)
    store.hot.redis.flushall()
    (tmp_path / "go").touch()
    wait_until((tmp_path / "done-0").exists)
    store.queues.encode(video.id, 2)
    wait_until((tmp_path / "done-2").exists)
    assert process.poll() is None


def test_what_redis_names_is_never_imported(spawn: Spawn, store: Store, settings: Settings, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    with Redis.from_url(settings.redis_url) as redis:
        queue = Queue(ENCODE, connection=redis, serializer=JSONSerializer)
        job = queue.enqueue_call("os.rmdir", args=(str(victim),), failure_ttl=60)
        good = queue.enqueue_call("encode_segment", args=("x", 3))
        redis.hset(good.key, "success_callback_name", "os.getpid")
        spawn()
        wait_until((tmp_path / "done-3").exists)
        wait_until(lambda: job.get_status(refresh=True) == "failed")
        result = job.latest_result()
        assert result is not None
        assert "this worker runs encode_segment only" in str(result.exc_string)
    assert victim.exists()


def test_a_worker_is_given_known_jobs_only(settings: Settings, store: Store) -> None:
    with pytest.raises(JobNotAllowed, match="nonsense"):
        run_worker(settings, store, {"nonsense": print})


def test_a_job_is_queued_once(store: Store) -> None:
    video = new_video()
    for _ in range(3):
        store.queues.ingest(video.id)
        store.queues.fuse(video.id, 0, [([1, 2], 2**64 - 1)])
    assert store.queues.depths() == {"ingest": 1, "encode": 0, "fuse": 1, "answer": 0}


def test_the_reconciler_enqueues_all_that_is_missing_after_a_flush(store: Store, settings: Settings) -> None:
    half, whole = new_video(status="sampling"), new_video(status="ready")
    for video in (half, whole):
        store.archive.put_video(video)
        store.archive.put_frames(video.id, 0, [b"jpg"] * 10, [k + 0.5 for k in range(10)])
    open_question, settled = (
        Question(id=new_question_id(whole.id), video_id=whole.id, text="?", fusion="exact", status=status)
        for status in ("running", "done")
    )
    for question in (open_question, settled):
        store.archive.put_question(question)
    Reconciler(store, settings.queues).run_once()
    assert store.queues.is_live(INGEST, f"ingest-{half.id}")
    assert not store.queues.is_live(INGEST, f"ingest-{whole.id}")
    assert store.queues.is_live(ENCODE, encode_job_id(whole.id, 0))
    assert not store.queues.is_live(ENCODE, encode_job_id(half.id, 0))  # it is still growing
    assert store.queues.is_live(ANSWER, f"answer-{open_question.id}")
    assert not store.queues.is_live(ANSWER, f"answer-{settled.id}")
    assert settled.id not in store.hot.unfinished()


def test_one_videos_jobs_never_flood_the_queue(store: Store, settings: Settings) -> None:
    video = new_video(status="ready")
    store.add_video(video)
    for segment in range(20):
        store.put_frames(video.id, segment * 64, [b"jpg"] * 64, [segment * 64 + k + 0.5 for k in range(64)])
    for _ in range(3):
        Reconciler(store, settings.queues).video(video.id)
    assert store.queues.depths()[ENCODE] == settings.queues.max_pending_segments
    store.delete_video(video.id)
    assert store.queues.depths() == {"ingest": 0, "encode": 0, "fuse": 0, "answer": 0}
