"""The archive, in a folder and on S3: complete without Redis, write-once, and usable despite damaged files."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from storage.archive import Archive, EventDay
from storage.errors import ArchiveUnavailable, DamagedFile, NotFound
from storage.live_documents import Delivery, Watch, Webhook
from storage.timeline import FULL_MASK
from tests.storage.making import MODEL, OTHER_MODEL, make_frames, make_question, make_record, make_video
from tests.storage.publishing import make_event


def test_everything_written_can_be_read_back(archive: Archive) -> None:
    video = make_video()
    archive.write_video(video)
    archive.create_segment(video.id, 0, make_frames(64))
    archive.create_segment(video.id, 2, make_frames(3, first_place=5))
    archive.create_record(video.id, 0, make_record())
    archive.create_record(video.id, 0, make_record(fingerprint=OTHER_MODEL))
    question = make_question(video)
    archive.write_question(question)
    assert archive.read_video(video.id) == video
    assert archive.read_question(question.id) == question
    assert archive.list_video_ids() == [video.id]
    contents = archive.list_contents(video.id)
    assert contents.sampled == {0: FULL_MASK, 2: FULL_MASK}
    assert contents.encoded == {MODEL: [0], OTHER_MODEL: [0]}
    assert contents.question_ids == [question.id]
    with archive.open_segment(video.id, 2) as segment:
        assert segment.mask == 0b11100000
        assert segment.read_picture("view", 6) == b"view-6-jpg"
    record = archive.read_record(video.id, 0, MODEL)
    assert record is not None
    assert np.array_equal(record.tokens, make_record().tokens)


def test_deleting_leaves_nothing_and_can_be_repeated(archive: Archive) -> None:
    video = make_video()
    archive.write_video(video)
    archive.create_segment(video.id, 0, make_frames(2))
    archive.delete_video(video.id)
    archive.delete_video(video.id)
    assert archive.list_video_ids() == []
    assert list(archive.files.tree(video.id)) == []
    with pytest.raises(NotFound), archive.open_segment(video.id, 0):
        pass


def test_a_late_writer_with_12_frames_leaves_the_finished_64(archive: Archive) -> None:
    video = make_video()
    archive.write_video(video)
    assert archive.create_segment(video.id, 0, make_frames(64)) == FULL_MASK
    assert archive.create_segment(video.id, 0, make_frames(12, content=b"late")) == FULL_MASK
    with archive.open_segment(video.id, 0) as segment:
        assert len(segment.times_s) == 64
        assert segment.read_picture("model", 3) == b"model-3-jpg"


def test_one_of_four_writers_at_once_wins_whole(archive: Archive) -> None:
    video = make_video()
    archive.write_video(video)
    start = threading.Barrier(4)
    created: list[int] = []

    def write(number: int) -> None:
        start.wait()
        if archive.files.create(f"{video.id}/000000/frames.zip", b"%d" % number * 100_000):
            created.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(created) == 1
    assert archive.files.read(f"{video.id}/000000/frames.zip") == b"%d" % created[0] * 100_000


@pytest.mark.parametrize("late", ["segment", "record", "question"])
def test_a_write_after_the_deletion_leaves_nothing(late: str, archive: Archive) -> None:
    video = make_video()
    archive.write_video(video)
    archive.delete_video(video.id)
    writes: dict[str, Callable[[], object]] = {
        "segment": lambda: archive.create_segment(video.id, 0, make_frames(1)),
        "record": lambda: archive.create_record(video.id, 0, make_record()),
        "question": lambda: archive.write_question(make_question(video)),
    }
    with pytest.raises(NotFound, match="deleted meanwhile"):
        writes[late]()
    assert archive.list_video_ids() == []


def test_damage_is_named_by_path_and_affects_only_that_file(archive: Archive) -> None:
    video = make_video()
    archive.write_video(video)
    archive.create_segment(video.id, 0, make_frames(2))
    archive.create_segment(video.id, 1, make_frames(2))
    archive.files.write(f"{video.id}/000000/frames.zip", b"garbage")
    with pytest.raises(DamagedFile, match=rf"{video.id}/000000/frames\.zip"), archive.open_segment(video.id, 0):
        pass
    with archive.open_segment(video.id, 1) as segment:
        assert segment.mask == 3
    archive.files.write(f"{video.id}/video.json", b'{"id": ')
    with pytest.raises(DamagedFile, match=rf"{video.id}/video\.json"):
        archive.read_video(video.id)


def test_a_damaged_record_is_reported_and_can_be_replaced(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    video = make_video()
    archive.write_video(video)
    archive.files.write(f"{video.id}/000000/tokens-{MODEL}.safetensors", b"garbage")
    assert archive.read_record(video.id, 0, MODEL) is None
    assert f"tokens-{MODEL}.safetensors is damaged" in caplog.text
    archive.create_record(video.id, 0, make_record())
    assert archive.read_record(video.id, 0, MODEL) is not None


def test_an_uploads_bytes_reach_any_host(archive: Archive, tmp_path: Path) -> None:
    video = make_video(kind="upload", location="")
    upload = tmp_path / "upload"
    upload.write_bytes(b"source" * 1000)
    archive.put_source(video.id, upload)
    there = archive.open_source(video.id, tmp_path / "elsewhere" / "work")
    assert there.read_bytes() == b"source" * 1000
    assert archive.read_source(video.id) == b"source" * 1000
    archive.delete_source(video.id)
    with pytest.raises(NotFound, match="add the video again"):
        archive.open_source(video.id, tmp_path / "elsewhere" / "another")


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "x/y", "20261121-020851123-4f2a9c/..", "контроль"])
def test_foreign_text_never_becomes_a_path(name: str, archive: Archive) -> None:
    for look in (archive.read_video, archive.read_question, archive.list_contents, archive.delete_video):
        with pytest.raises(NotFound):
            look(name)


def test_an_unknown_kind_of_url_says_what_to_do() -> None:
    with pytest.raises(ArchiveUnavailable, match="nosuch"):
        Archive("nosuch://bucket")


def test_an_event_is_written_once_unless_its_id_was_given_up(archive: Archive) -> None:
    video = make_video()
    archive.write_video(video)
    event = make_event(video.id, id="20261121-020851123456", key="a")
    assert archive.create_event(event) == event
    assert archive.create_event(event.model_copy(update={"message": "late"})) == event
    assert archive.give_up_event(video.id, event.id) == event
    other = event.model_copy(update={"id": "20261122-000000000000"})
    assert archive.give_up_event(video.id, other.id) is None
    assert archive.create_event(other) is None
    with pytest.raises(NotFound):
        archive.read_event(video.id, other.id)
    archive.write_delivery(Delivery(event_id=event.id, stream_id=video.id, watch_id="w1"))
    assert archive.list_event_days(video.id) == ["20261121", "20261122"]
    assert archive.list_day(video.id, "20261121") == EventDay([event.id], frozenset([event.id]))
    assert archive.read_events(video.id, [event.id, other.id, "20261121-000000000000"]) == ([event], {})
    found, _ = archive.read_deliveries(video.id, [event.id, other.id])
    assert [delivery.status for delivery in found] == ["pending"]
    archive.delete_event_day(video.id, "20261121")
    assert archive.list_event_days(video.id) == ["20261122"]
    with pytest.raises(NotFound):
        archive.create_event(make_event(make_video().id, id=event.id))


def test_watches_can_be_written_read_listed_and_deleted(archive: Archive) -> None:
    video = make_video()
    archive.write_video(video)
    watch = Watch(id="w1", stream_id=video.id, question="?", webhook=Webhook(url="http://nas/", secret="s"))
    archive.write_watch(watch)
    assert archive.read_watch(video.id, "w1") == watch
    assert archive.list_watch_ids(video.id) == ["w1"]
    archive.delete_watch(video.id, "w1")
    assert archive.list_watch_ids(video.id) == []
    for bad in ("w1", "../w1", "a/b", ""):
        with pytest.raises(NotFound):
            archive.read_watch(video.id, bad)
    with pytest.raises(NotFound):
        archive.write_watch(watch.model_copy(update={"stream_id": make_video().id}))
