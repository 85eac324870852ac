"""Bytes that never became a video are removed, however the process that received them ended."""

from pathlib import Path

import pytest

from configs.settings import JobSettings, Settings
from jobs import intake
from jobs.intake import Intake
from jobs.reconciler import Reconciler
from storage import agenda as due
from storage.documents import Video
from storage.ids import new_video_id
from storage.store import Store


def upload() -> Video:
    return Video(
        id=new_video_id(),
        kind="upload",
        source="a.mp4",
        location="",
        in_archive=True,
        sha256="ab" * 32,
        sample_fps=1.0,
        mode="exact",
    )


def receive(store: Store, video: Video, folder: Path) -> None:
    file = folder / "received"
    file.write_bytes(b"bytes")
    store.archive.put_source(video.id, file)


def test_an_upload_is_removed_if_the_api_died_before_it_became_a_video(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "UNWRITTEN_S", 0.0)
    video = upload()
    assert Intake(store, settings).claim_upload(video) is None
    receive(store, video, tmp_path)

    Reconciler(store, JobSettings(), orphan_after_s=3600).run_once()
    assert store.archive.list_video_ids() == [video.id]  # its document may be about to be written
    store.agenda.put(due.DELETIONS, video.id)
    Reconciler(store, JobSettings(), orphan_after_s=0).run_once()
    assert store.archive.list_video_ids() == []
    assert store.agenda.count(due.DELETIONS) == 0


def test_an_upload_that_became_a_video_stays(settings: Settings, store: Store, tmp_path: Path) -> None:
    taking, video = Intake(store, settings), upload()
    taking.claim_upload(video)
    receive(store, video, tmp_path)
    taking.add_video(video)

    assert store.agenda.count(due.DELETIONS) == 0
    Reconciler(store, JobSettings(), orphan_after_s=0).run_once()
    assert store.archive.has_video(video.id)
