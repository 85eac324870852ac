"""What the archive holds of a stream's recordings, and how many bytes of all: known without a listing."""

from pathlib import Path

import pytest

from storage.archive import Archive
from storage.documents import Video
from storage.errors import DamagedState, NotFound
from storage.recordings import Recording, parse_name
from storage.sizes import HeldBytes
from storage.store import Store
from tests.storage.making import MODEL, OTHER_MODEL, make_frames, make_record, make_stream


def make_recording(segment: int, start_ms: int | None = None, size: int = 1000, form: str = "0badcafe") -> Recording:
    return Recording(segment * 64_000 if start_ms is None else start_ms, segment, 64_000, "h264", 700, form, size)


def add_recording(store: Store, stream: Video, recording: Recording, folder: Path) -> None:
    file = folder / "file"
    file.write_bytes(bytes(recording.size_bytes))
    store.add_recording(stream.id, recording, file)


@pytest.fixture
def stream(store: Store) -> Video:
    made = make_stream()
    store.add_video(made)
    return made


def test_a_name_tells_all_but_the_size() -> None:
    recording = make_recording(7, 450_123)
    assert recording.name == "000007-450123-64000-h264-700-0badcafe.mp4"
    assert parse_name(recording.name, 1000) == recording
    assert (recording.start_s, recording.end_s) == (450.123, 514.123)
    for wrong in ("", "../../x.mp4", recording.name + "/", recording.name.replace("h264", "H/264"), "1-2-3-h264.mp4"):
        assert parse_name(wrong, 1) is None


def test_a_stretch_lists_its_recordings_in_order_of_time(store: Store, stream: Video) -> None:
    made = [make_recording(segment) for segment in (0, 5, 63, 64, 130, 100_000)]
    twice = make_recording(5, 5 * 64_000 + 20_000)
    store.recordings.add(stream.id, [*reversed(made), twice, *made])
    assert store.recordings.list_segments(stream.id, range(5, 131)) == sorted([*made[1:5], twice])
    assert store.recordings.list_segments(stream.id, range(10**9)) == sorted([*made, twice])
    assert store.recordings.list_segments(stream.id, range(6, 60)) == []
    assert store.recordings.list_segments(stream.id, range(0)) == []
    assert store.recordings.list_oldest(stream.id, 2)[:2] == [made[0], made[1]]
    assert store.sizes.read_totals([stream.id]) == [HeldBytes(0, 7000)]
    store.recordings.remove(stream.id, [made[1], made[4], made[4]])
    assert store.recordings.list_segments(stream.id, range(5, 131)) == [twice, made[2], made[3]]
    assert store.sizes.read_totals([stream.id]) == [HeldBytes(0, 5000)]


def test_a_flush_loses_neither_recordings_nor_sizes(store: Store, stream: Video, tmp_path: Path) -> None:
    for segment in (0, 3, 300):
        store.close_segment(stream.id, segment, make_frames(64))
        add_recording(store, stream, make_recording(segment), tmp_path)
    for model in (MODEL, OTHER_MODEL):
        store.create_record(stream.id, 3, make_record(64, model))
    (before,) = store.sizes.read_totals([stream.id])
    tree = store.archive.files.tree(stream.id)
    assert before.frames == sum(size for path, size in tree.items() if path.endswith((".zip", ".safetensors")))
    assert before.recordings == 3000
    sizes = store.sizes.read_segments(stream.id, range(301))
    assert (list(sizes), sum(sizes.values())) == ([0, 3, 300], before.frames)
    store.state.flushall()
    for _ in range(2):
        store.count_video(stream)
        store.coverage.forget(stream.id)  # as `rebuild_state` does: marks that are left do not count twice
    store.count_video(stream)
    assert store.sizes.read_totals([stream.id]) == [before]
    assert store.sizes.read_segments(stream.id, range(301)) == sizes
    assert [one.segment for one in store.recordings.list_segments(stream.id, range(301))] == [0, 3, 300]


def test_what_is_stored_twice_counts_once_and_what_grows_counts_as_it_is(store: Store, stream: Video) -> None:
    for _ in range(2):
        store.close_segment(stream.id, 3, make_frames(10))
        store.create_record(stream.id, 3, make_record(10))
    store.close_segment(stream.id, 3, make_frames(20, 10))
    tree = store.archive.files.tree(stream.id)
    assert store.sizes.read_segments(stream.id, range(8)) == {
        3: sum(size for path, size in tree.items() if "3/" in path)
    }
    store.drop_record(stream.id, 3, make_record(10))
    tree = store.archive.files.tree(stream.id)
    assert store.sizes.read_totals([stream.id])[0].frames == sum(size for path, size in tree.items() if "3/" in path)
    store.sizes.remove_segments(stream.id, [3, 4, 1000])
    assert store.sizes.read_totals([stream.id]) == [HeldBytes(0, 0)]
    assert store.sizes.read_segments(stream.id, range(8)) == {}


def test_removed_recordings_are_gone_from_archive_and_index(store: Store, stream: Video, tmp_path: Path) -> None:
    kept, removed = make_recording(0), make_recording(0, 30_000)
    for recording in (kept, removed):
        add_recording(store, stream, recording, tmp_path)
    store.delete_recordings(stream.id, [removed, removed])
    assert store.recordings.list_oldest(stream.id, 9) == [kept]
    assert store.archive.list_contents(stream.id).recordings == [kept]
    with store.archive.open_recording(stream.id, kept) as file:
        assert len(file.read()) == 1000
    with pytest.raises(NotFound), store.archive.open_recording(stream.id, removed):
        pass


def test_a_deleted_stream_takes_no_recording(store: Store, tmp_path: Path) -> None:
    gone = make_stream()
    with pytest.raises(NotFound):
        add_recording(store, gone, make_recording(0), tmp_path)
    store.index.mark_deleted(gone.id)
    store.recordings.add(gone.id, [make_recording(0)])
    store.sizes.set_frames(gone.id, {0: 5})
    assert store.recordings.list_oldest(gone.id, 1) == []
    assert store.sizes.read_totals([gone.id, gone.id]) == [HeldBytes(0, 0)] * 2


def test_damaged_values_are_reported_and_counted_again(store: Store, stream: Video, tmp_path: Path) -> None:
    add_recording(store, stream, make_recording(0), tmp_path)
    store.state.set(f"lw:recordings:{stream.id}", "damage")
    with pytest.raises(DamagedState):
        store.recordings.list_segments(stream.id, range(5))
    store.coverage.forget(stream.id)
    store.count_video(stream)
    assert len(store.recordings.list_segments(stream.id, range(5))) == 1


def test_parts_of_a_recording_are_read_from_any_archive(archive: Archive, tmp_path: Path) -> None:
    stream, recording = make_stream(), make_recording(2, size=3_000_000)
    archive.write_video(stream)
    content = bytes(range(250)) * 12_000
    (tmp_path / "file").write_bytes(content)
    archive.put_recording(stream.id, recording, tmp_path / "file")
    assert archive.list_contents(stream.id).recordings == [recording]
    assert archive.measure_recording(stream.id, recording) == 3_000_000
    with archive.open_recording(stream.id, recording) as file:
        for at in (2_999_990, 0, 1_500_000):
            file.seek(at)
            assert file.read(1000) == content[at : at + 1000]
    archive.delete_recording(stream.id, recording)
    with pytest.raises(NotFound):
        archive.measure_recording(stream.id, recording)
