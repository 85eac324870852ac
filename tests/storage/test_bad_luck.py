"""Damaged, lost or late data in Redis and the archive is noticed, and harms nothing else."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from configs.settings import Settings
from jobs.attempts import Attempts
from jobs.reconciler import Reconciler
from storage import agenda as due
from storage.deletion import delete_video
from storage.documents import Question, Video
from storage.errors import ArchiveUnavailable, Conflict, GivenAway
from storage.ids import new_question_id, new_video_id
from storage.records import Record
from storage.segments import SegmentFrame
from storage.store import Store
from storage.timeline import FULL_MASK

MODEL = "f00d"


@pytest.fixture
def video(store: Store) -> Video:
    """Two whole segments, encoded."""
    store.index.set_ready(store.index.read_generation())
    store.workers.announce_model(MODEL)
    video = Video(
        id=new_video_id(), kind="upload", source="x", location="", sample_fps=1, mode="exact", status="ready"
    ).model_copy(update={"frames_sampled": 128})
    store.add_video(video)
    for segment in range(2):
        store.create_segment(video.id, segment, [SegmentFrame(place, place, b"x", None) for place in range(64)])
        tokens, system = np.zeros((64, 1, 4), np.float16), np.zeros((3, 4), np.float16)
        store.create_record(video.id, segment, Record(MODEL, FULL_MASK, tokens, "system", system))
    return video


@pytest.fixture
def question(store: Store, video: Video) -> Question:
    question = Question(id=new_question_id(video.id), video_id=video.id, text="?", fusion="focused")
    store.add_question(question)
    return question


def test_an_attempt_that_wakes_up_after_the_end_changes_nothing(store: Store, question: Question) -> None:
    late, last = store.fences.take(question.id), store.fences.take(question.id)
    store.settle_question(question.model_copy(update={"status": "cancelled"}), last)
    with pytest.raises(GivenAway):
        store.settle_question(question.model_copy(update={"status": "failed"}), late)
    with pytest.raises(GivenAway):
        store.answers.send(late, "late")
    assert store.archive.read_question(question.id).status == "cancelled"


def test_a_question_survives_damaged_marks_of_its_video(store: Store, settings: Settings, question: Question) -> None:
    store.state.set(f"lw:totals:{question.video_id}", "damaged")
    Reconciler(store, settings.jobs).run_once()
    assert store.agenda.count(due.QUESTIONS) == 1
    assert store.read_question(question.id).status == "queued"


def test_a_value_of_a_wrong_type_does_not_stop_a_pass(store: Store, settings: Settings, video: Video) -> None:
    store.state.delete(f"lw:sampled:{video.id}")
    store.state.lpush(f"lw:sampled:{video.id}", "damaged")
    reconciler = Reconciler(store, settings.jobs)
    reconciler.run_once()
    reconciler.inspector.inspect_video(video.id)
    assert store.coverage.count_sampled(video.id) == 128


def test_a_damaged_counter_of_attempts_starts_again(store: Store) -> None:
    store.state.set("lw:attempts:job", "damaged")
    assert Attempts(store.state).begin("job") == 1


def test_a_repaired_document_is_no_longer_reported(store: Store, settings: Settings, video: Video) -> None:
    path = f"{video.id}/video.json"
    whole = store.archive.files.read(path)
    assert whole is not None
    store.archive.files.write(path, b"damaged")
    store.state.delete(f"lw:video:{video.id}")
    Reconciler(store, settings.jobs).inspector.inspect_video(video.id)
    assert video.id in store.index.list_unreadable()
    store.archive.files.write(path, whole)
    assert store.read_video(video.id) == video
    assert not store.index.list_unreadable()


def test_one_damaged_question_does_not_hide_the_others(store: Store, video: Video, question: Question) -> None:
    other = question.model_copy(update={"id": new_question_id(video.id)})
    store.add_question(other)
    store.archive.files.write(f"{video.id}/questions/{question.id}.json", b"damaged")
    assert [found.id for found in store.read_questions([question.id, other.id])] == [other.id]
    assert question.id in store.index.list_unreadable()


def test_a_refused_deletion_leaves_no_mark(store: Store, video: Video) -> None:
    leaning = video.model_copy(update={"id": new_video_id(), "status": "duplicate", "duplicate_of": video.id})
    store.add_video(leaning)
    with pytest.raises(Conflict, match=leaning.id):
        delete_video(store, video.id)
    assert not store.index.is_deleted(video.id)


def test_a_video_restored_with_fewer_frames_is_reported(store: Store, settings: Settings, video: Video) -> None:
    store.archive.files.delete(f"{video.id}/000001")
    store.state.flushdb()
    Reconciler(store, settings.jobs).run_once()
    assert "holds 64 of its 128 frames" in store.index.list_unreadable()[video.id]


def test_a_backup_being_restored_is_not_removed(store: Store, settings: Settings) -> None:
    old = f"{datetime.now(UTC) - timedelta(days=9):%Y%m%d-%H%M%S}000-0a0b0c"
    store.archive.files.write(f"{old}/000000/frames.zip", b"x")
    Reconciler(store, settings.jobs).run_once()
    assert list(store.archive.files.tree(old)) == ["000000/frames.zip"]


def test_an_unmounted_disk_is_not_mistaken_for_the_archive(store: Store, video: Video) -> None:
    store.check_archive()
    store.archive.files.delete(video.id)
    with pytest.raises(ArchiveUnavailable, match="mount its disk"):
        store.check_archive()
    delete_video(store, video.id)
    store.check_archive()


def test_the_state_tells_the_time_of_its_host(store: Store) -> None:
    assert abs(store.index.read_clock_s() - datetime.now(UTC).timestamp()) < 60
