"""Streams are encoded frame by frame as they are captured, with the same result as by the job of their segment."""

from collections.abc import Callable

import numpy as np
import pytest

from configs.settings import Settings
from encoder_worker.encoder import Encoder
from encoder_worker.jobs import EncoderJobs
from encoder_worker.live_encoding import LiveEncoder
from storage.documents import Video
from storage.segments import SegmentFrame
from storage.store import Store
from storage.timeline import FULL_MASK, mask_of
from tests.storage.making import make_stream
from tests.submitting import draw_pictures
from tests.watched import WatchedModel

MakeLive = Callable[[str], LiveEncoder]


@pytest.fixture
def make_live(settings: Settings, store: Store, encoder: Encoder) -> MakeLive:
    return lambda holder: LiveEncoder(settings, store, encoder, holder)


@pytest.fixture
def stream(store: Store, encoder: Encoder) -> Video:
    store.workers.announce_model(encoder.fingerprint)
    stream = make_stream()
    store.add_video(stream)
    return stream


def take(places: range | list[int], same_as: dict[int, int] | None = None) -> list[SegmentFrame]:
    pictures = draw_pictures(64)
    return [SegmentFrame(k, k + 0.5, pictures[k], None, (same_as or {}).get(k)) for k in places]


def run(live: LiveEncoder, times: int = 1) -> None:
    for _ in range(times):
        live.run_once()


def test_a_captured_frame_is_encoded_at_once(
    make_live: MakeLive, store: Store, stream: Video, encoder: Encoder, watched: WatchedModel
) -> None:
    live = make_live("one")
    store.add_frames(stream.id, 0, take([3]))
    run(live)
    assert store.read_coverage(stream, range(1), encoder.fingerprint).encoded == {0: 1 << 3}
    store.add_frames(stream.id, 0, take([4]))
    run(live, 2)
    assert store.read_coverage(stream, range(1), encoder.fingerprint).encoded == {0: 0b11000}
    assert [frames for frames, _ in watched.calls] == [1, 1]


def test_a_stream_encoded_live_gets_the_same_record(
    make_live: MakeLive, jobs: EncoderJobs, store: Store, stream: Video, encoder: Encoder, watched: WatchedModel
) -> None:
    live, other = make_live("one"), make_stream()
    for first in range(0, 64, 8):
        store.add_frames(stream.id, 0, take(range(first, first + 8)))
        run(live)
    calls = len(watched.calls)
    store.close_segment(stream.id, 0, take(range(64)))
    jobs.encode_segment(stream.id, 0)
    assert len(watched.calls) == calls, "everything was known"
    store.add_video(other)
    store.close_segment(other.id, 0, take(range(64)))
    jobs.encode_segment(other.id, 0)
    ours, theirs = (store.archive.read_record(each.id, 0, encoder.fingerprint) for each in (stream, other))
    assert ours is not None
    assert theirs is not None
    assert ours.mask == theirs.mask == FULL_MASK
    np.testing.assert_allclose(ours.tokens, theirs.tokens, atol=2e-3, rtol=0)
    np.testing.assert_allclose(ours.system, theirs.system, atol=2e-3, rtol=0)
    assert store.open_frames.list_encoded(stream.id, encoder.fingerprint) == []


def test_a_worker_that_takes_over_encodes_only_what_was_not_stored(
    make_live: MakeLive, jobs: EncoderJobs, store: Store, stream: Video, encoder: Encoder, watched: WatchedModel
) -> None:
    first = make_live("one")
    store.add_frames(stream.id, 0, take(range(16)))
    run(first)
    store.add_frames(stream.id, 0, take(range(16, 20)))
    run(first)
    assert sum(frames for frames, _ in watched.calls) == 20
    store.live_encoders.release([stream.id], "one")  # as if its lease had ended
    second = make_live("two")
    store.add_frames(stream.id, 0, take(range(20, 30)))
    run(second)
    assert sum(frames for frames, _ in watched.calls) == 20 + 14, "the first sixteen frames were stored"
    store.close_segment(stream.id, 0, take(range(30)))
    jobs.encode_segment(stream.id, 0)
    record = store.archive.read_record(stream.id, 0, encoder.fingerprint)
    assert record is not None
    assert record.mask == mask_of(range(30))


def test_frames_that_the_live_encoder_missed_are_encoded_with_their_segment(
    make_live: MakeLive, jobs: EncoderJobs, store: Store, stream: Video, encoder: Encoder, watched: WatchedModel
) -> None:
    live = make_live("one")
    store.add_frames(stream.id, 0, take(range(16)))
    run(live)
    store.add_frames(stream.id, 0, take(range(16, 40)))
    store.cache.redis.flushall()  # the pictures are gone before they are encoded
    run(live, 3)
    calls = len(watched.calls)
    store.close_segment(stream.id, 0, take(range(40)))
    jobs.encode_segment(stream.id, 0)
    assert sum(frames for frames, _ in watched.calls[calls:]) == 24
    assert store.read_coverage(stream, range(1), encoder.fingerprint).recorded == {0}


def test_a_static_frame_reuses_the_token_before_it(
    make_live: MakeLive, jobs: EncoderJobs, store: Store, stream: Video, encoder: Encoder, watched: WatchedModel
) -> None:
    live, likeness = make_live("one"), {1: 0, 2: 0, 4: 3}
    for place in range(6):
        store.add_frames(stream.id, 0, take([place], likeness))
        run(live)
    assert sum(frames for frames, _ in watched.calls) == 3
    kept = store.open_frames.read_tokens(stream.id, 0, encoder.fingerprint)
    assert kept is not None
    tokens = kept[1]
    assert all(np.array_equal(tokens[place], tokens[other]) for place, other in likeness.items())
    assert not np.array_equal(tokens[0], tokens[3])
    other = make_stream()
    store.add_video(other)
    store.close_segment(other.id, 0, take(range(6), likeness))
    jobs.encode_segment(other.id, 0)
    record = store.archive.read_record(other.id, 0, encoder.fingerprint)
    assert record is not None
    np.testing.assert_allclose(record.tokens, tokens, atol=2e-3, rtol=0)
    assert sum(frames for frames, _ in watched.calls) == 6


def test_streams_are_shared_and_none_is_encoded_twice(
    make_live: MakeLive, store: Store, stream: Video, encoder: Encoder, watched: WatchedModel
) -> None:
    others = [make_stream() for _ in range(3)]
    for other in others:
        store.add_video(other)
    one, two = make_live("one"), make_live("two")
    for each in (stream, *others):
        store.add_frames(each.id, 0, take([0, 1]))
    run(one)
    run(two)
    assert sum(frames for frames, _ in watched.calls) == 8
    for each in (stream, *others):
        assert store.open_frames.list_encoded(each.id, encoder.fingerprint) == [0, 1]


def test_a_stream_whose_frames_kill_workers_is_left_to_its_segments_job(
    make_live: MakeLive, store: Store, stream: Video, encoder: Encoder, watched: WatchedModel, settings: Settings
) -> None:
    store.add_frames(stream.id, 0, take([0]))
    for attempt in range(settings.jobs.max_attempts):
        make_live(f"dead-{attempt}")._take_share()  # a worker that dies before its first batch ends
        store.live_encoders.release([stream.id], f"dead-{attempt}")
    survivor = make_live("survivor")
    run(survivor)
    assert watched.calls == []
    store.add_frames(stream.id, 1, take([0]))
    run(survivor, 2)
    assert store.open_frames.list_encoded(stream.id, encoder.fingerprint) == [64]


def test_taking_over_a_stream_that_brings_no_frames_is_no_attempt(
    make_live: MakeLive, store: Store, stream: Video, encoder: Encoder, settings: Settings
) -> None:
    for restart in range(settings.jobs.max_attempts + 2):
        make_live(f"restart-{restart}")._take_share()
        store.live_encoders.release([stream.id], f"restart-{restart}")
    store.add_frames(stream.id, 0, take([0]))
    run(make_live("last"))
    assert store.open_frames.list_encoded(stream.id, encoder.fingerprint) == [0]
