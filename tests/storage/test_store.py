"""The store: the archive is enough to rebuild everything that Redis held."""

import numpy as np
import pytest
from redis import Redis

from configs.settings import RedisSettings, Settings
from storage.errors import Conflict, NotFound, RedisUnavailable
from storage.ids import new_question_id
from storage.models import Question, Video
from storage.records import Record
from storage.store import Counts, Store
from tests.storage.test_archive import new_video

MODEL = "model-1"


def segment_record(n: int, fingerprint: str = MODEL) -> Record:
    return Record(fingerprint, tuple(k + 0.5 for k in range(n)), np.full((n, 1, 8), 2, np.float16))


@pytest.fixture
def video(store: Store) -> Video:
    """70 frames in two segments, the first of which is encoded; ingest has ended."""
    store.hot.announce_model(MODEL)
    video = new_video(status="ready", frames_sampled=70, frames_expected=70)
    store.add_video(video)
    store.put_frames(video.id, 0, [b"jpg"] * 64, [k + 0.5 for k in range(64)])
    store.put_frames(video.id, 64, [b"jpg"] * 6, [k + 64.5 for k in range(6)])
    store.put_record(video.id, 0, segment_record(64))
    return video


def test_progress_counts_frames_and_what_they_take(store: Store, video: Video) -> None:
    progress = store.progress(video)
    assert (progress.frames_sampled, progress.frames_encoded, progress.encoded_until_s) == (70, 64, 64.0)
    assert not progress.complete
    assert progress.hot_bytes == len(segment_record(64).to_bytes())


def test_a_flush_loses_nothing(store: Store, video: Video, redis_url: str) -> None:
    question = Question(id=new_question_id(video.id), video_id=video.id, text="?", fusion="exact", status="done")
    store.archive.put_question(question)
    before = store.progress(video)
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    store.hot.announce_model(MODEL)
    after = store.progress(store.archive.video(video.id))
    assert after.model_copy(update={"hot_bytes": before.hot_bytes, "eta_s": before.eta_s}) == before
    assert store.record(video.id, 0, MODEL) is not None
    assert store.progress(video).hot_bytes == before.hot_bytes  # reading made it hot again
    assert store.archive.question(question.id) == question


def test_a_damaged_record_is_forgotten_and_made_again(store: Store, video: Video) -> None:
    store.hot.mark_finished(video.id)
    store.hot.drop_record(video.id, 0)
    store.archive.files.write(f"{video.id}/000000/tokens.safetensors", b"garbage")
    assert store.record(video.id, 0, MODEL) is None
    assert store.counts(video.id).missing() == [0, 1]
    assert video.id in store.hot.unfinished()


def test_another_model_makes_all_records_void(store: Store, video: Video) -> None:
    assert store.record(video.id, 0, "model-2") is None
    store.hot.announce_model("model-2")
    assert store.counts(video.id).tokens == {0: 0, 1: 0}
    store.hot.announce_model(MODEL)
    assert store.counts(video.id).tokens == {0: 64, 1: 0}


def test_a_full_redis_evicts_records_only_and_they_come_back(store: Store, video: Video) -> None:
    large = Record(MODEL, tuple(k + 0.5 for k in range(64)), np.ones((64, 1, 8_000), np.float16))  # 1 MB
    redis = store.hot.redis
    redis.config_set("maxmemory-policy", "volatile-lru")
    redis.config_set("maxmemory", redis.info("memory")["used_memory"] + 6_000_000)
    try:
        for segment in range(2, 12):
            store.put_record(video.id, segment, large)
        assert store.progress(video).hot_bytes < 10 * len(large.to_bytes())
        assert video.id in store.hot.unfinished()
        assert store.counts(video.id).tokens[11] == 64
        for segment in range(2, 12):
            assert store.record(video.id, segment, MODEL) is not None
    finally:
        redis.config_set("maxmemory", "0")


def test_deleting_leaves_no_trace(store: Store, video: Video) -> None:
    copy = new_video(status="duplicate", duplicate_of=video.id)
    store.add_video(copy)
    with pytest.raises(Conflict, match=copy.id):
        store.delete_video(video.id)
    store.delete_video(copy.id)
    store.delete_video(video.id)
    assert store.archive.video_ids() == []
    assert [key for key in store.hot.redis.keys("*") if video.id.encode() in key] == [f"deleted:{video.id}".encode()]
    with pytest.raises(NotFound):
        store.delete_video(video.id)


def test_a_video_whose_file_is_damaged_can_be_deleted(store: Store, video: Video) -> None:
    store.archive.files.write(f"{video.id}/video.json", b'{"id": ')
    store.delete_video(video.id)
    assert store.archive.video_ids() == []


def test_a_change_that_crosses_a_deletion_does_not_bring_the_video_back(store: Store, video: Video) -> None:
    store.delete_video(video.id)
    with pytest.raises(NotFound):
        store.update_video(video)
    store.archive.put_video(video)  # as by one that had looked before the deletion, and writes after it
    with pytest.raises(NotFound):
        store.update_video(video)
    assert store.archive.video_ids() == []


def test_a_duplicate_is_as_far_as_its_holder(store: Store, video: Video) -> None:
    copy = new_video(status="duplicate", duplicate_of=video.id)
    assert store.progress(copy).frames_encoded == 64


def test_the_owner_of_a_content_is_found_until_it_is_gone(store: Store) -> None:
    first, second = (new_video(sha256="ab", status="ready") for _ in range(2))
    store.add_video(first)
    store.archive.claim_content(first)
    assert store.same_content(second) == first
    assert store.same_content(first) is None
    assert store.same_content(second.model_copy(update={"sample_fps": 2.0})) is None
    store.delete_video(first.id)
    assert store.same_content(second) is None


def test_only_what_is_encoded_without_a_gap_can_be_asked_about() -> None:
    assert Counts({0: 64, 1: 64, 2: 3}, {0: 64, 1: 0, 2: 3}, 0, 0).contiguous() == 64
    assert Counts({0: 64, 1: 64, 2: 3}, {0: 64, 1: 64, 2: 3}, 0, 0).contiguous() == 131
    assert Counts({0: 64, 1: 10}, {0: 20, 1: 10}, 0, 0).contiguous() == 20
    assert Counts({}, {}, 0, 0).contiguous() == 0


@pytest.fixture
def absent(settings: Settings) -> Store:
    """A store whose Redis is away."""
    redis = RedisSettings(url="redis://127.0.0.1:1/0", retries=1, connect_timeout_s=0.5)
    return Store.open(settings.model_copy(update={"redis": redis}))


def test_a_missing_redis_says_what_to_do(absent: Store) -> None:
    with pytest.raises(RedisUnavailable, match="longwatch up"):
        absent.hot.check()


def test_nothing_is_kept_of_what_could_not_be_accepted(absent: Store, store: Store, video: Video) -> None:
    with pytest.raises(RedisUnavailable):
        absent.add_video(new_video())
    with pytest.raises(RedisUnavailable):
        absent.add_question(Question(id=new_question_id(video.id), video_id=video.id, text="?", fusion="exact"))
    assert store.archive.video_ids() == [video.id]
    assert store.archive.question_ids(video.id) == []
