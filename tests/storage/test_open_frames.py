"""Frames of a stream that the archive does not hold yet."""

import numpy as np

from storage.open_frames import SystemMean
from storage.segments import SegmentFrame
from storage.store import Store
from storage.timeline import FULL_MASK
from tests.storage.making import MODEL, list_keys, make_frames, make_record, make_stream

TOKEN = np.full((1, 8), 2.0, np.float16)


def test_captured_frames_count_before_the_archive_has_them(store: Store) -> None:
    stream = make_stream()
    store.add_video(stream)
    store.add_frames(stream.id, 2, make_frames(3))
    covered = store.read_coverage(stream, range(8), MODEL)
    assert (covered.sampled, covered.encoded, covered.missing()) == ({2: 0b111}, {}, [2])
    store.open_frames.write_tokens(stream.id, MODEL, {128: TOKEN, 129: TOKEN})
    covered = store.read_coverage(stream, range(8), MODEL)
    assert (covered.encoded, covered.recorded) == ({2: 0b11}, frozenset())
    found = store.read_tokens(stream.id, [2], MODEL, wanted={2: 0b11})[2]
    assert found is not None
    assert (found[0], found[1].shape) == (0b11, (2, 1, 8))


def test_tokens_stay_usable_while_a_segment_moves_to_the_archive(store: Store) -> None:
    stream = make_stream()
    store.add_video(stream)
    store.add_frames(stream.id, 0, make_frames(64))
    store.open_frames.write_tokens(stream.id, MODEL, dict.fromkeys(range(64), TOKEN))
    store.close_segment(stream.id, 0, make_frames(64))
    assert store.open_frames.list_slots(stream.id) == []
    covered = store.read_coverage(stream, range(1), MODEL)
    assert (covered.encoded, covered.recorded) == ({0: FULL_MASK}, frozenset())
    store.create_record(stream.id, 0, make_record(64))
    store.open_frames.remove_tokens(stream.id, MODEL, 0)
    covered = store.read_coverage(stream, range(1), MODEL)
    assert (covered.encoded, set(covered.recorded)) == ({0: FULL_MASK}, {0})
    assert store.read_tokens(stream.id, [0], MODEL, wanted={0: FULL_MASK})[0] is not None


def test_the_first_frame_of_a_slot_stays(store: Store) -> None:
    stream = make_stream()
    store.add_video(stream)
    first, second = (SegmentFrame(5, 5.5, name, None) for name in (b"first", b"second"))
    for frame in (first, second):
        store.add_frames(stream.id, 0, [frame])
    assert store.open_frames.read_pictures(stream.id, 0, FULL_MASK) == {5: first}
    assert store.open_frames.list_slots(stream.id) == [5]


def test_a_frame_keeps_its_time_pictures_and_likeness(store: Store) -> None:
    stream = make_stream()
    store.add_video(stream)
    frames = [SegmentFrame(0, 0.5, b"a", b"bb"), SegmentFrame(1, 1.5, b"ccc", None, same_as=0)]
    store.add_frames(stream.id, 0, frames)
    assert list(store.open_frames.read_pictures(stream.id, 0, 0b11).values()) == frames


def test_lost_pictures_are_found_with_one_command(store: Store) -> None:
    stream = make_stream()
    store.add_video(stream)
    store.add_frames(stream.id, 0, make_frames(2))
    store.add_frames(stream.id, 1, make_frames(3))
    assert store.open_frames.list_pictured([(stream.id, 0), (stream.id, 1), (stream.id, 2)]) == [0b11, 0b111, 0]
    store.cache.redis.flushall()
    assert store.open_frames.list_pictured([(stream.id, 0)]) == [0]
    assert store.open_frames.list_new({stream.id: 1}) == {stream.id: [64, 65, 66]}


def test_nothing_of_a_deleted_stream_is_kept_or_comes_back(store: Store) -> None:
    stream = make_stream()
    store.add_video(stream)
    store.workers.announce_model(MODEL)
    store.close_segment(stream.id, 0, make_frames(64))
    store.create_record(stream.id, 0, make_record(64))
    for round_of in range(2):
        store.add_frames(stream.id, 1, make_frames(3))
        store.open_frames.write_tokens(stream.id, MODEL, {64: TOKEN})
        store.open_frames.write_system(stream.id, MODEL, 1, SystemMean(1, np.zeros((2, 8), np.float16)))
        if round_of == 0:
            assert list_keys(store.state, f"lw:open*{stream.id}*")
            store.index.mark_deleted(stream.id)
            store.forget_video(stream)
    assert list_keys(store.state, f"lw:open*{stream.id}*") == []
