"""The archive: atomic, complete without Redis, and never brought down by a damaged file."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from storage.archive import Archive
from storage.errors import ArchiveUnavailable, NotFound
from storage.ids import new_question_id, new_video_id
from storage.models import Question, Video
from storage.records import Record


def new_video(**values: object) -> Video:
    base = {"id": new_video_id(), "kind": "url", "source": "s", "location": "s", "sample_fps": 1.0, "mode": "exact"}
    return Video.model_validate(base | values)


@pytest.fixture(params=["local", "memory"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    return Archive(str(tmp_path / "archive") if request.param == "local" else f"memory://{tmp_path.name}")


def test_videos_frames_and_questions_are_found_again(archive: Archive) -> None:
    video = new_video()
    archive.put_video(video)
    archive.put_frames(video.id, 0, [b"one", b"two"], [0.5, 1.5])
    archive.put_frames(video.id, 2, [b"three"], [2.5])
    question = Question(id=new_question_id(video.id), video_id=video.id, text="what?", fusion="focused")
    archive.put_question(question)
    assert archive.video(video.id) == video
    assert archive.timestamps_s(video.id, 0) == [0.5, 1.5, 2.5]
    assert archive.frame(video.id, 2) == b"three"
    assert archive.segments(video.id) == [0]
    assert archive.question_ids(video.id) == [question.id]
    assert archive.question(question.id) == question
    archive.delete_video(video.id)
    assert archive.video_ids() == []
    with pytest.raises(NotFound):
        archive.frame(video.id, 0)


@pytest.mark.parametrize("late", ["frames", "record", "question"])
def test_a_write_that_comes_after_the_deletion_leaves_nothing(late: str, archive: Archive) -> None:
    video = new_video()
    archive.put_video(video)
    archive.delete_video(video.id)
    record = Record("model", (0.5,), np.zeros((1, 1, 8), np.float16))
    writes: dict[str, Callable[[], None]] = {
        "frames": lambda: archive.put_frames(video.id, 0, [b"one"], [0.5]),
        "record": lambda: archive.put_record(video.id, 0, record),
        "question": lambda: archive.put_question(
            Question(id=new_question_id(video.id), video_id=video.id, text="?", fusion="exact")
        ),
    }
    with pytest.raises(NotFound, match="deleted meanwhile"):
        writes[late]()
    assert archive.video_ids() == []


def test_frames_appended_twice_are_there_once(archive: Archive) -> None:
    video = new_video()
    archive.put_video(video)
    for _ in range(2):
        archive.put_frames(video.id, 0, [b"one", b"two"], [0.5, 1.5])
    assert archive.timestamps_s(video.id, 0) == [0.5, 1.5]
    with pytest.raises(ValueError, match="in order"):
        archive.put_frames(video.id, 5, [b"six"], [5.5])


def test_a_damaged_video_file_hides_that_video_only(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = new_video(), new_video()
    for video in (good, bad):
        archive.put_video(video)
    archive.files.write(f"{bad.id}/video.json", b'{"id": ')
    with caplog.at_level(logging.ERROR):
        assert [video.id for video in archive.videos()] == [good.id]
    assert f"{bad.id}/video.json" in caplog.text


def test_damaged_times_are_rebuilt_from_the_pictures(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    video = new_video(sample_fps=2.0)
    archive.put_video(video)
    archive.put_frames(video.id, 0, [b"a", b"b"], [0.25, 0.75])
    archive.files.write(f"{video.id}/000000/frames.json", b"garbage")
    with caplog.at_level(logging.ERROR):
        assert archive.timestamps_s(video.id, 0) == [0.25, 0.75]
    assert "frames.json is damaged" in caplog.text


def test_times_that_went_missing_are_rebuilt_once_the_video_is_settled(archive: Archive) -> None:
    video = new_video()
    archive.put_video(video)
    archive.put_frames(video.id, 0, [b"a", b"b"], [0.5, 1.5])
    archive.files.delete(f"{video.id}/000000/frames.json")
    assert archive.timestamps_s(video.id, 0) == []  # these pictures may be just on their way
    archive.put_video(video.model_copy(update={"status": "ready"}))
    assert archive.timestamps_s(video.id, 0) == [0.5, 1.5]


def test_a_deleted_video_gives_its_content_free(archive: Archive) -> None:
    video = new_video(sha256="ab")
    archive.put_video(video)
    archive.claim_content(video)
    archive.delete_video(video.id)
    assert archive.files.names("contents") == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "x/y", "20261121-020851123-4f2a9c/..", "контроль"])
def test_no_path_is_made_of_foreign_text(name: str, archive: Archive) -> None:
    for look in (archive.video, archive.question, archive.segments, archive.question_ids):
        with pytest.raises(NotFound):
            look(name)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path))
    archive.files.write("a/b", b"old")
    (tmp_path / "blocked").write_text("a file where a folder must be")
    with pytest.raises(ArchiveUnavailable, match=r"archive\.url"):
        archive.files.write("blocked/file", b"new")
    archive.files.write("a/b", b"new")
    assert archive.files.read("a/b") == b"new"
    assert archive.files.names("a") == ["b"]  # no temporary file is left


def test_an_unknown_kind_of_url_says_what_to_do() -> None:
    with pytest.raises(ArchiveUnavailable, match="nosuch"):
        Archive("nosuch://bucket")
