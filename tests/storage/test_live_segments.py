"""A stream's segments: gaps in masks, several hosts that hold frames of one segment, and marks that grow."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.archive import Archive
from storage.errors import NotFound
from storage.store import Store
from storage.timeline import FULL_MASK, find_gaps, mask_of
from tests.storage.making import MODEL, OTHER_MODEL, make_frames, make_record, make_stream


def read_frames(archive: Archive, stream_id: str, segment: int = 0) -> dict[int, bytes | None]:
    with archive.open_segment(stream_id, segment) as reader:
        return {frame.place: frame.model for frame in reader.read_all()}


def test_a_listing_tells_which_slots_have_frames(archive: Archive) -> None:
    stream = make_stream()
    archive.write_video(stream)
    archive.merge_segment(stream.id, 0, make_frames(64))
    archive.merge_segment(stream.id, 7, make_frames(3, first_place=5))
    assert archive.list_contents(stream.id).sampled == {0: FULL_MASK, 7: 0b11100000}


def test_merging_adds_frames_and_keeps_those_that_are_there(archive: Archive) -> None:
    stream = make_stream()
    archive.write_video(stream)
    assert archive.merge_segment(stream.id, 0, make_frames(4, content=b"first")) == 0b1111
    assert archive.merge_segment(stream.id, 0, make_frames(4, 2, content=b"late")) == 0b111111
    frames = read_frames(archive, stream.id)
    assert [b"first" in (frames[place] or b"") for place in range(6)] == [True] * 4 + [False] * 2
    assert archive.list_contents(stream.id).sampled == {0: 0b111111}
    assert len(archive.files.names(f"{stream.id}/000000")) == 1
    assert archive.merge_segment(stream.id, 0, make_frames(64)) == FULL_MASK
    assert archive.files.names(f"{stream.id}/000000") == ["frames.zip"]


def test_hosts_that_merge_at_the_same_time_lose_no_frame(archive: Archive) -> None:
    stream = make_stream()
    archive.write_video(stream)
    random.seed(5)
    shares = [sorted(random.sample(range(64), 9)) for _ in range(6)]

    def merge(places: list[int]) -> int:
        return archive.merge_segment(stream.id, 0, [frame for frame in make_frames(64) if frame.place in places])

    with ThreadPoolExecutor(6) as threads:
        masks = list(threads.map(merge, shares))
    for mask, places in zip(masks, shares, strict=True):
        assert not mask_of(places) & ~mask
    assert set(read_frames(archive, stream.id)) == {place for places in shares for place in places}
    assert len(archive.files.names(f"{stream.id}/000000")) == 1


def test_a_frame_names_the_one_whose_token_it_shares(archive: Archive) -> None:
    stream = make_stream()
    archive.write_video(stream)
    frames = make_frames(3)
    archive.merge_segment(stream.id, 0, [frames[0], frames[1].__class__(1, 1.5, b"m", None, same_as=0), frames[2]])
    with archive.open_segment(stream.id, 0) as reader:
        assert reader.same_as == {1: 0}
        assert [frame.same_as for frame in reader.read_all()] == [None, 0, None]


def test_a_deleted_stream_takes_no_more_segments(archive: Archive) -> None:
    stream = make_stream()
    with pytest.raises(NotFound):
        archive.merge_segment(stream.id, 0, make_frames(2))
    assert archive.files.names() == []


def test_a_segment_that_grows_counts_once_and_is_encoded_again(store: Store) -> None:
    stream = make_stream()
    store.add_video(stream)
    store.close_segment(stream.id, 3, make_frames(10))
    for model in (MODEL, OTHER_MODEL):
        store.create_record(stream.id, 3, make_record(10, model))
    covered = store.read_coverage(stream, range(8), MODEL)
    assert (covered.sampled, covered.encoded, set(covered.recorded)) == ({3: 1023}, {3: 1023}, {3})
    store.close_segment(stream.id, 3, make_frames(10))  # the same again changes nothing
    assert store.read_coverage(stream, range(8), MODEL).recorded == {3}
    store.close_segment(stream.id, 3, make_frames(54, 10))
    for model in (MODEL, OTHER_MODEL):
        covered = store.read_coverage(stream, range(8), model)
        assert (covered.sampled, covered.encoded, covered.missing()) == ({3: FULL_MASK}, {}, [3])
        (totals,) = store.coverage.read_totals([stream.id], model)
        assert totals is not None
        assert (totals.sampled, totals.encoded) == (64, 0)


def test_an_old_record_of_a_segment_that_grew_is_not_used(store: Store) -> None:
    stream = make_stream()
    store.add_video(stream)
    store.close_segment(stream.id, 0, make_frames(10))
    store.create_record(stream.id, 0, make_record(10))
    store.close_segment(stream.id, 0, make_frames(5, 10))
    assert store.read_tokens(stream.id, [0], MODEL, wanted={0: 1 << 12}) == {0: None}
    assert store.archive.read_record(stream.id, 0, MODEL) is None


def test_marks_of_a_stream_are_read_from_the_archive_after_a_flush(store: Store) -> None:
    stream = make_stream()
    store.add_video(stream)
    for segment, count in ((0, 64), (2, 9), (300, 64)):
        store.close_segment(stream.id, segment, make_frames(count))
    store.create_record(stream.id, 2, make_record(9))
    before = store.read_coverage(stream, range(400), MODEL)
    store.state.flushall()
    after = store.read_coverage(stream, range(400), MODEL)
    assert (after.sampled, after.encoded) == (before.sampled, before.encoded)
    assert after.sampled == {0: FULL_MASK, 2: 511, 300: FULL_MASK}
    assert store.coverage.count_sampled(stream.id) == 137


def test_a_removed_segment_leaves_no_mark(store: Store) -> None:
    stream = make_stream()
    store.add_video(stream)
    store.close_segment(stream.id, 0, make_frames(10))
    store.close_segment(stream.id, 1, make_frames(64))
    store.create_record(stream.id, 0, make_record(10))
    store.coverage.remove_segment(stream.id, 0, 1023)
    covered = store.read_coverage(stream, range(8), MODEL)
    assert (covered.sampled, covered.recorded) == ({1: FULL_MASK}, frozenset())
    (totals,) = store.coverage.read_totals([stream.id], MODEL)
    assert totals is not None
    assert (totals.sampled, totals.encoded) == (64, 0)


def test_gaps_are_the_slots_that_no_mask_has() -> None:
    assert find_gaps({}, range(0)) == []
    assert find_gaps({}, range(60, 200)) == [range(60, 200)]
    assert find_gaps({0: FULL_MASK, 1: FULL_MASK}, range(128)) == []
    assert find_gaps({0: FULL_MASK, 2: FULL_MASK & ~0b110}, range(10, 192)) == [range(64, 128), range(129, 131)]
