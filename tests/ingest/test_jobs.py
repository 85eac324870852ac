"""Ingest jobs: what was sampled is kept, whatever comes in between."""

import os
import threading
import time
from pathlib import Path

import pytest

from configs.settings import Settings
from ingest.jobs import ABANDONED_AFTER_S, IngestJobs, SettledElsewhere
from ingest.local import sha256_of
from storage.errors import ArchiveUnavailable
from storage.models import Video
from storage.queues import ENCODE
from storage.store import Store
from tests.media import steady, write_video
from tests.storage.test_archive import new_video
from tests.waiting import wait_until


@pytest.fixture
def jobs(settings: Settings, store: Store) -> IngestJobs:
    return IngestJobs(settings, store)


def submit(store: Store, path: Path, **values: object) -> Video:
    video = new_video(kind="path", source=path.name, location=str(path), **values)
    store.add_video(video)
    return video


def pictures(store: Store, video: Video, count: int) -> list[bytes]:
    return [store.archive.frame(video.id, index) for index in range(count)]


def test_every_second_of_a_file_is_in_the_archive(jobs: IngestJobs, store: Store, tmp_path: Path) -> None:
    video = submit(store, write_video(tmp_path / "video.mp4", steady(130, fps=5)))
    jobs.ingest_video(video.id)
    done = store.archive.video(video.id)
    assert (done.status, done.frames_sampled, done.truncated) == ("ready", 130, None)
    assert [len(store.archive.timestamps_s(video.id, segment)) for segment in (0, 1, 2)] == [64, 64, 2]
    assert store.archive.timestamps_s(video.id, 2) == [128.5, 129.5]
    assert store.queues.depths()[ENCODE] == 3


def test_a_job_tried_again_goes_on_where_it_stopped(
    jobs: IngestJobs, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.jobs.is_last_try", lambda: False)
    path = write_video(tmp_path / "video.mp4", steady(100, fps=5))
    undisturbed = submit(store, path)
    jobs.ingest_video(undisturbed.id)
    wanted = pictures(store, undisturbed, 100)
    store.delete_video(undisturbed.id)

    video = submit(store, path)
    in_the_way = Path(store.archive.files.full(f"{video.id}/000001"))
    in_the_way.write_bytes(b"a disk that fails after the first segment")
    with pytest.raises(ArchiveUnavailable):
        jobs.ingest_video(video.id)
    assert len(store.archive.timestamps_s(video.id, 0)) == 64
    in_the_way.unlink()
    first = Path(store.archive.files.full(f"{video.id}/000000/frames/00.jpg"))
    written = first.stat().st_mtime_ns
    jobs.ingest_video(video.id)
    assert store.archive.video(video.id).status == "ready"
    assert pictures(store, video, 100) == wanted
    assert first.stat().st_mtime_ns == written  # what was there was not made again


def test_the_same_bytes_are_sampled_once(jobs: IngestJobs, store: Store, tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", steady(3))
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(path.read_bytes())
    first, second, otherwise = submit(store, path), submit(store, copy), submit(store, copy, mode="keyframes")
    for video in (first, second, otherwise):
        jobs.ingest_video(video.id)
    again = store.archive.video(second.id)
    assert (again.status, again.duplicate_of) == ("duplicate", first.id)
    assert store.archive.segments(second.id) == []
    assert store.progress(again).frames_sampled == 3
    assert store.archive.video(otherwise.id).status == "ready"  # sampled in another way: other frames


def test_what_is_being_sampled_is_waited_for(jobs: IngestJobs, store: Store, tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", steady(3))
    first, second = submit(store, path), submit(store, path)
    sampling = first.model_copy(update={"status": "sampling", "sha256": sha256_of(path)})
    store.update_video(sampling)
    store.archive.claim_content(sampling)
    jobs.ingest_video(second.id)
    assert not store.archive.video(second.id).settled
    assert second.id in store.hot.unfinished()  # the reconciler has it tried again
    store.update_video(sampling.model_copy(update={"status": "failed"}))
    jobs.ingest_video(second.id)
    assert (store.archive.video(second.id).status, store.archive.video(second.id).frames_sampled) == ("ready", 3)


def test_a_second_run_of_a_job_does_not_undo_the_first(jobs: IngestJobs, store: Store, tmp_path: Path) -> None:
    video = submit(store, tmp_path / "gone.mp4")
    store.update_video(video.model_copy(update={"status": "ready"}))
    with pytest.raises(SettledElsewhere):
        jobs._settle(video)  # as by a worker that had looked before
    assert store.archive.video(video.id).status == "ready"


def test_what_leans_on_a_video_that_is_being_deleted_is_sampled(jobs: IngestJobs, store: Store, tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", steady(3))
    first, second = submit(store, path), submit(store, path)
    jobs.ingest_video(first.id)
    store.hot.mark_deleted(first.id)  # its files go next
    jobs.ingest_video(second.id)
    assert not store.archive.video(second.id).settled
    store.archive.delete_video(first.id)
    jobs.ingest_video(second.id)
    assert store.archive.video(second.id).status == "ready"


def test_an_upload_is_kept_until_its_video_is_settled_or_gone(
    jobs: IngestJobs, settings: Settings, store: Store
) -> None:
    settings.work_dir.mkdir(parents=True)
    fine, broken, deleted = (new_video() for _ in range(3))
    for video in (fine, broken, deleted):
        path = settings.work_file(video.id)
        write_video(path.with_suffix(".mp4"), steady(3)).replace(path)
        store.add_video(video.model_copy(update={"kind": "upload", "location": str(path)}))
    settings.work_file(broken.id).write_bytes(b"no video at all")
    store.delete_video(deleted.id)
    for video in (fine, broken, deleted):
        jobs.ingest_video(video.id)
    assert [store.archive.video(video.id).status for video in (fine, broken)] == ["ready", "failed"]
    assert list(settings.work_dir.iterdir()) == []


def test_what_came_before_a_cut_is_kept_and_the_video_says_so(jobs: IngestJobs, store: Store, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", steady(20), size=(320, 240))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    video = submit(store, cut)
    jobs.ingest_video(video.id)
    done = store.archive.video(video.id)
    assert done.status == "ready"
    assert done.truncated is not None
    assert done.frames_sampled == len(store.archive.timestamps_s(video.id, 0)) > 3


def test_a_file_that_is_no_video_fails_with_its_reason(jobs: IngestJobs, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("no video at all")
    video = submit(store, path)
    jobs.ingest_video(video.id)
    done = store.archive.video(video.id)
    assert done.status == "failed"
    assert done.problem is not None
    assert done.problem.code == "source-unsupported"
    again = submit(store, path)
    jobs.ingest_video(again.id)
    assert store.archive.video(again.id).status == "failed"  # not a duplicate of what failed


def test_a_video_deleted_while_it_is_sampled_stays_deleted(jobs: IngestJobs, store: Store, tmp_path: Path) -> None:
    video = submit(store, write_video(tmp_path / "video.mp4", steady(600, fps=4), options={"preset": "ultrafast"}))
    sampling = threading.Thread(target=jobs.ingest_video, args=(video.id,))
    sampling.start()
    wait_until(lambda: store.archive.segments(video.id), step_s=0.001)
    store.delete_video(video.id)
    sampling.join()
    assert store.archive.video_ids() == []


def test_only_files_that_nothing_waits_for_are_swept(
    jobs: IngestJobs, settings: Settings, store: Store, tmp_path: Path
) -> None:
    waiting = submit(store, tmp_path / "coming.mp4")
    settled = submit(store, tmp_path / "there.mp4", status="ready")
    folder = settings.work_dir
    folder.mkdir(parents=True)
    unneeded = [f"{settled.id}.video", f"{new_video().id}.video.part"]  # the second was deleted
    needed = [f"{waiting.id}.video", "not-ours"]
    young = f"{new_video().id}.video"  # its upload has not ended yet
    for name in (*unneeded, *needed, young):
        (folder / name).write_bytes(b"x")
        if name != young:
            os.utime(folder / name, times=(0, time.time() - ABANDONED_AFTER_S - 1))
    jobs.sweep()
    assert {file.name for file in folder.iterdir()} == {*needed, young}
