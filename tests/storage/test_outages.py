"""A failing archive is never mistaken for an empty one: each call raises ArchiveUnavailable and removes nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from storage.archive import Archive
from storage.errors import ArchiveUnavailable
from storage.ids import new_video_id
from storage.live_documents import Delivery, Watch
from tests.storage.conftest import BUCKET, S3
from tests.storage.making import MODEL, make_frames, make_question, make_record, make_video
from tests.storage.publishing import make_event

VIDEO = make_video()
QUESTION = make_question(VIDEO)
WATCH = Watch(id="w1", stream_id=VIDEO.id, question="?")
EVENT = make_event(VIDEO.id, id="20261121-020851123456", watch_id=WATCH.id)
DELIVERY = Delivery(event_id=EVENT.id, stream_id=VIDEO.id, watch_id=WATCH.id)
USES: dict[str, Callable[[Archive, Path], object]] = {
    "write_video": lambda archive, _: archive.write_video(VIDEO),
    "read_video": lambda archive, _: archive.read_video(VIDEO.id),
    "has_video": lambda archive, _: archive.has_video(VIDEO.id),
    "list_video_ids": lambda archive, _: archive.list_video_ids(),
    "list_contents": lambda archive, _: archive.list_contents(VIDEO.id),
    "delete_video": lambda archive, _: archive.delete_video(VIDEO.id),
    "create_segment": lambda archive, _: archive.create_segment(VIDEO.id, 7, make_frames(1)),
    "open_segment": lambda archive, _: archive.open_segment(VIDEO.id, 0).__enter__(),
    "create_record": lambda archive, _: archive.create_record(VIDEO.id, 7, make_record()),
    "read_record": lambda archive, _: archive.read_record(VIDEO.id, 0, MODEL),
    "write_question": lambda archive, _: archive.write_question(QUESTION),
    "read_question": lambda archive, _: archive.read_question(QUESTION.id),
    "write_watch": lambda archive, _: archive.write_watch(WATCH),
    "read_watch": lambda archive, _: archive.read_watch(VIDEO.id, WATCH.id),
    "list_watch_ids": lambda archive, _: archive.list_watch_ids(VIDEO.id),
    "delete_watch": lambda archive, _: archive.delete_watch(VIDEO.id, WATCH.id),
    "create_event": lambda archive, _: archive.create_event(EVENT.model_copy(update={"id": EVENT.id[:-1] + "7"})),
    "give_up_event": lambda archive, _: archive.give_up_event(VIDEO.id, EVENT.id[:-1] + "8"),
    "void_event": lambda archive, _: archive.void_event(EVENT),
    "read_event": lambda archive, _: archive.read_event(VIDEO.id, EVENT.id),
    "list_event_days": lambda archive, _: archive.list_event_days(VIDEO.id),
    "list_day": lambda archive, _: archive.list_day(VIDEO.id, EVENT.id[:8]),
    "read_events": lambda archive, _: archive.read_events(VIDEO.id, [EVENT.id]),
    "delete_event_day": lambda archive, _: archive.delete_event_day(VIDEO.id, EVENT.id[:8]),
    "write_delivery": lambda archive, _: archive.write_delivery(DELIVERY),
    "read_deliveries": lambda archive, _: archive.read_deliveries(VIDEO.id, [EVENT.id]),
    "put_source": lambda archive, file: archive.put_source(VIDEO.id, file),
    "open_source": lambda archive, file: archive.open_source(VIDEO.id, file.with_name("work")),
    "read_source": lambda archive, _: archive.read_source(VIDEO.id),
    "delete_source": lambda archive, _: archive.delete_source(VIDEO.id),
    "check": lambda archive, _: archive.files.check(),
}


def fill(archive: Archive) -> None:
    archive.write_video(VIDEO)
    archive.create_segment(VIDEO.id, 0, make_frames(64))
    archive.create_record(VIDEO.id, 0, make_record())
    archive.write_question(QUESTION)
    archive.write_watch(WATCH)
    archive.create_event(EVENT)
    archive.write_delivery(DELIVERY)


def test_every_call_reports_an_unreachable_server_and_nothing_is_lost(s3: S3, tmp_path: Path) -> None:
    archive = Archive(f"s3://{BUCKET}/archive", s3.options)
    fill(archive)
    before = archive.files.tree("")
    (tmp_path / "file").write_bytes(b"source")
    s3.stop()
    for use in USES.values():
        with pytest.raises(ArchiveUnavailable, match=r"archive\.url"):
            use(archive, tmp_path / "file")
    s3.start()
    assert archive.files.tree("") == before
    archive.create_segment(VIDEO.id, 1, make_frames(64))
    with archive.open_segment(VIDEO.id, 1) as segment:
        assert len(segment.times_s) == 64


def test_an_outage_while_a_segment_is_read_is_reported_as_one(s3: S3) -> None:
    archive = Archive(f"s3://{BUCKET}/archive", s3.options | {"default_block_size": 5 * 2**20})
    archive.write_video(VIDEO)
    archive.create_segment(VIDEO.id, 0, make_frames(64, content=b"x" * 400_000))
    with archive.open_segment(VIDEO.id, 0) as segment:
        s3.stop()
        with pytest.raises(ArchiveUnavailable):
            [segment.read_picture("model", place) for place in range(64)]


def test_a_missing_bucket_is_not_an_empty_archive(s3: S3) -> None:
    archive = Archive("s3://nosuch/archive", s3.options)
    for use in (archive.list_video_ids, lambda: archive.read_video(VIDEO.id), lambda: archive.has_video(VIDEO.id)):
        with pytest.raises(ArchiveUnavailable, match="bucket"):
            use()


def test_a_missing_folder_is_not_an_empty_archive(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path / "mount"))
    assert archive.list_video_ids() == []  # a new one
    fill(archive)
    (tmp_path / "mount").rename(tmp_path / "unmounted")
    for name in ("read_video", "has_video", "list_video_ids", "open_segment", "read_record", "read_question"):
        with pytest.raises(ArchiveUnavailable, match="mounted"):
            USES[name](archive, tmp_path)
    (tmp_path / "unmounted").rename(tmp_path / "mount")
    assert archive.read_video(VIDEO.id) == VIDEO


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path))
    blocked = new_video_id()
    (tmp_path / blocked).write_text("a file where a folder must be")
    for use in (
        lambda: archive.has_video(blocked),
        lambda: archive.read_video(blocked),
        lambda: archive.write_video(make_video(id=blocked)),
    ):
        with pytest.raises(ArchiveUnavailable, match=blocked):
            use()
    assert (tmp_path / blocked).exists()
