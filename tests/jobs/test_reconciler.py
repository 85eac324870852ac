"""The reconciler brings back missing jobs, runs in one process at a time, and no item blocks the others."""

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from configs.settings import Settings
from jobs.inspector import Inspector, Sight
from jobs.intake import Intake
from jobs.names import ANSWER, ENCODE, FETCH, INGEST, QUEUES
from jobs.queues import Queues, encode_call
from jobs.reconciler import Reconciler
from storage import agenda as due
from storage.archive import Archive
from storage.deletion import delete_video
from storage.documents import Problem, Question, Video
from storage.errors import ArchiveUnavailable, LongwatchError, RedisUnavailable
from storage.files import Files
from storage.store import Store
from storage.timeline import FULL_MASK
from tests.storage.making import (
    MODEL,
    OTHER_MODEL,
    add_encoded,
    make_due,
    make_frames,
    make_question,
    make_record,
    make_video,
)
from tests.working import count_waiting


def ask(store: Store, settings: Settings, video: Video, **values: object) -> Question:
    return Intake(store, settings).add_question(make_question(video, **values))


def test_every_video_gets_the_job_it_needs(store: Store, settings: Settings) -> None:
    store.workers.announce_model(MODEL)
    store.add_video(make_video())
    store.add_video(make_video(in_archive=True))
    store.add_video(make_video(kind="path"))
    done = add_encoded(store, 70, encoded=2)
    add_encoded(store, 70, encoded=1)
    store.add_video(make_video(status="failed", problem=Problem(code="x", message="x")))
    reconciler = Reconciler(store, settings.jobs)
    reconciler.run_once()
    waiting = {name: count_waiting(store, name) for name in QUEUES}
    assert (waiting[FETCH], waiting[INGEST], waiting[ENCODE]) == (1, 2, 1)
    assert store.state.zscore(due.VIDEOS, done.id) is None  # settled: no further inspections
    assert store.agenda.count(due.VIDEOS) == 4


@pytest.mark.parametrize(
    "error", [ArchiveUnavailable("EIO"), LongwatchError("odd"), ValueError("junk"), KeyError("a bug"), RecursionError()]
)
def test_items_that_fail_do_not_block_the_others(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    bad = [make_video(kind="path") for _ in range(12)]
    good = [make_video(kind="path") for _ in range(3)]
    for number, video in enumerate(bad + good):
        store.add_video(video)
        store.state.zadd(due.VIDEOS, {video.id: number})  # the bad ones are first
    for video in bad:
        store.state.delete(f"lw:video:{video.id}")  # only the archive has it now
    read = Store.read_video

    def read_or_fail(self: Store, video_id: str) -> Video:
        if video_id in [video.id for video in bad]:
            raise error
        return read(self, video_id)

    monkeypatch.setattr(Store, "read_video", read_or_fail)
    reconciler = Reconciler(store, settings.jobs)
    store.index.set_ready(store.index.read_generation())
    for _ in range(3):
        reconciler.run_once()
    assert count_waiting(store, INGEST) == len(good)
    assert store.agenda.count(due.VIDEOS) == len(bad + good)  # the bad ones are not forgotten


def test_a_folder_that_cannot_be_read_does_not_block_the_others(store: Store, settings: Settings) -> None:
    bad = [make_video(kind="path") for _ in range(5)]
    for video in bad:
        store.archive.files.write(f"{video.id}/video.json/odd", b"a folder in the place of the document")
        store.agenda.put(due.VIDEOS, video.id, in_s=-60)
    good = make_video(kind="path")
    store.add_video(good)
    reconciler = Reconciler(store, settings.jobs)
    store.index.set_ready(store.index.read_generation())
    for _ in range(4):
        reconciler.run_once()
    assert count_waiting(store, INGEST) == 1


@pytest.mark.parametrize("kind", ["videos", "questions"])
def test_a_pass_leaves_the_archive_alone_after_three_errors(
    kind: str, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in the place of a document stands for an archive that fails: each look may cost a time-out."""
    video = make_video(kind="path")
    for _ in range(5):
        if kind == "videos":
            item_id, agenda = make_video().id, due.VIDEOS
            path = f"{item_id}/video.json"
        else:
            item_id, agenda = make_question(video).id, due.QUESTIONS
            path = f"{video.id}/questions/{item_id}.json"
        store.archive.files.write(f"{path}/odd", b"")
        store.agenda.put(agenda, item_id)
    store.index.set_ready(store.index.read_generation())
    failed: list[str] = []
    read = Files.read

    def note_failure(self: Files, path: str) -> bytes | None:
        try:
            return read(self, path)
        except ArchiveUnavailable:
            failed.append(path)
            raise

    monkeypatch.setattr(Files, "read", note_failure)
    reconciler = Reconciler(store, settings.jobs)
    reconciler.run_once()
    assert len(failed) == 3
    reconciler.run_once()
    assert len(set(failed)) == len(failed) == 5  # the others had their turn


def test_no_exception_ends_the_reconciler(store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    errors = [RuntimeError("a bug"), RedisUnavailable("away"), ArchiveUnavailable("away"), MemoryError()]

    def fail(_: object) -> None:
        passes.append(1)
        raise errors[len(passes) % len(errors)]

    monkeypatch.setattr(Reconciler, "run_once", fail)
    stop = threading.Event()
    quick = settings.jobs.model_copy(update={"reconcile_interval_s": 0.01})
    thread = threading.Thread(target=Reconciler(store, quick).run_forever, args=(stop,))
    thread.start()
    deadline = time.monotonic() + 30
    while len(passes) < 10 and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    assert thread.is_alive()
    stop.set()
    thread.join(timeout=30)
    assert len(passes) >= 10


def test_one_process_reconciles_at_a_time(store: Store, settings: Settings) -> None:
    store.add_video(make_video())
    reconciler = Reconciler(store, settings.jobs)
    with store.locks.hold("reconciler", 30) as got:
        assert got
        reconciler.run_once()
        assert count_waiting(store, FETCH) == 0
    reconciler.run_once()
    assert count_waiting(store, FETCH) == 1


def test_after_an_outage_workers_get_time_to_beat_before_they_are_taken_for_dead(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconciler, passes = Reconciler(store, settings.jobs), list[bool]()
    run_once = Reconciler.run_once

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return len(passes) == 3

    def run(self: Reconciler) -> None:
        passes.append(True)
        if len(passes) == 1:
            raise RedisUnavailable("away")
        run_once(self)

    monkeypatch.setattr(Reconciler, "run_once", run)
    store.state.zadd("rq:wip:ingest", {"ingest-x:execution": time.time() - 1})
    reconciler.run_forever(Stop())
    assert store.state.zcard("rq:wip:ingest") == 1


def test_a_question_waits_without_a_worker_until_its_last_segment_is_encoded(store: Store, settings: Settings) -> None:
    video = add_encoded(store, 64 * 3, encoded=0)
    early = ask(store, settings, video, end_s=64.0)
    late = ask(store, settings, video)
    assert (early.status, late.status) == ("waiting", "waiting")
    assert count_waiting(store, ANSWER) == 0
    reconciler = Reconciler(store, settings.jobs)
    store.create_record(video.id, 0, make_record())
    reconciler.inspector.wake_questions(video.id)
    assert [store.read_question(one.id).status for one in (early, late)] == ["queued", "waiting"]
    for segment in (1, 2):
        store.create_record(video.id, segment, make_record())
        reconciler.inspector.wake_questions(video.id)
    assert store.read_question(late.id).status == "queued"
    assert count_waiting(store, ANSWER) == 2
    assert [piece.kind for piece in store.answers.read(late.id)] == ["state", "state"]


def test_a_partial_question_waits_only_for_the_first_frames(store: Store, settings: Settings) -> None:
    video = add_encoded(store, 128, encoded=0)
    assert ask(store, settings, video, partial=True).status == "waiting"
    store.create_record(video.id, 0, make_record())
    assert ask(store, settings, video, partial=True).status == "queued"


def test_eight_failed_segments_block_nothing(store: Store, settings: Settings) -> None:
    count = settings.jobs.max_pending_segments
    video = add_encoded(store, 64 * (count + 4), encoded=0)
    question = ask(store, settings, video)
    for segment in range(count):
        store.coverage.mark_failed(video.id, segment, FULL_MASK, MODEL, "no picture can be read")
    reconciler = Reconciler(store, settings.jobs)
    store.state.delete("rq:queue:encode")
    store.index.set_ready(store.index.read_generation())
    make_due(store)
    reconciler.run_once()
    assert count_waiting(store, ENCODE) == 4
    for segment in range(count, count + 4):
        store.create_record(video.id, segment, make_record())
    make_due(store)
    reconciler.run_once()
    (progress,) = store.read_progress([video])
    assert progress is not None
    assert progress.complete
    assert progress.frames_failed == 64 * count
    assert store.read_question(question.id).status == "queued"
    assert store.state.zscore(due.VIDEOS, video.id) is None


def test_a_new_model_makes_every_video_due_even_if_its_worker_died_meanwhile(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = [add_encoded(store, 10) for _ in range(3)]
    reconciler = Reconciler(store, settings.jobs)
    reconciler.adopt_model(MODEL)
    reconciler.run_once()
    assert store.agenda.count(due.VIDEOS) == 0
    with monkeypatch.context() as patched:
        patched.setattr(type(store.agenda), "put", stop)
        with pytest.raises(RedisUnavailable):
            reconciler.adopt_model(OTHER_MODEL)
    reconciler.adopt_model(OTHER_MODEL)
    assert store.agenda.count(due.VIDEOS) == len(videos)
    reconciler.run_once()
    assert count_waiting(store, ENCODE) == len(videos)


def test_a_new_video_waits_behind_a_few_of_those_that_are_encoded_again(store: Store, settings: Settings) -> None:
    old = [add_encoded(store, 64 * 4, encoded=4) for _ in range(10)]
    few = settings.jobs.model_copy(update={"max_backlog_segments": 6})
    reconciler = Reconciler(store, few)
    store.index.set_ready(store.index.read_generation())
    reconciler.adopt_model(OTHER_MODEL)
    for _ in range(3):
        make_due(store)
        reconciler.run_once()
    assert count_waiting(store, ENCODE) == 6
    new = make_video(status="sampling")
    store.add_video(new)
    for segment in range(3):
        store.create_segment(new.id, segment, make_frames(64))
    make_due(store)
    reconciler.run_once()
    assert count_waiting(store, ENCODE) == 6 + 3
    store.state.delete(f"rq:queue:{ENCODE}")  # as if encoded
    make_due(store)
    reconciler.run_once()
    assert count_waiting(store, ENCODE) >= 6  # the others follow
    assert store.agenda.count(due.VIDEOS) == len(old) + 1


def test_a_question_about_a_video_of_the_backlog_brings_its_own_segments_forward(
    store: Store, settings: Settings
) -> None:
    video = add_encoded(store, 64 * 20, encoded=0)
    store.agenda.remove(due.VIDEOS, video.id)
    question = ask(store, settings, video, start_s=64.0 * 15, end_s=64.0 * 17)
    queues = Queues(store.state)
    calls = [encode_call(video.id, segment).id for segment in range(20)]
    assert queues.list_live(ENCODE, calls) == {calls[15], calls[16]}
    inspector = Inspector(store, settings.jobs)
    for segment in (16, 15):  # they end in any order
        assert store.read_question(question.id).status == "waiting"
        store.create_record(video.id, segment, make_record())
        inspector.wake_questions(video.id, segment)
    assert store.read_question(question.id).status == "queued"  # though nothing before it is encoded


def stop(*_: object, **__: object) -> None:
    raise RedisUnavailable("the process dies here")


@pytest.mark.parametrize("encoded", [0, 1])
def test_a_question_asked_before_its_video_was_known_as_a_duplicate_waits_for_the_holders_frames(
    encoded: int, store: Store, settings: Settings
) -> None:
    holder, copy = add_encoded(store, 10, encoded=encoded), make_video()
    store.add_video(copy)
    question = ask(store, settings, copy)
    assert store.agenda.list_waiting(copy.id, None) == [question.id]
    store.update_video(copy.model_copy(update={"status": "duplicate", "duplicate_of": holder.id}))
    Reconciler(store, settings.jobs).inspector.inspect_video(copy.id)
    assert store.agenda.list_waiting(copy.id, None) == []
    assert store.agenda.list_waiting(holder.id, None) == ([] if encoded else [question.id])
    assert store.read_question(question.id).status == ("queued" if encoded else "waiting")
    assert store.agenda.count(due.WAITING) == (0 if encoded else 1)


def test_a_duplicate_fails_with_its_holder_and_is_sampled_if_the_holder_is_gone(
    store: Store, settings: Settings
) -> None:
    holder = add_encoded(store, 10)
    copies = [make_video(status="duplicate", duplicate_of=holder.id) for _ in range(2)]
    for copy in copies:
        store.add_video(copy)
    reconciler = Reconciler(store, settings.jobs)
    problem = Problem(code="x", message="the file is cut off")
    store.update_video(holder.model_copy(update={"status": "failed", "problem": problem}))
    make_due(store)
    reconciler.inspector.inspect_video(copies[0].id)
    failed = store.read_video(copies[0].id)
    assert (failed.status, failed.problem, failed.duplicate_of) == ("failed", problem, None)
    store.archive.delete_video(holder.id)
    store.state.delete(f"lw:video:{holder.id}")
    reconciler.inspector.inspect_video(copies[1].id)
    freed = store.read_video(copies[1].id)
    assert (freed.status, freed.duplicate_of) == ("queued", None)
    assert store.index.list_duplicates(holder.id) == []


@pytest.mark.parametrize("died_after", ["the mark", "the document", "the folder"])
def test_a_deletion_whose_process_died_is_finished(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch, died_after: str
) -> None:
    video = add_encoded(store, 70)
    delete: Callable[[Archive, str], None] = Archive.delete_video

    def die(self: Archive, video_id: str) -> None:
        if died_after == "the document":
            self.files.delete(f"{video_id}/video.json")
        if died_after == "the folder":
            delete(self, video_id)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Archive, "delete_video", die)
        with pytest.raises(KeyboardInterrupt):
            delete_video(store, video.id)
    make_due(store)
    Reconciler(store, settings.jobs).run_once()
    assert store.archive.list_video_ids() == []
    assert store.index.list_videos(None, 10) == []
    assert store.index.get_video(video.id) is None
    assert store.agenda.count(due.DELETIONS) == store.agenda.count(due.VIDEOS) == 0


def test_missing_and_damaged_questions_leave_the_agenda(store: Store, settings: Settings) -> None:
    video = make_video()
    store.add_video(video)
    gone, damaged = make_question(video), make_question(video)
    for question in (gone, damaged):
        store.add_question(question)
    store.archive.files.delete(f"{video.id}/questions/{gone.id}.json")
    store.archive.files.write(f"{video.id}/questions/{damaged.id}.json", b"{")
    Reconciler(store, settings.jobs).run_once()
    assert store.agenda.count(due.QUESTIONS) == 0
    assert damaged.id in store.index.list_unreadable()


def test_only_unsettled_questions_found_in_the_archive_become_due(store: Store, settings: Settings) -> None:
    video = add_encoded(store, 70)
    open_one, done = make_question(video), make_question(video, status="done")
    for question in (open_one, done):
        store.archive.write_question(question)
    store.coverage.forget(video.id)
    store.count_video(video)
    assert (store.agenda.count(due.QUESTIONS), store.agenda.count(due.FOUND)) == (0, 2)
    Reconciler(store, settings.jobs).run_once()
    assert [store.agenda.count(agenda) for agenda in (due.QUESTIONS, due.WAITING, due.FOUND)] == [1, 1, 0]
    assert store.state.zscore(due.WAITING, open_one.id) is not None


def test_a_pass_inspects_only_what_is_due(store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(20):
        add_encoded(store, 10)
    reconciler = Reconciler(store, settings.jobs)
    reconciler.run_once()
    looked: list[str] = []
    see = Inspector.see_videos

    def note(self: Inspector, video_ids: Sequence[str]) -> list[Sight]:
        looked.extend(video_ids)
        return see(self, video_ids)

    monkeypatch.setattr(Inspector, "see_videos", note)
    reconciler.run_once()
    assert looked == []
    video = make_video(status="ready", frames_sampled=5)
    store.add_video(video)
    store.create_segment(video.id, 0, make_frames(5))
    reconciler.run_once()
    assert looked == [video.id]


def test_a_video_that_becomes_due_while_it_is_inspected_stays_on_the_agenda(store: Store, settings: Settings) -> None:
    video = add_encoded(store, 70, encoded=2)
    inspector = Inspector(store, settings.jobs)
    (sight,) = inspector.see_videos([video.id])
    store.coverage.unmark_encoded(video.id, 1, 0b111111, MODEL)  # another process finds the record gone
    store.agenda.put(due.VIDEOS, video.id)
    assert inspector.find_jobs(sight) == []
    assert store.agenda.list_due(due.VIDEOS, 10) == [video.id]
    inspector.inspect_video(video.id)
    assert inspector.queues.list_live(ENCODE, [encode_call(video.id, 1).id])


def test_a_deleted_duplicate_leaves_no_question_with_its_holder(store: Store, settings: Settings) -> None:
    holder = add_encoded(store, 10, encoded=0)
    copy = make_video(status="duplicate", duplicate_of=holder.id)
    store.add_video(copy)
    question = ask(store, settings, copy)
    assert store.agenda.list_waiting(holder.id, None) == [question.id]
    delete_video(store, copy.id)
    assert store.agenda.list_waiting(holder.id, None) == []
    assert store.agenda.count(due.WAITING) == 0
