"""A job is counted when it begins, runs alone if it is suspect, and is settled in the end."""

import json
import threading
import time
from collections.abc import Callable

import pytest
from redis import Redis

from configs.settings import JobSettings, Settings
from jobs.attempts import Attempts
from jobs.company import Company
from jobs.names import answer_job_id, encode_job_id, fetch_job_id, ingest_job_id
from jobs.runner import Handler, Runner, note_progress
from storage import agenda as due
from storage.errors import ArchiveUnavailable, GivenAway, JobNotAllowed, RedisUnavailable
from storage.ids import new_question_id, new_video_id
from storage.store import Store
from tests.waiting import wait_until

VIDEO_ID = new_video_id()
JOB_ID = encode_job_id(VIDEO_ID, 0)


class Scene:
    """A runner whose one job does what a test says."""

    def __init__(self, store: Store, settings: JobSettings, work: Callable[[], None], **values: bool) -> None:
        self.given_up: list[str] = []
        self.ran = 0
        self._work = work
        handler = Handler(self._run, lambda reason, *_: self.given_up.append(reason), **values)
        self.runner = Runner(store, settings, {"encode_segment": handler, "fetch_video": handler})
        self.attempts = Attempts(store.state)
        self.store = store

    def _run(self, *_: object) -> None:
        self.ran += 1
        self._work()

    def run(self, job_id: str = JOB_ID) -> None:
        self.runner.run(job_id, json.dumps(["encode_segment", None, [VIDEO_ID, 0], {}]).encode())

    def due_in_s(self) -> float:
        score = self.store.state.zscore(due.VIDEOS, VIDEO_ID)
        seconds, micros = self.store.state.time()
        assert score is not None
        return float(score) - seconds - micros / 1e6


def fail(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_an_attempt_is_counted_before_it_begins_and_cleared_when_it_returns(store: Store, settings: Settings) -> None:
    counts: list[int] = []
    scene = Scene(store, settings.jobs, lambda: counts.append(Attempts(store.state).count(JOB_ID)))
    scene.run()
    assert counts == [1]
    assert scene.attempts.count(JOB_ID) == 0


def test_a_job_that_fails_again_and_again_is_given_up_with_its_message(store: Store, settings: Settings) -> None:
    scene = Scene(store, settings.jobs, fail(ValueError("odd pictures")))
    for _ in range(settings.jobs.max_attempts):
        assert scene.given_up == []
        scene.run()
    assert scene.ran == settings.jobs.max_attempts
    assert scene.given_up == ["ValueError: odd pictures"]
    assert scene.attempts.count(JOB_ID) == 0  # a retry starts from zero


def test_a_failed_job_pauses_longer_each_time(store: Store, settings: Settings) -> None:
    jobs = settings.jobs.model_copy(update={"retry_after_s": (100, 200), "max_attempts": 9})
    scene = Scene(store, jobs, fail(ValueError()))
    for expected in (100, 200, 200):
        store.state.delete(due.VIDEOS)
        scene.run()
        assert expected - 5 < scene.due_in_s() <= expected + 1


def test_a_job_that_killed_its_workers_is_given_up_without_another_try(store: Store, settings: Settings) -> None:
    scene = Scene(store, settings.jobs, lambda: None)
    for _ in range(settings.jobs.max_attempts):
        scene.attempts.begin(JOB_ID)
    scene.run()
    assert scene.ran == 0
    assert scene.given_up == ["its worker died 3 times while working on it"]


def test_a_job_that_cannot_kill_a_worker_gets_more_attempts(store: Store, settings: Settings) -> None:
    scene = Scene(store, settings.jobs, lambda: None, alone_if_suspect=False)
    for _ in range(settings.jobs.max_fetch_attempts - 1):
        scene.attempts.begin(JOB_ID)
    scene.run()
    assert scene.ran == 1


@pytest.mark.parametrize("error", [ArchiveUnavailable("away"), RedisUnavailable("away")])
def test_a_fault_of_the_surroundings_is_not_counted(store: Store, settings: Settings, error: Exception) -> None:
    scene = Scene(store, settings.jobs, fail(error))
    for _ in range(3 * settings.jobs.max_attempts):
        scene.run()
        assert scene.attempts.count(JOB_ID) == 0
    assert scene.given_up == []
    assert (scene.runner.trouble or "").startswith("away (since ")
    assert settings.jobs.surroundings_retry_after_s - 5 < scene.due_in_s() <= settings.jobs.surroundings_retry_after_s


def test_a_fault_of_the_surroundings_that_does_not_recur_is_no_longer_reported(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(store, settings.jobs, fail(ArchiveUnavailable("away")))
    scene.run()
    now, reported_s = time.monotonic, 3 * settings.jobs.surroundings_retry_after_s
    monkeypatch.setattr(time, "monotonic", lambda: now() + reported_s / 2)
    assert (scene.runner.trouble or "").startswith("away (since ")
    monkeypatch.setattr(time, "monotonic", lambda: now() + reported_s)
    assert scene.runner.trouble is None


def test_an_attempt_that_ends_while_redis_is_away_is_forgiven_later(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(store, settings.jobs, fail(RedisUnavailable("away")))
    with monkeypatch.context() as patched:
        patched.setattr(Attempts, "forgive", fail_always)
        with pytest.raises(RedisUnavailable):
            scene.run()
    assert scene.attempts.count(JOB_ID) == 1
    scene.runner.settle_forgiven()
    assert scene.attempts.count(JOB_ID) == 0


def fail_always(*_: object) -> None:
    raise RedisUnavailable("away")


@pytest.mark.parametrize("away", [True, False])
def test_a_job_given_away_counts_unless_redis_was_away(store: Store, settings: Settings, away: bool) -> None:
    scene = Scene(store, settings.jobs, lambda: None)

    def work() -> None:
        if away:
            scene.runner.note_redis_away()
        raise GivenAway("another attempt has taken over")

    scene._work = work
    scene.run()
    assert scene.attempts.count(JOB_ID) == (0 if away else 1)


def test_giving_up_waits_for_the_surroundings_too(store: Store, settings: Settings) -> None:
    broken = [True]

    def give_up(reason: str, *_: object) -> None:
        if broken:
            raise ArchiveUnavailable("read-only")
        settled.append(reason)

    settled: list[str] = []
    runner = Runner(store, settings.jobs, {"encode_segment": Handler(fail(ValueError("odd")), give_up)})
    data = json.dumps(["encode_segment", None, [VIDEO_ID, 0], {}]).encode()
    for _ in range(5):
        runner.run(JOB_ID, data)
    assert settled == []
    broken.clear()
    runner.run(JOB_ID, data)
    assert len(settled) == 1
    assert Attempts(store.state).count(JOB_ID) == 0


def test_a_suspect_runs_alone_and_nobody_joins_it(store: Store, settings: Settings) -> None:
    go = {name: threading.Event() for name in ("first", "suspect", "third")}
    running: list[str] = []
    most: list[list[str]] = []

    def work(video_id: str, _: int) -> None:
        running.append(video_id)
        most.append(list(running))
        go[video_id].wait(30)
        running.remove(video_id)

    runner = Runner(store, settings.jobs, {"encode_segment": Handler(work, lambda *_: None)})
    suspect_id = encode_job_id(VIDEO_ID, 1)
    Attempts(store.state).begin(suspect_id)

    def run(name: str, job_id: str) -> threading.Thread:
        data = json.dumps(["encode_segment", None, [name, 0], {}]).encode()
        thread = threading.Thread(target=runner.run, args=(job_id, data))
        thread.start()
        return thread

    threads = [run("first", JOB_ID)]
    wait_until(lambda: running == ["first"])
    threads.append(run("suspect", suspect_id))
    wait_until(lambda: runner._company._alone_wanted == 1)
    threads.append(run("third", encode_job_id(VIDEO_ID, 2)))
    threading.Event().wait(0.2)
    assert running == ["first"]  # the suspect waits to be alone; the third does not overtake it
    assert Attempts(store.state).count(encode_job_id(VIDEO_ID, 2)) == 0  # a waiting job is not counted
    go["first"].set()
    wait_until(lambda: running == ["suspect"])
    go["suspect"].set()
    wait_until(lambda: running == ["third"])
    go["third"].set()
    for thread in threads:
        thread.join()
    assert all(together == [together[0]] for together in most)


def test_a_suspect_that_cannot_be_alone_is_put_back_uncounted(store: Store, settings: Settings) -> None:
    jobs = settings.jobs.model_copy(update={"exclusive_wait_s": 0.1})
    held, started = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        held.wait(30)

    scene = Scene(store, jobs, work)
    other = threading.Thread(target=scene.run, args=(encode_job_id(VIDEO_ID, 1),))
    other.start()
    started.wait(30)
    scene.attempts.begin(JOB_ID)
    scene.run()
    assert scene.ran == 1
    assert scene.attempts.count(JOB_ID) == 1
    assert scene.due_in_s() < 1
    held.set()
    other.join()
    scene.run()
    assert scene.ran == 2


def test_a_suspect_that_makes_progress_is_no_longer_alone_and_its_past_is_forgiven(
    store: Store, settings: Settings
) -> None:
    go, running = threading.Event(), list[str]()

    def work(video_id: str, _: int) -> None:
        running.append(video_id)
        if video_id == "suspect":
            note_progress()
        assert go.wait(30)

    runner = Runner(store, settings.jobs, {"encode_segment": Handler(work, lambda *_: None)})
    Attempts(store.state).begin(JOB_ID)
    Attempts(store.state).begin(JOB_ID)
    threads = []
    for name, job_id in (("suspect", JOB_ID), ("other", encode_job_id(VIDEO_ID, 1))):
        data = json.dumps(["encode_segment", None, [name, 0], {}]).encode()
        threads.append(threading.Thread(target=runner.run, args=(job_id, data)))
        threads[-1].start()
        wait_until(lambda: name in running)  # noqa: B023 - called at once
    assert Attempts(store.state).count(JOB_ID) == 1
    go.set()
    for thread in threads:
        thread.join()


def test_downloads_neither_wait_for_a_suspect_nor_keep_it_waiting(store: Store, settings: Settings) -> None:
    go, running = threading.Event(), list[str]()

    def work(name: str) -> Callable[..., None]:
        def run(*_: object) -> None:
            running.append(name)
            assert go.wait(30)

        return run

    handlers = {
        "encode_segment": Handler(work("suspect"), lambda *_: None),
        "fetch_video": Handler(work("download"), lambda *_: None, alone_if_suspect=False),
    }
    runner = Runner(store, settings.jobs, handlers)
    Attempts(store.state).begin(JOB_ID)
    jobs = [("fetch_video", fetch_job_id(VIDEO_ID), [VIDEO_ID]), ("encode_segment", JOB_ID, [VIDEO_ID, 0])]
    threads = []
    for name, job_id, args in [*jobs, ("fetch_video", fetch_job_id(new_video_id()), [VIDEO_ID])]:
        data = json.dumps([name, None, args, {}]).encode()
        threads.append(threading.Thread(target=runner.run, args=(job_id, data)))
        threads[-1].start()
        wait_until(lambda: len(running) == len(threads))
    assert running == ["download", "suspect", "download"]
    go.set()
    for thread in threads:
        thread.join()


def test_company_admits_many_jobs_or_one_alone() -> None:
    company = Company()
    with company.join(alone=False, wait_s=0) as one, company.join(alone=False, wait_s=0) as two:
        assert one
        assert two
        with company.join(alone=True, wait_s=0.05) as alone:
            assert not alone
    with company.join(alone=True, wait_s=0.05) as alone:
        assert alone
        with company.join(alone=True, wait_s=0.05) as other:
            assert not other
        company.admit_others(alone)
        with company.join(alone=False, wait_s=0) as beside:
            assert beside
            with company.join(alone=True, wait_s=0.05) as other:
                assert not other
    with company.join(alone=True, wait_s=0.05) as after:
        assert after


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1, 2]", b'["os.rmdir", null, ["/x"], {}]', b"\x80\x04\x95", b"[" * 99_999]
)
def test_data_that_is_not_a_known_job_is_dropped(store: Store, settings: Settings, data: bytes) -> None:
    scene = Scene(store, settings.jobs, lambda: None)
    scene.runner.run(JOB_ID, data)
    assert scene.ran == 0
    assert store.state.keys("lw:attempts:*") == []


def test_a_worker_may_bind_only_known_job_names(store: Store, settings: Settings) -> None:
    with pytest.raises(JobNotAllowed, match="nonsense"):
        Runner(store, settings.jobs, {"nonsense": Handler(print, print)})


@pytest.mark.parametrize("junk", ["", "many", "-4", "1.5", "nan", "1e30", b"\xff"])
def test_a_damaged_count_starts_from_zero(store: Store, junk: str | bytes) -> None:
    attempts = Attempts(store.state)
    store.state.set("lw:attempts:job", junk)
    assert attempts.count("job") == 0
    assert attempts.begin("job") == 1
    store.state.delete("lw:attempts:job")
    store.state.rpush("lw:attempts:job", "a list")
    assert [attempts.begin("job"), attempts.begin("job")] == [1, 2]
    attempts.forgive("job")
    assert attempts.count("job") == 1
    attempts.forgive("job")
    attempts.forgive("job")
    assert attempts.count("job") == 0
    assert attempts.begin("job") == 1


def test_a_job_given_back_is_due_at_once(store: Store, settings: Settings) -> None:
    scene = Scene(store, settings.jobs, lambda: None)
    question_id = new_question_id(VIDEO_ID)
    scene.runner.give_back(answer_job_id(question_id))
    scene.runner.give_back(ingest_job_id(VIDEO_ID))
    assert store.agenda.list_due(due.QUESTIONS, 5) == [question_id]
    assert store.agenda.list_due(due.VIDEOS, 5) == [VIDEO_ID]


def test_concurrent_attempts_are_all_counted(store: Store, settings: Settings) -> None:
    def begin() -> None:
        with Redis.from_url(settings.state_url) as redis:
            for _ in range(50):
                Attempts(redis).begin("job")

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Attempts(store.state).count("job") == 200
