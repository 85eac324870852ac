"""The store writes archive, state and cache in an order that survives deaths, deletions and second writers."""

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from configs.settings import Settings
from storage import agenda as due
from storage.archive import Archive
from storage.deletion import delete_video
from storage.documents import Question, Video
from storage.errors import Conflict, DamagedFile, LongwatchError, NotFound
from storage.store import Store
from tests.storage.making import (
    MODEL,
    OTHER_MODEL,
    add_encoded,
    list_keys,
    make_frames,
    make_question,
    make_record,
    make_video,
)


def test_progress_counts_frames(store: Store) -> None:
    video = add_encoded(store, 70)
    copy = make_video(status="duplicate", duplicate_of=video.id)
    (progress, of_copy) = store.read_progress([video, copy])
    assert progress is not None
    assert (progress.frames_sampled, progress.frames_encoded, progress.encoded_until_s) == (70, 64, 64.0)
    assert not progress.complete
    assert of_copy == progress
    store.create_record(video.id, 1, make_record(6))
    (progress,) = store.read_progress([video])
    assert progress is not None
    assert progress.complete
    assert (progress.frames_encoded, progress.encoded_until_s, progress.eta_s) == (70, 70.0, 0.0)


def test_a_video_with_failed_segments_still_completes(store: Store) -> None:
    video = add_encoded(store, 70)
    store.coverage.mark_failed(video.id, 1, 0b111111, MODEL, "no picture can be read")
    (progress,) = store.read_progress([video])
    assert progress is not None
    assert (progress.complete, progress.frames_failed) == (True, 6)


def test_two_models_have_their_own_records(store: Store) -> None:
    video = add_encoded(store, 70)
    store.create_record(video.id, 1, make_record(6, OTHER_MODEL, value=3.0))
    ours, theirs = (store.read_tokens(video.id, [0, 1], model) for model in (MODEL, OTHER_MODEL))
    assert ours[0] is not None
    assert ours[1] is None
    assert theirs[0] is None
    assert theirs[1] is not None
    assert float(theirs[1][1][0, 0, 0]) == 3.0


def test_a_lost_record_is_missing_again_and_due(store: Store) -> None:
    video = add_encoded(store, 70)
    store.agenda.remove(due.VIDEOS, video.id)
    store.cache.redis.flushall()
    store.archive.files.write(f"{video.id}/000000/tokens-{MODEL}.safetensors", b"garbage")
    assert store.read_tokens(video.id, [0], MODEL) == {0: None}
    assert store.read_coverage(video, range(2), MODEL).missing() == [0, 1]
    assert store.agenda.list_due(due.VIDEOS, 10) == [video.id]


DYING = """
import os, sys
from configs.settings import Settings
from storage.archive import Archive
from storage.documents import {kind}
from storage.store import Store
store = Store.open(Settings.model_validate_json(sys.argv[1]))
write = Archive.write_{name}
def die(self, document):
    if {written}: write(self, document)
    os._exit(9)
Archive.write_{name} = die
store.add_{name}({kind}.model_validate_json(sys.argv[2]))
"""


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("kind", [Video, Question])
def test_a_process_that_dies_while_adding_something_loses_nothing_it_wrote(
    store: Store, settings: Settings, kind: type[Video] | type[Question], written: bool
) -> None:
    video = make_video()
    if kind is Question:
        store.add_video(video)
        store.agenda.remove(due.VIDEOS, video.id)
    document: Video | Question = video if kind is Video else make_question(video)
    code = DYING.format(kind=kind.__name__, name=kind.__name__.lower(), written=written)
    command = [sys.executable, "-c", code, settings.model_dump_json(), document.model_dump_json()]
    assert subprocess.run(command, check=False, timeout=60).returncode == 9
    agenda = due.VIDEOS if kind is Video else due.QUESTIONS
    assert store.agenda.count(agenda) == 1  # the reconciler will look for it, written or not
    assert store.agenda.list_due(agenda, 10) == []  # but not before its writer had time to write it
    read: Callable[[str], object] = store.read_video if kind is Video else store.read_question
    if written:
        assert read(document.id) == document
    else:
        with pytest.raises(NotFound):
            read(document.id)


def test_copies_of_a_new_file_at_once_end_with_one_owner(store: Store) -> None:
    videos = [make_video(sha256="ab", kind="upload") for _ in range(6)]
    start = threading.Barrier(len(videos))
    owners: dict[str, str | None] = {}

    def take_in(video: Video) -> None:
        start.wait()
        store.add_video(video)
        owners[video.id] = store.claim_content(video)

    threads = [threading.Thread(target=take_in, args=(video,)) for video in videos]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A video that lost its claim because its document came late claims again when it is ingested.
    again = {video.id: store.claim_content(video) for video in videos}
    (owner,) = [video_id for video_id, other in again.items() if other is None]
    assert {other for other in again.values() if other} == {owner}


@pytest.mark.parametrize(
    "change", [{"status": "failed"}, {"sha256": "cd"}, {"status": "duplicate", "duplicate_of": "x"}]
)
def test_an_owner_that_no_longer_holds_the_content_is_replaced(store: Store, change: dict[str, str]) -> None:
    first, second = make_video(sha256="ab"), make_video(sha256="ab")
    store.add_video(first)
    assert store.claim_content(first) is None
    assert store.claim_content(second) == first.id
    store.update_video(first.model_copy(update=change))
    assert store.claim_content(second) is None


def test_the_content_of_a_deleted_owner_can_be_claimed(store: Store) -> None:
    first, second = make_video(sha256="ab"), make_video(sha256="ab")
    store.add_video(first)
    store.claim_content(first)
    delete_video(store, first.id)
    assert store.claim_content(second) is None


def test_deleting_leaves_only_its_own_marks(store: Store) -> None:
    video = add_encoded(store, 70, sha256="ab")
    store.claim_content(video)
    question = make_question(video)
    store.add_question(question)
    store.agenda.wait(video.id, question.id, None)
    delete_video(store, video.id)
    assert store.archive.list_video_ids() == []
    left = {key for key in list_keys(store.state, f"*{video.id}*") if question.id not in key}
    assert left == {f"lw:deleted:{video.id}", f"lw:fence:{video.id}"}
    assert store.agenda.count(due.VIDEOS) == store.agenda.count(due.DELETIONS) == 0
    with pytest.raises(NotFound):
        delete_video(store, video.id)


def test_a_video_that_holds_anothers_frames_cannot_be_deleted(store: Store) -> None:
    video = add_encoded(store, 70)
    copy = make_video(status="duplicate", duplicate_of=video.id)
    store.add_video(copy)
    with pytest.raises(Conflict, match=copy.id):
        delete_video(store, video.id)
    store.update_video(video)  # as a running job would: the refused deletion has left no mark
    assert store.read_video(video.id) == video
    assert store.agenda.count(due.DELETIONS) == 0
    store.archive.delete_video(copy.id)  # the copy disappears without being unregistered
    store.state.delete(f"lw:video:{copy.id}")
    delete_video(store, video.id)
    assert store.archive.list_video_ids() == []


def test_a_change_during_a_deletion_does_not_bring_the_video_back(store: Store) -> None:
    video = add_encoded(store, 70)
    delete_video(store, video.id)
    with pytest.raises(NotFound):
        store.update_video(video)
    store.archive.write_video(video)  # by a process that looked before the deletion and writes after it
    with pytest.raises(NotFound):
        store.update_video(video)
    assert store.archive.list_video_ids() == []
    assert store.index.list_videos(None, 10) == []


def test_a_reader_of_the_archive_does_not_bring_a_deleted_video_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = add_encoded(store, 70)
    store.state.delete(f"lw:video:{video.id}")
    read = Archive.read_video

    def read_slowly(self: Archive, video_id: str) -> Video:
        found = read(self, video_id)
        delete_video(store, video_id)
        return found

    monkeypatch.setattr(Archive, "read_video", read_slowly)
    store.read_video(video.id)
    monkeypatch.undo()
    assert store.index.list_videos(None, 10) == []
    with pytest.raises(NotFound):
        store.read_video(video.id)


def test_deleting_while_segments_and_questions_arrive_leaves_nothing(store: Store) -> None:
    problems: list[LongwatchError] = []
    for _ in range(5):
        video = make_video()
        store.add_video(video)
        started = threading.Barrier(3)

        def write(make: Callable[[int], object], started: threading.Barrier = started) -> None:
            started.wait()
            try:
                for number in range(1000):
                    make(number)
            except NotFound:
                return
            except LongwatchError as error:
                problems.append(error)

        segments = threading.Thread(
            target=write, args=(lambda k, v=video: store.create_segment(v.id, k, make_frames(2)),)
        )
        questions = threading.Thread(target=write, args=(lambda _, v=video: store.add_question(make_question(v)),))
        for thread in (segments, questions):
            thread.start()
        started.wait()
        delete_video(store, video.id)
        for thread in (segments, questions):
            thread.join(timeout=60)
        assert problems == []
        assert list(store.archive.files.tree(video.id)) == []


def test_a_video_whose_document_is_damaged_can_be_deleted_and_hides_no_other(store: Store) -> None:
    good, bad = make_video(), make_video()
    for video in (good, bad):
        store.add_video(video)
    store.archive.files.write(f"{bad.id}/video.json", b"{")
    store.state.delete(f"lw:video:{bad.id}")
    assert store.read_videos([good.id, bad.id]) == [good]
    assert bad.id in store.index.list_unreadable()
    with pytest.raises(DamagedFile):
        store.read_video(bad.id)
    delete_video(store, bad.id)
    assert store.archive.list_video_ids() == [good.id]


def test_a_damaged_question_hides_no_other(store: Store) -> None:
    video = make_video()
    store.add_video(video)
    good, bad = make_question(video), make_question(video)
    for question in (good, bad):
        store.add_question(question)
    store.archive.files.write(f"{video.id}/questions/{bad.id}.json", b"{")
    assert [question.id for question in store.read_questions([good.id, bad.id])] == [good.id]
    assert bad.id in store.index.list_unreadable()
