"""A worker that dies between taking a job and beginning it leaves nothing in Redis."""

from configs.settings import JobSettings
from jobs.queues import Queues
from jobs.reconciler import Reconciler
from storage.ids import new_video_id
from storage.store import Store
from tests.storage.making import add_encoded, make_question

QUEUE, ON_ITS_WAY = "rq:queue:answer", "rq:queue:answer:intermediate"


def take(store: Store, question_id: str) -> bytes:
    """Queues an answer job and takes it as a worker does; returns its id."""
    assert Queues(store.state).enqueue_answer(question_id)
    job_id = store.state.lmove(QUEUE, ON_ITS_WAY, "LEFT", "RIGHT")
    assert isinstance(job_id, bytes)
    return job_id


def test_a_job_that_was_taken_and_never_begun_is_dropped(store: Store) -> None:
    job_id = take(store, f"{new_video_id()}_{new_video_id()}")
    reconciler = Reconciler(store, JobSettings())
    reconciler.run_once()
    assert store.state.lrange(ON_ITS_WAY, 0, -1) == [job_id]  # its worker may be about to begin it

    reconciler.run_once()
    assert not store.state.keys("rq:*")


def test_a_question_whose_job_was_taken_and_never_begun_is_queued_again_at_the_next_look(store: Store) -> None:
    """It once waited for `recheck_after_s`."""
    reconciler = Reconciler(store, JobSettings())
    reconciler.run_once()
    video = add_encoded(store, 10)
    question = make_question(video)
    store.add_question(question)
    reconciler.inspector.inspect_question(question.id)
    job_id = store.state.lmove(QUEUE, ON_ITS_WAY, "LEFT", "RIGHT")
    assert job_id is not None
    reconciler.run_once()
    reconciler.run_once()
    assert store.state.lrange(QUEUE, 0, -1) == [job_id]


def test_a_job_that_was_queued_again_meanwhile_stays(store: Store) -> None:
    question_id = f"{new_video_id()}_{new_video_id()}"
    job_id = take(store, question_id)
    queues = Queues(store.state)
    queues.drop_lost()
    assert queues.enqueue_answer(question_id)

    queues.drop_lost()
    assert store.state.lrange(QUEUE, 0, -1) == [job_id]
    assert store.state.exists(b"rq:job:" + job_id)
    assert not store.state.exists(ON_ITS_WAY)


def test_a_job_that_was_queued_again_is_whole_when_its_dead_worker_is_found(store: Store) -> None:
    job_id = take(store, question_id := f"{new_video_id()}_{new_video_id()}").decode()
    store.state.zadd("rq:wip:answer", {f"{job_id}:execution": 1})  # its worker began it and fell silent
    queues = Queues(store.state)
    assert queues.enqueue_answer(question_id)

    assert queues.take_dead() == [job_id]
    assert store.state.exists(f"rq:job:{job_id}")
