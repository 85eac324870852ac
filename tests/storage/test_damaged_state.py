"""Redis is not trusted: junk under any key is reported and rebuilt, and stops no other work."""

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest

from configs.settings import Settings
from jobs.intake import Intake
from jobs.names import ENCODE, QUEUES, encode_job_id
from jobs.reconciler import Reconciler
from storage import agenda as due
from storage.connection import as_text
from storage.deletion import delete_video
from storage.documents import Question, Video
from storage.errors import StateRebuilding
from storage.store import Store
from storage.workers import Worker
from tests.storage.making import MODEL, add_encoded, list_keys, make_due, make_question, make_video

WORKER = Worker("encode-here-1", "encode", "here", 1, ("encode",), MODEL)


def spoil(store: Store, key: str, how: str) -> None:
    """Puts something under a key that Longwatch would never write."""
    kind = store.state.type(key)
    if how == "type" or kind in (b"hash", b"string"):
        store.state.delete(key)
    if how == "type" and kind != b"list":
        store.state.rpush(key, "junk")
    elif how == "type":
        store.state.set(key, "junk")
    elif kind == b"hash":
        store.state.hset(key, mapping={b"\xffjunk": b"\xff", "sampled": "many", "counted": "yes", "0": "none"})
    elif kind == b"zset":
        store.state.zadd(key, {b"\xffjunk": 0, b"junk": 0, b"0:junk": 0, b"20261121-000000000-zzzzzz": 1})
    elif kind == b"set":
        store.state.sadd(key, b"\xffjunk", "junk")
    elif kind == b"list":
        store.state.rpush(key, b"\xffjunk", "junk")
    else:
        store.state.set(key, b"\xffjunk" * 40)


def beat(store: Store, reconciler: Reconciler) -> None:
    """Does what a worker does between passes, and makes everything due."""
    store.workers.announce(WORKER, 60)
    if store.workers.read_model() != MODEL:
        reconciler.adopt_model(MODEL)
    for agenda in (due.VIDEOS, due.QUESTIONS):
        if store.state.type(agenda) == b"zset":
            make_due(store, agenda)


class StopAfter(threading.Event):
    """Stops `run_forever` after so many passes. Calls `between` after each one instead of waiting."""

    def __init__(self, passes: int, between: Callable[[], None]) -> None:
        super().__init__()
        self._left = passes
        self._between = between

    def wait(self, timeout: float | None = None) -> bool:
        self._left -= 1
        self._between()
        return self._left < 0


@pytest.fixture
def scene(store: Store, settings: Settings) -> tuple[Video, Video, Question]:
    """A half encoded video, its duplicate and a waiting question: every kind of key exists."""
    reconciler = Reconciler(store, settings.jobs)
    store.workers.announce(WORKER, 60)
    reconciler.adopt_model(MODEL)
    reconciler.run_once()
    video = add_encoded(store, 200, encoded=2, sha256="ab")
    store.claim_content(video)
    store.coverage.mark_failed(video.id, 2, 1, MODEL, "reason")
    copy = make_video(status="duplicate", duplicate_of=video.id)
    store.add_video(copy)
    question = make_question(video)
    Intake(store, settings).add_question(question)
    reconciler.run_once()
    assert store.read_question(question.id).status == "waiting"
    return video, copy, question


@pytest.mark.parametrize("how", ["type", "content"])
def test_junk_under_any_key_is_repaired(
    store: Store, settings: Settings, scene: tuple[Video, Video, Question], how: str
) -> None:
    video, copy, question = scene
    keys = [key for key in list_keys(store.state, "lw:*") if not key.startswith("lw:lock:")]
    assert len({key.split(":")[1] for key in keys}) > 10
    for key in keys:
        if how == "content" and key.startswith(("lw:sampled:", "lw:encoded:")):
            continue  # any bytes are valid bits: a marked segment that does not exist is found missing when it is read
        spoil(store, key, how)
        reconciler = Reconciler(store, settings.jobs)
        with suppress(StateRebuilding):  # a reader is told to come again
            store.read_progress([video, copy])
            store.index.list_questions(video.id, None, 10)
            store.index.list_duplicates(video.id)
        reconciler.run_forever(StopAfter(6, partial(beat, store, reconciler)))
        assert reconciler_works(store, settings), key
        assert store.index.is_ready(), key
        assert [one.id for one in store.read_videos([video.id, copy.id])] == [video.id, copy.id], key
        assert {video.id, copy.id} <= set(store.index.list_videos(None, 10)), key
        covered = store.read_coverage(video, range(4), MODEL)
        assert (len(covered.sampled), sorted(covered.encoded)) == (4, [0, 1]), key
        (progress, _) = store.read_progress([video, copy])
        assert progress is not None, key
        assert (progress.frames_sampled, progress.frames_encoded) == (200, 128), key
        listed = store.read_questions(store.index.list_questions(video.id, None, 10))
        assert [one.id for one in listed] == [question.id], key
        assert store.read_question(question.id).status == "waiting", key
        assert store.state.zscore(due.QUESTIONS, question.id) is not None, key
        assert store.claim_content(make_video(sha256="ab")) in (video.id, None), key
        store.state.delete("lw:content:" + (video.content_key or ""))
        store.claim_content(video)


def reconciler_works(store: Store, settings: Settings) -> bool:
    """Whether a pass queues a new video."""
    video = make_video()
    store.add_video(video)
    Reconciler(store, settings.jobs).run_once()
    queued = f"fetch-{video.id}" in map(as_text, store.state.lrange("rq:queue:fetch", 0, -1))
    delete_video(store, video.id)
    return queued


@pytest.mark.parametrize("how", ["type", "content"])
@pytest.mark.parametrize("queue", QUEUES)
def test_a_queue_of_junk_is_emptied_and_filled_again(store: Store, settings: Settings, queue: str, how: str) -> None:
    store.workers.announce(WORKER, 60)
    store.index.set_ready(store.index.read_generation())
    for key in (f"rq:queue:{queue}", f"rq:wip:{queue}"):
        store.state.delete(key)
        if how == "type":
            store.state.set(key, "junk")
        elif "wip" in key:
            store.state.zadd(key, {b"\xffjunk:1": 0, b"junk": 0, b"a:b:c": 0})
        else:
            store.state.rpush(key, b"\xffjunk", "junk")
    reconciler = Reconciler(store, settings.jobs)
    reconciler.run_forever(StopAfter(4, partial(beat, store, reconciler)))
    assert reconciler_works(store, settings)
    assert reconciler.inspector.queues.take_dead() == []


def test_a_finished_video_whose_failed_segment_is_forgotten_is_finished_again(store: Store, settings: Settings) -> None:
    video = add_encoded(store, 70, encoded=1)
    reconciler = Reconciler(store, settings.jobs)
    store.index.set_ready(store.index.read_generation())
    store.coverage.mark_failed(video.id, 1, 0b111111, MODEL, "poison")
    reconciler.inspector.inspect_video(video.id)
    assert store.agenda.count(due.VIDEOS) == 0
    store.state.hset(f"lw:failed:{MODEL}:{video.id}", "1", "junk")
    assert store.read_coverage(video, range(2), MODEL).missing() == [1]
    reconciler.run_once()
    assert reconciler.inspector.queues.list_live(ENCODE, [encode_job_id(video.id, 1)])
