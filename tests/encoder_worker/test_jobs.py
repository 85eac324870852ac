"""The encoder's jobs: whatever happened before, the record ends up as if everything had been done at once."""

import logging
import threading
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from configs.settings import Settings
from encoder_worker.encoder import Encoder, decode_jpeg
from encoder_worker.jobs import EncoderJobs
from ingest.files.scaling import encode_jpeg
from jobs.names import ENCODE, FUSE, FusionRequest, fuse_job_id
from jobs.notices import Notices
from jobs.runner import Handler
from jobs.worker import Pool
from llava_mini.errors import NonFinite
from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from storage.cache import FusionKey
from storage.deletion import delete_video
from storage.documents import Video
from storage.errors import DamagedFile, RedisUnavailable
from storage.records import Record, text_id
from storage.segments import SegmentFrame
from storage.store import Store
from tests.media import numbered
from tests.submitting import add_sampled, draw_pictures, new_video
from tests.tiny import TINY
from tests.tolerance import HALF
from tests.waiting import wait_until
from tests.watched import WatchedModel
from tests.working import count_waiting, working

TEXT = [4, 20, 21, 22, 5]


def read_record(store: Store, video: Video, encoder: Encoder, segment: int = 0) -> Record:
    found = store.archive.read_record(video.id, segment, encoder.fingerprint)
    assert found is not None
    return found


def pixels_of(model: LlavaMini, pictures: Sequence[bytes]) -> torch.Tensor:
    return model.preprocess(np.stack([decode_jpeg(picture, "") for picture in pictures]))


def read_fusion(store: Store, encoder: Encoder, video: Video, ids: Sequence[int], *masks: tuple[int, int]) -> Any:
    """The cached fusion of a text over the frames that (segment, mask) name."""
    (rows,) = store.cache.read_fusions([FusionKey(video.id, text_id(ids), masks)], encoder.fingerprint)
    return None if rows is None else rows.astype(np.float32)


def test_a_record_equals_encoding_everything_at_once(
    jobs: EncoderJobs, store: Store, encoder: Encoder, model: LlavaMini
) -> None:
    pictures = draw_pictures(64)[:40]
    video = add_sampled(store, pictures)
    jobs.encode_segment(video.id, 0)
    record = read_record(store, video, encoder)
    whole = model.encode(pixels_of(model, pictures), [encoder.system_text])
    assert (record.mask, record.system_id) == ((1 << 40) - 1, encoder.system_id)
    np.testing.assert_allclose(record.tokens, whole.tokens.numpy(), **HALF)
    np.testing.assert_allclose(record.system, whole.fused[0].mean(0).numpy(), **HALF)
    cached = store.cache.read_tokens(video.id, [0], encoder.fingerprint)
    assert np.array_equal(cached[0][1], record.tokens)
    (progress,) = store.read_progress([video])
    assert progress is not None
    assert (progress.frames_encoded, progress.complete) == (40, True)


def test_running_twice_changes_nothing_and_costs_nothing(
    jobs: EncoderJobs, store: Store, watched: WatchedModel
) -> None:
    video = add_sampled(store, draw_pictures(64)[:3])
    jobs.encode_segment(video.id, 0)
    tree = {path: store.archive.files.read(f"{video.id}/{path}") for path in store.archive.files.tree(video.id)}
    calls = len(watched.calls)
    jobs.encode_segment(video.id, 0)
    assert len(watched.calls) == calls
    assert tree == {path: store.archive.files.read(f"{video.id}/{path}") for path in tree}


def test_a_record_whose_mark_was_lost_is_marked_and_not_made_again(
    jobs: EncoderJobs, store: Store, encoder: Encoder, watched: WatchedModel
) -> None:
    video = add_sampled(store, draw_pictures(64)[:3])
    jobs.encode_segment(video.id, 0)
    calls = len(watched.calls)
    store.coverage.unmark_encoded(video.id, 0, 0b111, encoder.fingerprint)
    jobs.encode_segment(video.id, 0)
    assert len(watched.calls) == calls
    assert store.read_coverage(video, range(1), encoder.fingerprint).recorded == {0}


def test_a_damaged_record_is_made_again(jobs: EncoderJobs, store: Store, encoder: Encoder) -> None:
    video = add_sampled(store, draw_pictures(64)[:3])
    jobs.encode_segment(video.id, 0)
    wanted = read_record(store, video, encoder)
    store.archive.files.write(f"{video.id}/000000/tokens-{encoder.fingerprint}.safetensors", b"garbage")
    store.coverage.unmark_encoded(video.id, 0, 0b111, encoder.fingerprint)
    jobs.encode_segment(video.id, 0)
    assert np.array_equal(read_record(store, video, encoder).tokens, wanted.tokens)


def test_two_models_records_live_side_by_side(jobs: EncoderJobs, store: Store, encoder: Encoder) -> None:
    video = add_sampled(store, draw_pictures(64)[:3])
    others = Record("another", 0b111, np.zeros((3, 1, 8), np.float16), "", np.zeros((2, 8), np.float16))
    store.create_record(video.id, 0, others)
    jobs.encode_segment(video.id, 0)
    assert read_record(store, video, encoder).tokens.shape == (3, 1, 192)
    kept = store.archive.read_record(video.id, 0, "another")
    assert kept is not None
    assert kept.tokens.shape == (3, 1, 8)


def test_two_encoders_at_once_do_the_work_once(
    jobs: EncoderJobs, store: Store, encoder: Encoder, watched: WatchedModel
) -> None:
    video = add_sampled(store, draw_pictures(64)[:10])
    watched.hold()
    first = threading.Thread(target=jobs.encode_segment, args=(video.id, 0))
    first.start()
    wait_until(lambda: watched.calls)
    jobs.encode_segment(video.id, 0)  # returns at once: another encoder works on it
    watched.released.set()
    first.join()
    assert len(watched.calls) == 1
    assert len(read_record(store, video, encoder)) == 10


@pytest.mark.parametrize("damage", ["garbage", "cut", "small", "missing"])
def test_a_neighbour_stands_in_for_a_damaged_picture(
    damage: str, jobs: EncoderJobs, store: Store, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = draw_pictures(64)
    small = encode_jpeg(np.zeros((8, 16, 3), np.uint8), 90)
    bad = {"garbage": b"garbage", "cut": pictures[1][:-200], "small": small, "missing": None}[damage]
    video = new_video(status="ready", frames_sampled=3)
    store.add_video(video)
    frames = [SegmentFrame(k, k + 0.5, each, None) for k, each in enumerate([pictures[0], bad, pictures[50]])]
    store.create_segment(video.id, 0, frames)
    with caplog.at_level(logging.ERROR):
        jobs.encode_segment(video.id, 0)
    assert f"{video.id}/000000/frames.zip: frame 0 stands in for frame 1" in caplog.text
    first, second, third = read_record(store, video, encoder).tokens
    assert np.array_equal(first, second)
    assert not np.array_equal(second, third)


@pytest.mark.parametrize("loss", ["garbage", "gone", "no zip"])
def test_a_segment_without_a_whole_picture_is_named_in_the_error(loss: str, jobs: EncoderJobs, store: Store) -> None:
    video = add_sampled(store, [b"garbage", b""])
    path = f"{video.id}/000000/frames.zip"
    if loss == "gone":
        store.archive.files.delete(path)
    elif loss == "no zip":
        store.archive.files.write(path, b"PK garbage")
    says = "segment 0" if loss == "gone" else r"000000/frames\.zip"
    with pytest.raises(DamagedFile, match=says):
        jobs.encode_segment(video.id, 0)
    with pytest.raises(DamagedFile, match=says):
        jobs.fuse_question(video.id, [(TEXT, 0, [(0, 1)])])


def test_infinite_values_are_refused_and_not_stored(settings: Settings, store: Store, prompts: PromptBuilder) -> None:
    broken = LlavaMini.from_pretrained(TINY, parts=("vision",))
    with torch.no_grad():
        broken.vision.compressor.query.fill_(torch.inf)
    jobs = EncoderJobs(settings, store, Encoder(broken, prompts, 16))
    video = add_sampled(store, draw_pictures(64)[:3])
    before = store.archive.files.tree(video.id)
    with pytest.raises(NonFinite):
        jobs.encode_segment(video.id, 0)
    with pytest.raises(NonFinite):
        jobs.fuse_question(video.id, [(TEXT, 0, [(0, 0b1)])])
    assert store.archive.files.tree(video.id) == before
    assert store.cache.redis.dbsize() == 0


def run_encoder(settings: Settings, store: Store, jobs: EncoderJobs, encoder: Encoder) -> Any:
    handlers = {
        "fuse_question": Handler(jobs.fuse_question, jobs.give_up_fusions),
        "encode_segment": Handler(jobs.encode_segment, jobs.give_up_segment),
    }
    pools = [Pool((FUSE,), 1), Pool((FUSE, ENCODE), 2)]
    return working(settings, store, "encode", pools, handlers, encoder.fingerprint)


def test_eight_segments_that_fail_do_not_hold_up_the_others(
    settings: Settings, jobs: EncoderJobs, store: Store, encoder: Encoder
) -> None:
    """Eight are queued at once. Each is tried three times, then the others follow."""
    assert settings.jobs.max_pending_segments == 8
    pictures = draw_pictures(64)
    video = add_sampled(store, [*([b"garbage"] * 64 * 8), *pictures, *pictures[:5]])
    with run_encoder(settings, store, jobs, encoder):
        wait_until(lambda: (p := store.read_progress([video])[0]) is not None and p.complete)
    (progress,) = store.read_progress([video])
    assert progress is not None
    assert (progress.frames_encoded, progress.frames_failed) == (69, 512)
    covered = store.read_coverage(video, range(10), encoder.fingerprint)
    assert sorted(covered.failed) == list(range(8))
    assert "frames.zip" in covered.failed[0]
    assert covered.recorded == {8, 9}


def test_encoding_makes_room_in_the_queue_for_segments_held_back(
    settings: Settings, store: Store, encoder: Encoder
) -> None:
    one = settings.model_copy(update={"jobs": settings.jobs.model_copy(update={"max_pending_segments": 1})})
    jobs = EncoderJobs(one, store, encoder)
    store.workers.announce_model(encoder.fingerprint)
    pictures = draw_pictures(64)
    video = add_sampled(store, [*pictures, *pictures, *pictures[:2]])
    for segment in range(3):
        jobs.encode_segment(video.id, segment)
        waiting = count_waiting(store, ENCODE)
        assert waiting == min(segment + 1, 2)  # segment 1, then 2, then nothing new
    (progress,) = store.read_progress([video])
    assert progress is not None
    assert progress.complete


def test_each_fusion_is_the_mean_over_exactly_the_requested_frames(
    jobs: EncoderJobs, store: Store, encoder: Encoder, model: LlavaMini
) -> None:
    """Several texts over several segments, in one job; only the rows after the image are kept."""
    pictures = draw_pictures(64)
    video = add_sampled(store, [*pictures, *pictures[10:30]])
    longer, last = [*TEXT, 6], 1 << 63
    requests: list[FusionRequest] = [
        (TEXT, 2, [(0, last), (1, 0b1010)]),
        (TEXT, 2, [(0, 0b1)]),
        (longer, 3, [(0, 0b1010), (1, 0b1)]),
    ]
    jobs.fuse_question(video.id, requests)
    shown = {0: pictures, 1: pictures[10:30]}
    found = []
    for ids, first_row, masks in requests:
        asked = [shown[segment][k] for segment, mask in masks for k in range(64) if mask >> k & 1]
        alone = [model.encode(pixels_of(model, [picture]), [ids]).fused[0][0] for picture in asked]
        found.append(read_fusion(store, encoder, video, ids, *masks))
        assert found[-1].shape == (len(ids) - first_row, 192)
        np.testing.assert_allclose(found[-1], torch.stack(alone).mean(0).numpy()[first_row:], **HALF)
    assert not np.allclose(found[0], found[1], **HALF)
    assert Notices(store.state).wait(fuse_job_id(video.id, requests), 1) == ""


def test_the_frames_of_many_segments_share_a_batch(jobs: EncoderJobs, store: Store, watched: WatchedModel) -> None:
    """One frame of each of 16 segments: one batch, not 16."""
    video = add_sampled(store, list(draw_pictures(64)) * 16)
    jobs.fuse_question(video.id, [(TEXT, 2, [(segment, 1 << segment) for segment in range(16)])])
    assert watched.calls == [(16, 1)]


def test_the_fusions_of_a_long_stretch_are_made_in_portions(
    jobs: EncoderJobs, store: Store, encoder: Encoder, watched: WatchedModel
) -> None:
    """An hour's pictures are never in memory together. Each portion is cached as soon as it is made."""
    pictures = draw_pictures(64)
    video = add_sampled(store, list(pictures) * 3)
    requests: list[FusionRequest] = [(TEXT, 2, [(segment, (1 << 64) - 1) for segment in range(3)])]
    there: list[bool] = []

    def look(call: int) -> None:
        there.append(read_fusion(store, encoder, video, TEXT, (0, (1 << 64) - 1)) is not None)

    watched.before = look
    jobs.fuse_question(video.id, requests)
    assert there == [False] * 4 + [True] * 8


def test_a_fusion_needs_the_cache_and_a_record_does_not(
    settings: Settings, encoder: Encoder, store: Store, tmp_path: Path
) -> None:
    away = settings.redis.model_copy(update={"cache_url": f"unix://{tmp_path}/nobody.sock", "retries": 0})
    lonely = Store.open(settings.model_copy(update={"redis": away}))
    jobs = EncoderJobs(settings, lonely, encoder)
    video = add_sampled(store, draw_pictures(64)[:3])
    with pytest.raises(RedisUnavailable):
        jobs.fuse_question(video.id, [(TEXT, 2, [(0, 0b111)])])
    jobs.encode_segment(video.id, 0)  # a record needs no cache
    assert len(read_record(store, video, encoder)) == 3


def photo(form: str, orientation: int) -> bytes:
    """A photo that is stored on its side; EXIF says how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = BytesIO()
    Image.fromarray(numbered(1234, 400, 300)).transpose(Image.Transpose.ROTATE_90).save(file, form, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_encoded_upright_as_the_public_code_does(
    form: str, jobs: EncoderJobs, store: Store, encoder: Encoder, model: LlavaMini, tmp_path: Path
) -> None:
    """The original goes through `preprocess_image`: its aspect is kept, but a video's frame would be squeezed."""
    (tmp_path / "photo").write_bytes(photo(form, 6))
    video = new_video(media="image", status="ready", in_archive=True, frames_sampled=1)
    store.add_video(video)
    store.archive.put_source(video.id, tmp_path / "photo")
    store.create_segment(video.id, 0, [SegmentFrame(0, 0.5, None, b"a view")])
    jobs.encode_segment(video.id, 0)
    jobs.fuse_question(video.id, [(TEXT, 2, [(0, 1)])])
    lying: NDArray[np.uint8] = np.asarray(Image.open(BytesIO(photo(form, 6))).convert("RGB"))
    upright = np.rot90(lying, -1)
    assert upright.shape == (300, 400, 3)
    seen = model.encode(model.preprocess_image(np.ascontiguousarray(upright)), [TEXT])
    record = read_record(store, video, encoder)
    np.testing.assert_allclose(record.tokens, seen.tokens.numpy(), **HALF)
    np.testing.assert_allclose(read_fusion(store, encoder, video, TEXT, (0, 1)), seen.fused[0][0].numpy()[2:], **HALF)
    squeezed = model.encode(model.preprocess(upright[None]))
    assert not np.allclose(record.tokens, squeezed.tokens.numpy(), **HALF)
    on_its_side = model.encode(model.preprocess_image(lying))
    assert not np.allclose(record.tokens, on_its_side.tokens.numpy(), **HALF)


@pytest.mark.parametrize("loss", ["gone", "damaged"])
def test_an_image_that_can_no_longer_be_read_is_named(loss: str, jobs: EncoderJobs, store: Store) -> None:
    video = new_video(media="image", status="ready", in_archive=True, frames_sampled=1)
    store.add_video(video)
    store.create_segment(video.id, 0, [SegmentFrame(0, 0.5, None, b"a view")])
    if loss == "damaged":
        store.archive.files.write(f"{video.id}/source", b"\xff\xd8\xff garbage")
    with pytest.raises(DamagedFile, match=video.id):
        jobs.encode_segment(video.id, 0)


def test_a_deleted_video_stays_deleted(jobs: EncoderJobs, store: Store) -> None:
    video = add_sampled(store, draw_pictures(64)[:2])
    delete_video(store, video.id)
    jobs.encode_segment(video.id, 0)
    requests: list[FusionRequest] = [(TEXT, 2, [(0, 1)])]
    jobs.fuse_question(video.id, requests)
    jobs.give_up_segment("why", video.id, 0)
    assert Notices(store.state).wait(fuse_job_id(video.id, requests), 1) == ""  # nobody waits for ever
    assert store.archive.list_video_ids() == []


def test_a_video_deleted_while_it_is_encoded_stays_deleted(
    jobs: EncoderJobs, store: Store, watched: WatchedModel, encoder: Encoder
) -> None:
    video = add_sampled(store, draw_pictures(64)[:2])
    watched.hold()
    encoding = threading.Thread(target=jobs.encode_segment, args=(video.id, 0))
    encoding.start()
    wait_until(lambda: watched.calls)
    delete_video(store, video.id)
    watched.released.set()
    encoding.join()
    assert store.archive.list_video_ids() == []
    assert store.index.list_videos(None, 10) == []
    assert not [key for key in cast(list[bytes], store.state.keys("*")) if b"encoded:" in key or b"totals" in key]
