"""The encoder's jobs: whatever happened before, the record ends up as if everything had been done at once."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from configs.settings import Settings
from encoder_worker.__main__ import load_encoder
from encoder_worker.encoder import Encoder, Frames, decoded
from encoder_worker.jobs import EncoderJobs
from ingest.files.pictures import encode_jpeg
from storage.errors import DamagedFile
from storage.models import Video
from storage.queues import ENCODE
from storage.records import Record, text_id
from storage.segments import mask_of, places_in
from storage.store import Store
from tests.storage.test_archive import new_video
from tests.tiny import with_tiny
from training.render import render
from training.world import generate

TEXT = [4, 20, 21, 22, 5]


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    world = generate(3, 64)
    return [encode_jpeg(render(world, k + 0.5, 336), 90) for k in range(64)]


@pytest.fixture(scope="session")
def frames(pictures: list[bytes]) -> Frames:
    return np.stack([decoded(picture) for picture in pictures])


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return load_encoder(with_tiny(Settings()))


@pytest.fixture
def jobs(settings: Settings, store: Store, encoder: Encoder) -> EncoderJobs:
    return EncoderJobs(settings, store, encoder)


@pytest.fixture
def video(store: Store, encoder: Encoder) -> Video:
    store.hot.announce_model(encoder.fingerprint)
    video = new_video(status="ready")
    store.add_video(video)
    return video


def put(store: Store, video: Video, pictures: Sequence[bytes], first: int = 0) -> None:
    store.put_frames(video.id, first, pictures, [first + k + 0.5 for k in range(len(pictures))])


def record(store: Store, video: Video, encoder: Encoder) -> Record:
    found = store.archive.record(video.id, 0, encoder.fingerprint)
    assert found is not None
    return found


def test_a_record_that_grew_equals_one_made_at_once(
    jobs: EncoderJobs, store: Store, video: Video, encoder: Encoder, pictures: list[bytes], frames: Frames
) -> None:
    whole = encoder.encode(frames[:40], [(encoder.system_text, range(40))])
    put(store, video, pictures[:10])
    jobs.encode_segment(video.id, 0)
    put(store, video, pictures[10:40], first=10)
    jobs.encode_segment(video.id, 0)
    grown = record(store, video, encoder)
    assert grown.timestamps_s == tuple(k + 0.5 for k in range(40))
    np.testing.assert_allclose(grown.tokens, whole.tokens, atol=2e-2, rtol=2e-3)  # float16, other batches
    assert list(grown.fusions) == [(encoder.system_id, mask_of(range(40)))]
    mean = grown.fusions[encoder.system_id, mask_of(range(40))]
    np.testing.assert_allclose(mean.astype(np.float32), whole.means[0], atol=2e-2, rtol=2e-3)


def test_running_twice_changes_nothing(
    jobs: EncoderJobs, store: Store, video: Video, encoder: Encoder, pictures: list[bytes]
) -> None:
    put(store, video, pictures)
    jobs.encode_segment(video.id, 0)
    jobs.fuse_segment(video.id, 0, [(TEXT, 0b1011)])
    path = f"{video.id}/000000/tokens.safetensors"
    before = store.archive.files.read(path)
    jobs.encode_segment(video.id, 0)
    jobs.fuse_segment(video.id, 0, [(TEXT, 0b1011)])
    assert store.archive.files.read(path) == before
    assert store.progress(video).complete


def test_each_fusion_is_the_mean_over_just_the_frames_asked_for(
    jobs: EncoderJobs, store: Store, video: Video, encoder: Encoder, pictures: list[bytes], frames: Frames
) -> None:
    put(store, video, pictures)
    longer = [*TEXT, 6]
    requests = [(TEXT, 0b1010), (TEXT, 1 << 63), (longer, 0b1010), (list(encoder.system_text), 0b0111)]
    jobs.fuse_segment(video.id, 0, requests)  # also encodes what was not yet
    held = record(store, video, encoder)
    assert len(held) == 64
    for ids, mask in requests:
        alone = [encoder.encode(frames[[k]], [(ids, [0])]).means[0] for k in places_in(mask)]
        mean = held.fusions[text_id(ids), mask].astype(np.float32)
        np.testing.assert_allclose(mean, np.mean(alone, axis=0), atol=2e-2, rtol=2e-3)
    assert (encoder.system_id, mask_of(range(64))) in held.fusions


def test_two_encoders_at_once_make_one_right_record(
    jobs: EncoderJobs, store: Store, video: Video, encoder: Encoder, pictures: list[bytes]
) -> None:
    put(store, video, pictures)
    requests = [[(TEXT, 1)], [(TEXT, 2)], [(TEXT, 4)]]
    threads = [threading.Thread(target=jobs.fuse_segment, args=(video.id, 0, request)) for request in requests]
    threads.append(threading.Thread(target=jobs.encode_segment, args=(video.id, 0)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = record(store, video, encoder)
    assert len(held) == 64
    assert {mask for text, mask in held.fusions if text == text_id(TEXT)} == {1, 2, 4}


def test_another_models_record_is_made_anew(
    jobs: EncoderJobs, store: Store, video: Video, encoder: Encoder, pictures: list[bytes]
) -> None:
    put(store, video, pictures[:3])
    store.archive.put_record(video.id, 0, Record("another", (0.5, 1.5, 2.5), np.zeros((3, 1, 8), np.float16)))
    jobs.encode_segment(video.id, 0)
    assert record(store, video, encoder).tokens.shape == (3, 1, 192)


@pytest.mark.parametrize("held_before", [3, 5])
def test_another_system_prompts_mean_is_made_anew(
    held_before: int, jobs: EncoderJobs, store: Store, video: Video, encoder: Encoder, pictures: list[bytes]
) -> None:
    put(store, video, pictures[:5])
    tokens = np.zeros((held_before, 1, 192), np.float16)
    other = {("another prompt's", mask_of(range(held_before))): np.zeros((2, 192), np.float16)}
    times = tuple(k + 0.5 for k in range(held_before))
    store.put_record(video.id, 0, Record(encoder.fingerprint, times, tokens, other))
    jobs.encode_segment(video.id, 0)
    held = record(store, video, encoder)
    assert len(held) == 5
    assert held.tokens.any(axis=(1, 2)).all()
    assert held.fusions.keys() == {*other, (encoder.system_id, 0b11111)}


def test_a_record_whose_count_was_lost_is_counted_again(
    jobs: EncoderJobs, store: Store, video: Video, encoder: Encoder, pictures: list[bytes]
) -> None:
    put(store, video, pictures[:3])
    jobs.encode_segment(video.id, 0)
    whole = record(store, video, encoder)
    store.archive.files.write(f"{video.id}/000000/tokens.safetensors", b"garbage")  # while the hot copy is well
    store.hot.set_count(video.id, "tokens:0", 0)
    jobs.encode_segment(video.id, 0)
    assert store.progress(video).complete
    np.testing.assert_array_equal(record(store, video, encoder).tokens, whole.tokens)


def test_a_segment_without_frames_asks_for_nothing(jobs: EncoderJobs, store: Store, video: Video) -> None:
    jobs.encode_segment(video.id, 0)
    assert store.archive.segments(video.id) == []


@pytest.mark.parametrize("damage", ["garbage", "cut", "small", "missing"])
def test_a_neighbour_stands_in_for_a_damaged_picture(
    damage: str,
    jobs: EncoderJobs,
    store: Store,
    video: Video,
    encoder: Encoder,
    pictures: list[bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    small = encode_jpeg(np.zeros((8, 8, 3), np.uint8), 90)
    bad = {"garbage": b"garbage", "cut": pictures[1][:-200], "small": small, "missing": b""}[damage]
    put(store, video, [pictures[0], bad, pictures[50]])
    if damage == "missing":
        store.archive.files.delete(f"{video.id}/000000/frames/01.jpg")
    with caplog.at_level(logging.ERROR):
        jobs.encode_segment(video.id, 0)
    assert "000000/frames/01.jpg" in caplog.text
    first, second, third = record(store, video, encoder).tokens
    assert np.array_equal(first, second)
    assert not np.array_equal(second, third)


def test_a_segment_without_a_whole_picture_is_named(jobs: EncoderJobs, store: Store, video: Video) -> None:
    put(store, video, [b"garbage"])
    with pytest.raises(DamagedFile, match=r"000000/frames/00\.jpg"):
        jobs.encode_segment(video.id, 0)


def test_frames_that_are_not_there_cannot_be_fused(
    jobs: EncoderJobs, store: Store, video: Video, pictures: list[bytes]
) -> None:
    put(store, video, pictures[:2])
    for mask in (0, 0b100):
        with pytest.raises(ValueError, match="does not have"):
            jobs.fuse_segment(video.id, 0, [(TEXT, mask)])


def test_while_another_is_at_the_segment_encoding_leaves_it_and_fusing_waits(
    jobs: EncoderJobs, store: Store, video: Video, encoder: Encoder, pictures: list[bytes]
) -> None:
    put(store, video, pictures[:2])
    fusing = threading.Thread(target=jobs.fuse_segment, args=(video.id, 0, [(TEXT, 0b11)]))
    with store.segment_lock(video.id, 0, hold_s=60, wait_s=0) as got:
        assert got
        jobs.encode_segment(video.id, 0)
        fusing.start()
        assert store.archive.record(video.id, 0, None) is None
    fusing.join()
    assert (text_id(TEXT), 0b11) in record(store, video, encoder).fusions


def test_a_deleted_video_stays_deleted(jobs: EncoderJobs, store: Store, video: Video, pictures: list[bytes]) -> None:
    put(store, video, pictures[:2])
    store.delete_video(video.id)
    jobs.encode_segment(video.id, 0)
    jobs.fuse_segment(video.id, 0, [(TEXT, 1)])
    assert store.archive.video_ids() == []


def test_encoding_makes_room_in_the_queue_for_what_was_held_back(
    settings: Settings, store: Store, video: Video, encoder: Encoder, pictures: list[bytes]
) -> None:
    queues = settings.queues.model_copy(update={"max_pending_segments": 1})
    jobs = EncoderJobs(settings.model_copy(update={"queues": queues}), store, encoder)
    for segment in range(3):
        put(store, video, pictures[:2] if segment == 2 else pictures, first=64 * segment)
    for _ in range(3):
        jobs.encode_segment(video.id, store.counts(video.id).missing()[0])
    assert store.progress(video).complete
    assert store.queues.depths()[ENCODE] <= 2


def test_the_checkpoint_is_the_shipped_one(encoder: Encoder) -> None:
    assert Path(__file__).parent.parent.parent.joinpath("checkpoints", "tiny", "config.json").is_file()
    assert len(encoder.system_text) > 3
