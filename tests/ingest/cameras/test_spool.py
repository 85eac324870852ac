"""The spool keeps what was written, whatever happens to the writer."""

import os
import threading
from pathlib import Path

import pytest

from ingest.cameras.spool import (
    SpooledFrame,
    SpoolWriter,
    list_spooled_segments,
    read_frames,
    remove_spooled,
    spool_path,
)


def frame(place: int, static: bool = False, size: int = 500) -> SpooledFrame:
    return SpooledFrame(place, place + 0.5, static, bytes([place]) * size, bytes([place + 1]) * (2 * size))


def spool(folder: Path, *places: int, segment: int = 3) -> Path:
    writer = SpoolWriter(folder)
    for place in places:
        assert writer.append_frame(segment, frame(place))
    writer.close()
    return spool_path(folder, segment)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = spool(tmp_path, 0, 5, 63)
    frames, end = read_frames(path)
    assert frames == [frame(0), frame(5), frame(63)]
    assert end == path.stat().st_size
    assert read_frames(path, end) == ([], end)


def test_a_reader_follows_the_writer(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path)
    offset, seen = 0, []
    for place in range(0, 64, 7):
        writer.append_frame(0, frame(place, static=place > 20))
        frames, offset = read_frames(spool_path(tmp_path, 0), offset)
        seen.append(frames)
    assert seen == [[frame(place, static=place > 20)] for place in range(0, 64, 7)]


@pytest.mark.parametrize("cut", [1, 30, 900, 1525])
def test_a_torn_tail_is_dropped_and_the_next_writer_goes_on(cut: int, tmp_path: Path) -> None:
    path = spool(tmp_path, 1, 2)
    os.truncate(path, path.stat().st_size - cut)
    frames, offset = read_frames(path)
    assert frames == [frame(1)]
    spool(tmp_path, 7)
    assert read_frames(path, offset)[0] == [frame(7)]
    assert read_frames(path)[0] == [frame(1), frame(7)]


@pytest.mark.parametrize("at", [0, 4, 5, 8, 14, 20, 24, 100, 1000])
def test_a_damaged_record_ends_the_file(at: int, tmp_path: Path) -> None:
    path = spool(tmp_path, 1, 2, 3)
    one = path.stat().st_size // 3
    content = bytearray(path.read_bytes())
    content[one + at] ^= 0xFF
    path.write_bytes(content)
    assert read_frames(path) == ([frame(1)], one)


def test_a_place_is_filled_once(tmp_path: Path) -> None:
    path = spool(tmp_path, 4)
    writer = SpoolWriter(tmp_path)
    assert not writer.append_frame(3, frame(4, size=9))
    assert writer.append_frame(3, frame(5))
    assert not writer.append_frame(3, frame(5, size=9))
    path.write_bytes(path.read_bytes() * 2)  # as if two writers had been at work
    frames, end = read_frames(path)
    assert frames == [frame(4), frame(5)]
    assert end == path.stat().st_size
    assert read_frames(path, end // 2) == ([], end)


def test_a_frame_after_its_segment_was_moved_to_the_archive_begins_a_new_file(tmp_path: Path) -> None:
    writer, path = SpoolWriter(tmp_path), spool_path(tmp_path, 0)
    assert writer.append_frame(0, frame(1))
    assert remove_spooled(path, read_frames(path)[1])
    assert not writer.append_frame(0, frame(1, size=9)), "the archive has this place"
    assert writer.append_frame(0, frame(2))
    assert read_frames(path)[0] == [frame(2)]
    assert writer.append_frame(1, frame(2))


def test_a_file_to_which_something_was_appended_is_not_removed(tmp_path: Path) -> None:
    writer, path = SpoolWriter(tmp_path), spool_path(tmp_path, 0)
    assert writer.append_frame(0, frame(1))
    _, offset = read_frames(path)
    assert writer.append_frame(0, frame(2))
    assert not remove_spooled(path, offset)
    assert read_frames(path)[0] == [frame(1), frame(2)]
    assert remove_spooled(path, path.stat().st_size)
    assert not path.exists()
    assert remove_spooled(path, 0)


def test_no_frame_is_lost_between_a_writer_and_somebody_who_empties_the_spool(tmp_path: Path) -> None:
    writer, path, found = SpoolWriter(tmp_path), spool_path(tmp_path, 0), list[SpooledFrame]()
    over = threading.Event()

    def empty() -> None:
        while not over.is_set() or path.exists():
            frames, offset = read_frames(path)
            if remove_spooled(path, offset):
                found.extend(frames)

    reader = threading.Thread(target=empty)
    reader.start()
    written = [frame(place) for place in range(64)]
    assert all(writer.append_frame(0, each) for each in written)
    over.set()
    reader.join()
    assert found == written


def test_segments_are_listed(tmp_path: Path) -> None:
    assert list_spooled_segments(tmp_path / "none") == []
    for segment in (10, 2, 1_234_567):
        spool(tmp_path, 0, segment=segment)
    (tmp_path / "000003-0.mp4.part").touch()
    assert list_spooled_segments(tmp_path) == [2, 10, 1_234_567]


def test_a_missing_file_holds_nothing(tmp_path: Path) -> None:
    assert read_frames(tmp_path / "000000.frames", 77) == ([], 77)


def test_a_full_disk_leaves_no_part_of_a_frame(tmp_path: Path) -> None:
    """A limit on the file's size fails a write in its middle, as a full disk does."""
    import resource
    import signal

    writer = SpoolWriter(tmp_path)
    writer.append_frame(0, frame(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        with pytest.raises(OSError, match=r"spool|large"):
            writer.append_frame(0, frame(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert writer.append_frame(0, frame(3))
    assert read_frames(spool_path(tmp_path, 0))[0] == [frame(1), frame(3)]
