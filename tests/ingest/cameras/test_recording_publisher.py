"""Finished recordings reach the archive once, whatever died on the way."""

import os
import time
from pathlib import Path

import pytest

from configs.settings import Settings
from ingest.cameras.recording_publisher import ABANDONED_S, RecordingPublisher
from storage.deletion import delete_video
from storage.documents import Video
from storage.errors import ArchiveUnavailable
from storage.recordings import Recording
from storage.store import Store
from tests.playback.recorded import GRID, Shelf
from tests.storage.making import make_stream


@pytest.fixture
def stream(store: Store) -> Video:
    made = make_stream(sample_fps=GRID.sample_fps)
    store.add_video(made)
    return made


@pytest.fixture
def captured() -> set[str]:
    """The streams that this host captures."""
    return set()


@pytest.fixture
def publisher(settings: Settings, store: Store, captured: set[str]) -> RecordingPublisher:
    return RecordingPublisher(settings, store, lambda: captured)


def spool(settings: Settings, stream: Video, folder: Path, seconds: float = 20) -> Path:
    """Puts real recordings into the stream's spool, as a camera's child does."""
    target = settings.spool_dir / stream.id
    target.mkdir(parents=True, exist_ok=True)
    shelf = Shelf(folder)
    for recording in shelf.record(1.0, seconds):
        file = shelf.files[recording.name]
        file.rename(target / file.name)
    return target


def list_recordings(store: Store, stream: Video) -> list[Recording]:
    return store.list_recordings(stream, 0, 1e6)


def test_finished_recordings_move_to_the_archive(
    settings: Settings, store: Store, stream: Video, publisher: RecordingPublisher, tmp_path: Path
) -> None:
    folder = spool(settings, stream, tmp_path)
    names = sorted(file.name for file in folder.iterdir())
    publisher.look_at_spool()
    publisher.look_at_spool()
    assert list(folder.iterdir()) == []
    found = list_recordings(store, stream)
    assert [f"{r.segment:06d}-{r.start_ms}-{r.duration_ms}-{r.codec}.mp4" for r in found] == names
    assert store.archive.list_contents(stream.id).recordings == found
    assert store.sizes.read_totals([stream.id])[0].recordings == sum(each.size_bytes for each in found)


def test_a_death_between_archive_and_index_loses_nothing(
    settings: Settings, store: Store, stream: Video, publisher: RecordingPublisher, tmp_path: Path
) -> None:
    folder = spool(settings, stream, tmp_path)
    count = len(list(folder.iterdir()))
    store.state.set(f"lw:recordings:{stream.id}", "damage")  # the index refuses: as if the process had died there
    with pytest.raises(Exception, match="damaged"):
        publisher.look_at_spool()
    assert len(list(folder.glob("*.mp4"))) == count
    store.state.delete(f"lw:recordings:{stream.id}")
    (folder / "000000-1-2-h264.sent").write_bytes(b"left by a killed process")
    publisher.look_at_spool()
    assert len(list_recordings(store, stream)) == count


def test_an_archive_that_is_away_delays_recordings(
    settings: Settings, store: Store, stream: Video, publisher: RecordingPublisher, tmp_path: Path
) -> None:
    folder = spool(settings, stream, tmp_path, 3)
    archive = Path(settings.archive_url)
    archive.rename(archive.with_name("away"))
    archive.write_bytes(b"no folder")
    with pytest.raises(ArchiveUnavailable):
        publisher.look_at_spool()
    assert len(list(folder.glob("*.mp4"))) == 1
    archive.unlink()
    archive.with_name("away").rename(archive)
    publisher.look_at_spool()
    assert len(list_recordings(store, stream)) == 1


def test_a_partial_file_is_finished_once_nobody_writes_it(
    settings: Settings,
    store: Store,
    stream: Video,
    captured: set[str],
    publisher: RecordingPublisher,
    tmp_path: Path,
) -> None:
    folder = spool(settings, stream, tmp_path, 6)
    (whole,) = folder.iterdir()
    partial = folder / "000000-1000.mp4.part"
    partial.write_bytes(whole.read_bytes()[:-100])  # its last group of pictures is torn
    whole.unlink()
    old = time.time() - 2 * ABANDONED_S
    publisher.look_at_spool()
    assert partial.exists()  # young: it may be in use
    os.utime(partial, (old, old))
    captured.add(stream.id)
    publisher.look_at_spool()
    assert partial.exists()  # its camera's next child finishes it
    captured.clear()
    publisher.look_at_spool()
    (recording,) = list_recordings(store, stream)
    assert (recording.start_ms, recording.duration_ms, recording.codec) == (1000, 4000, "h264")
    assert list(folder.iterdir()) == []


def test_damaged_files_and_deleted_streams_are_dropped(
    settings: Settings, store: Store, stream: Video, publisher: RecordingPublisher, tmp_path: Path
) -> None:
    folder = spool(settings, stream, tmp_path, 3)
    (folder / "000007-7000-100-h264.mp4").write_bytes(b"not a video")
    publisher.look_at_spool()
    assert list(folder.iterdir()) == []
    assert len(list_recordings(store, stream)) == 1
    (tmp_path / "again").mkdir()
    spool(settings, stream, tmp_path / "again", 3)
    delete_video(store, stream.id)
    publisher.look_at_spool()
    assert store.archive.files.names() == []
