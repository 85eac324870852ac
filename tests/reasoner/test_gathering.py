"""A gatherer reads little, orders fusions once, waits for them, and says what is missing."""

import threading
import time
import tracemalloc
from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np
import pytest
from redis import Redis

from configs.settings import Settings
from encoder_worker.encoder import Encoder, decode_jpeg
from jobs.names import ENCODE, FUSE
from reasoner.engine import Engine
from reasoner.focus import Frame
from reasoner.gathering import EncoderMissing, FusionFailed, RecordLost
from reasoner.jobs import ReasonerJobs
from storage.cache import FusionKey
from storage.documents import Video
from storage.errors import NotFound
from storage.records import Half, Record
from storage.store import Store
from storage.timeline import FULL_MASK
from storage.workers import Worker
from tests.reasoner.asking import FRAMES, ask, make_gatherer
from tests.reasoner.conftest import Encoding
from tests.submitting import add_sampled
from tests.tolerance import HALF
from tests.waiting import wait_until
from tests.working import count_waiting

MASKS = {0: (1 << 64) - 1, 1: (1 << 36) - 1}
FRAMES_ASKED = [Frame(slot, slot + 0.5) for slot in (0, 3, 63, 64, 99)]


class Cost(NamedTuple):
    """What the connections called `asker` cost both servers."""

    commands: int
    bytes_in: int  # from the servers to the asker

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.commands - other.commands, self.bytes_in - other.bytes_in)


def count_cost(store: Store) -> Cost:
    """Adds up the servers' own counts for the connections called `asker`."""
    commands = bytes_in = 0
    for redis in (store.state, store.cache.redis):
        for client in redis.client_list():
            if client["name"] == "asker":
                commands += int(client["tot-cmds"])
                bytes_in += int(client["tot-net-out"])
    return Cost(commands, bytes_in)


@pytest.fixture
def asking(settings: Settings, engine: Engine, store: Store) -> ReasonerJobs:
    """A reasoner with named connections, so that the servers count them separately."""
    urls = {
        "state_url": f"{settings.state_url}?client_name=asker",
        "cache_url": f"{settings.cache_url}?client_name=asker",
    }
    named = settings.model_copy(update={"redis": settings.redis.model_copy(update=urls)})
    store.workers.announce_model(engine.fingerprint)
    store.index.set_ready(store.index.read_generation())
    return ReasonerJobs(named, Store.open(named), engine)


@pytest.fixture
def hour(store: Store, pictures: tuple[bytes, ...], records: list[Record]) -> Video:
    """An hour at one frame a second: 56 equal segments."""
    video = add_sampled(store, list(pictures[:64]) * 56)
    for segment in range(56):
        store.create_record(video.id, segment, records[0])
    return video


@pytest.mark.usefixtures("encoding")
def test_a_new_question_over_an_hour_reads_its_tokens_once_and_a_few_fusions(
    asking: ReasonerJobs, store: Store, hour: Video, video: Video
) -> None:
    """A repeated question reads neither: its cost does not grow with the stretch."""
    ask(asking, store, video)  # opens the connections

    def measure(**values: str) -> Cost:
        before = count_cost(store)
        assert ask(asking, store, hour, **values).status == "done"
        return count_cost(store) - before

    tokens = 56 * 64 * 192 * 2
    fusions = 32 * 20 * 192 * 2  # of 32 frames, 20 rows each at most
    new, repeated, other = measure(), measure(), measure(text="what place is this ?")
    assert new.commands <= 110  # fewer than two per segment
    assert tokens < new.bytes_in <= tokens + fusions + 20_000
    assert repeated.commands <= 60
    assert repeated.bytes_in <= 20 * 192 * 2 + 10_000  # the question's rows and no other array
    assert other.commands <= 110
    assert other.bytes_in <= fusions + 20_000  # the prefix is kept


@pytest.mark.usefixtures("encoding")
def test_a_repeated_question_needs_neither_encoder_nor_tokens_and_gets_the_same_answer(
    jobs: ReasonerJobs, store: Store, video: Video, model: object
) -> None:
    first = ask(jobs, store, video, start_s=20, end_s=80)
    cache = store.cache.redis
    kept = [key for key in cast(list[bytes], cache.keys("*")) if b":tokens:" in key or b":fusion:" in key]
    assert kept
    cache.delete(*kept)
    again = ask(jobs, store, video, start_s=20, end_s=80)
    assert first.answer is not None
    assert again.answer is not None
    assert again.answer.text == first.answer.text
    assert again.answer.evidence == first.answer.evidence
    assert again.answer.fusion_frames == first.answer.fusion_frames
    assert not [key for key in cast(list[bytes], cache.keys("*")) if b":tokens:" in key or b":fusion:" in key]


def test_gathered_tokens_and_rows_equal_a_fresh_encoding(
    settings: Settings, store: Store, video: Video, encoder: Encoder, encoding: Encoding, pictures: tuple[bytes, ...]
) -> None:
    gather = make_gatherer(settings, store, encoder.fingerprint, video, {0: 0b1 << 63, 1: 0b101})
    alone = encoder.encode_frames(
        [decode_jpeg(pictures[k], "") for k in (63, 64, 66)], [(encoder.system_text, range(3))]
    )
    np.testing.assert_allclose(gather.load_tokens(), alone.tokens, **HALF)
    np.testing.assert_allclose(gather.load_system(encoder.system_text), alone.means[0], **HALF)


@pytest.mark.parametrize("cached", [True, False])
def test_the_anchor_is_the_system_text_over_the_whole_first_segment(
    cached: bool, settings: Settings, store: Store, video: Video, encoder: Encoder, records: list[Record]
) -> None:
    """It is read from the record, without an encoder."""
    if not cached:
        store.cache.redis.flushall()
    for masks, segment in (({0: 0b111, 1: 0b1}, 0), ({0: 1 << 63}, 0), ({1: 0b10}, 1)):
        gather = make_gatherer(settings, store, encoder.fingerprint, video, masks)
        np.testing.assert_array_equal(gather.load_anchor(encoder.system_text), records[segment].system.astype("f4"))
    assert not np.allclose(records[0].system, records[1].system, **HALF)


@pytest.mark.parametrize("cached", [True, False])
def test_the_system_text_of_whole_segments_is_pooled_from_records_by_size(
    cached: bool, settings: Settings, store: Store, video: Video, encoder: Encoder, records: list[Record]
) -> None:
    if not cached:
        store.cache.redis.flushall()
    gather = make_gatherer(settings, store, encoder.fingerprint, video, MASKS)
    wanted = (64 * records[0].system.astype("f4") + 36 * records[1].system.astype("f4")) / FRAMES
    np.testing.assert_allclose(gather.load_system(encoder.system_text), wanted, rtol=1e-5, atol=1e-5)


def test_the_fusions_of_all_segments_are_one_job(
    settings: Settings, store: Store, video: Video, encoder: Encoder
) -> None:
    gather = make_gatherer(settings, store, encoder.fingerprint, video, MASKS)
    for _ in range(2):
        gather.order([1, 2, 3], 1, FRAMES_ASKED)
    assert count_waiting(store, FUSE) == 1
    gather.withdraw()
    assert count_waiting(store, FUSE) == 0


def test_fusions_are_not_ordered_again_while_their_job_delivers_them(
    settings: Settings,
    store: Store,
    video: Video,
    encoder: Encoder,
    encoding: Encoding,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long job delivers its fusions portion by portion. The remaining ones still belong to the same job."""
    gather = make_gatherer(settings, store, encoder.fingerprint, video, MASKS)
    ids, frames = [4, 20, 21, 22, 5], [Frame(slot, slot + 0.5) for slot in range(FRAMES)]
    seen, stop = set[str](), threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            seen.update(cast(bytes, key).decode() for key in store.state.scan_iter("rq:job:fuse-*"))

    watching = threading.Thread(target=watch)
    cache = encoding.jobs._store.cache
    write = cache.write_fusions

    def write_slowly(fusions: Mapping[FusionKey, Half], fingerprint: str) -> None:
        write(fusions, fingerprint)
        time.sleep(1.5)  # longer than LOOK_S: the gatherer sees the first portion while the second is made

    monkeypatch.setattr(cache, "write_fusions", write_slowly)
    watching.start()
    try:
        gather.fuse(ids, 2, frames)
    finally:
        stop.set()
        watching.join()
    assert len(seen) == 1
    assert count_waiting(store, FUSE) == 0


@pytest.mark.parametrize("lost", ["cache", "state", "both"])
def test_a_fusion_that_is_lost_before_it_is_read_is_made_again(
    lost: str, settings: Settings, store: Store, video: Video, encoder: Encoder, encoding: Encoding
) -> None:
    gather = make_gatherer(settings, store, encoder.fingerprint, video, MASKS)
    ids = [4, 20, 21, 22, 5]
    wanted = gather.fuse(ids, 2, FRAMES_ASKED)
    wait_until(lambda: not encoding.worker.running)
    store.cache.redis.flushall()
    gather.order(ids, 2, FRAMES_ASKED)
    if lost != "state":
        wait_until(lambda: not count_waiting(store, FUSE) and store.cache.redis.dbsize())
        store.cache.redis.flushall()
    if lost != "cache":
        store.state.flushall()
    np.testing.assert_allclose(gather.fuse(ids, 2, FRAMES_ASKED), wanted, **HALF)
    assert wanted.shape == (3, 192)


def test_a_pooled_question_is_the_mean_over_its_frames_whatever_their_segments(
    settings: Settings, store: Store, video: Video, encoder: Encoder, encoding: Encoding, pictures: tuple[bytes, ...]
) -> None:
    ids = (4, 20, 21, 22, 5)
    gather = make_gatherer(settings, store, encoder.fingerprint, video, MASKS)
    shown = [decode_jpeg(pictures[frame.slot], "") for frame in FRAMES_ASKED]
    wanted = encoder.encode_frames(shown, [(ids, range(5))]).means[0]
    np.testing.assert_allclose(gather.fuse(ids, 2, FRAMES_ASKED), wanted[2:], **HALF)


def test_a_missing_encoder_is_reported_soon(settings: Settings, store: Store, video: Video, encoder: Encoder) -> None:
    gather = make_gatherer(settings, store, encoder.fingerprint, video, MASKS)
    with pytest.raises(EncoderMissing, match="longwatch worker encode"):
        gather.fuse([1, 2, 3], 1, FRAMES_ASKED)


def test_an_encoder_that_does_not_deliver_is_distinguished_from_a_missing_one(
    settings: Settings, store: Store, video: Video, encoder: Encoder
) -> None:
    store.workers.announce(Worker("stuck", "encode", "here", 1, (FUSE, ENCODE)), 60)
    short = settings.reasoner.model_copy(update={"fusion_timeout_s": 1.5})
    gather = make_gatherer(settings.model_copy(update={"reasoner": short}), store, encoder.fingerprint, video, MASKS)
    with pytest.raises(FusionFailed, match=r"within 1\.5 s"):
        gather.fuse([1, 2, 3], 1, FRAMES_ASKED)


def test_a_cache_that_keeps_nothing_ends_the_question_in_time(
    settings: Settings, store: Store, video: Video, encoder: Encoder, encoding: Encoding
) -> None:
    """Fusions that are made and lost repeatedly end the question, too."""
    short = settings.reasoner.model_copy(update={"fusion_timeout_s": 1.5})
    gather = make_gatherer(settings.model_copy(update={"reasoner": short}), store, encoder.fingerprint, video, MASKS)
    stop = threading.Event()

    def evict() -> None:
        with Redis.from_url(settings.cache_url) as redis:
            redis.config_set("maxmemory", "1")  # all keys are evicted before the next command
            stop.wait()
            redis.config_set("maxmemory", str(256 * 1024**2))

    evicting = threading.Thread(target=evict)
    evicting.start()
    try:
        with pytest.raises(FusionFailed, match="that the cache has room"):
            gather.fuse([4, 20, 5], 1, FRAMES_ASKED)
    finally:
        stop.set()
        evicting.join()


@pytest.mark.usefixtures("encoding")
def test_fusions_for_another_model_end_the_question_before_its_time_limit(
    settings: Settings, store: Store, video: Video
) -> None:
    gather = make_gatherer(settings, store, "0" * 16, video, MASKS)
    with pytest.raises(FusionFailed, match=r"made the fusions, but not for this model \(0{16}\)"):
        gather.fuse([4, 20, 5], 1, FRAMES_ASKED)


def test_frames_that_cannot_be_fused_end_the_question_with_a_reason(
    settings: Settings, store: Store, video: Video, encoder: Encoder, encoding: Encoding
) -> None:
    store.archive.files.write(f"{video.id}/000001/frames.zip", b"garbage")
    gather = make_gatherer(settings, store, encoder.fingerprint, video, MASKS)
    with pytest.raises(FusionFailed, match=r"000001/frames\.zip is damaged"):
        gather.fuse([4, 20, 5], 1, FRAMES_ASKED)


@pytest.mark.parametrize("loss", ["damaged", "gone"])
def test_a_lost_record_is_named_and_its_segment_is_encoded_again(
    loss: str, settings: Settings, store: Store, video: Video, encoder: Encoder
) -> None:
    path = f"{video.id}/000001/tokens-{encoder.fingerprint}.safetensors"
    store.cache.redis.flushall()
    if loss == "gone":
        store.archive.files.delete(path)
    else:
        store.archive.files.write(path, b"garbage")
    with pytest.raises(RecordLost, match="segment 1"):
        make_gatherer(settings, store, encoder.fingerprint, video, MASKS).load_tokens()
    assert store.read_coverage(video, range(2), encoder.fingerprint).missing() == [1]


def test_waiting_ends_when_nobody_wants_the_answer(
    settings: Settings, store: Store, video: Video, encoder: Encoder
) -> None:
    store.workers.announce(Worker("stuck", "encode", "here", 1, (FUSE, ENCODE)), 60)
    gather = make_gatherer(settings, store, encoder.fingerprint, video, MASKS)

    def refuse() -> None:
        raise NotFound("the video was deleted")

    gather._still_wanted = refuse
    with pytest.raises(NotFound):
        gather.fuse([1, 2, 3], 1, FRAMES_ASKED)


def test_the_tokens_of_a_stretch_are_in_memory_twice_at_most(
    settings: Settings, store: Store, video: Video, encoder: Encoder
) -> None:
    masks = dict.fromkeys(range(200), FULL_MASK)
    tokens = np.zeros((64, 1, 512), np.float16)
    for segment in masks:
        store.cache.write_record(video.id, segment, Record(encoder.fingerprint, FULL_MASK, tokens, "s", tokens[0]))
    gather = make_gatherer(settings, store, encoder.fingerprint, video, masks)
    tracemalloc.start()
    try:
        loaded = gather.load_tokens()
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert loaded.shape == (200 * 64, 1, 512)
    assert peak_bytes < 2.5 * loaded.nbytes  # what Redis sent, and the whole
