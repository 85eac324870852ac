"""The cache: eviction, damage and outages cost only time."""

from pathlib import Path

import numpy as np
import pytest
from redis import Redis

from configs.settings import RedisSettings, Settings
from storage.cache import FusionKey
from storage.connection import as_text
from storage.errors import RedisUnavailable
from storage.store import Store
from storage.timeline import FULL_MASK
from tests.conftest import running_redis
from tests.storage.making import MODEL, OTHER_MODEL, add_encoded, make_question, make_record, make_video

KEY = FusionKey("20261121-000000000-aaaaaa", "text", ((0, 0b101),))
ROWS = np.full((3, 8), 1.5, np.float16)


def test_cached_values_come_back_only_for_their_model(store: Store) -> None:
    store.cache.write_record(KEY.video_id, 0, make_record(5))
    store.cache.write_fusions({KEY: ROWS}, MODEL)
    store.cache.write_rows("rows", MODEL, 7, ROWS)
    found = store.cache.read_tokens(KEY.video_id, [0, 1], MODEL)
    assert list(found) == [0]
    assert found[0][0] == 0b11111
    assert np.array_equal(found[0][1], make_record(5).tokens)
    (fusion,) = store.cache.read_fusions([KEY], MODEL)
    assert fusion is not None
    assert np.array_equal(fusion, ROWS)
    rows = store.cache.read_rows("rows", MODEL)
    assert rows is not None
    assert rows[0] == 7
    assert 0 in store.cache.read_systems(KEY.video_id, [0], "system", MODEL)
    assert store.cache.read_tokens(KEY.video_id, [0], OTHER_MODEL) == {}
    assert store.cache.read_fusions([KEY], OTHER_MODEL) == [None]
    assert store.cache.read_rows("rows", OTHER_MODEL) is None


@pytest.mark.parametrize("junk", [b"", b"x", b"\0" * 19, b"\xff" * 400, "a list"])
def test_a_damaged_value_counts_as_missing_and_is_overwritten(store: Store, junk: bytes | str) -> None:
    question = make_question(make_video(), status="done")
    store.cache.write_record(KEY.video_id, 0, make_record(5))
    store.cache.write_fusions({KEY: ROWS}, MODEL)
    store.cache.write_rows("rows", MODEL, 7, ROWS)
    store.cache.write_settled(question)
    for key in store.cache.redis.keys("lw:*"):
        store.cache.redis.delete(key)
        if isinstance(junk, bytes):
            store.cache.redis.set(key, junk)
        else:
            store.cache.redis.rpush(key, junk)
    assert store.cache.read_tokens(KEY.video_id, [0], MODEL) == {}
    assert store.cache.read_fusions([KEY], MODEL) == [None]
    assert store.cache.read_rows("rows", MODEL) is None
    assert store.cache.read_systems(KEY.video_id, [0], "system", MODEL) == {}
    assert store.cache.read_settled([question.id]) == [None]
    test_cached_values_come_back_only_for_their_model(store)


def test_a_fusion_of_other_frames_is_not_returned(store: Store) -> None:
    store.cache.write_fusions({KEY: ROWS}, MODEL)
    other = FusionKey(KEY.video_id, "text", ((0, 0b111),))
    (name,) = map(as_text, store.cache.redis.keys("lw:fusion:*"))
    store.cache.write_fusions({other: ROWS}, MODEL)
    (other_name,) = set(map(as_text, store.cache.redis.keys("lw:fusion:*"))) - {name}
    store.cache.redis.rename(name, other_name)
    assert store.cache.read_fusions([other], MODEL) == [None]


def test_a_full_cache_evicts_and_the_archive_fills_it_again(settings: Settings, store: Store, tmp_path: Path) -> None:
    with running_redis("--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru") as url:
        small = settings.redis.model_copy(update={"cache_url": url})
        store = Store.open(settings.model_copy(update={"redis": small}))
        video = add_encoded(store, 64 * 40, encoded=0)
        for segment in range(40):
            record = make_record()
            wide = np.full((64, 1, 2000), segment, np.float16)  # 256 kB: 10 MB in all
            store.create_record(video.id, segment, type(record)(MODEL, FULL_MASK, wide, "system", record.system))
        assert len(store.cache.read_tokens(video.id, range(40), MODEL)) < 40
        found = store.read_tokens(video.id, range(40), MODEL)
        assert {k: value and float(value[1][0, 0, 0]) for k, value in found.items()} == {k: float(k) for k in range(40)}


def test_one_command_reads_no_more_than_redis_can_send_in_time(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = add_encoded(store, 64 * 40, encoded=40)
    (size_bytes,) = {kept[1].nbytes for kept in store.read_tokens(video.id, range(2), MODEL).values() if kept}

    def count_reads(at_once_bytes: int) -> int:
        monkeypatch.setattr("storage.store.TOKENS_AT_ONCE_BYTES", at_once_bytes)
        before = store.cache.redis.info("commandstats")["cmdstat_mget"]["calls"]
        assert None not in store.read_tokens(video.id, range(40), MODEL).values()
        return int(store.cache.redis.info("commandstats")["cmdstat_mget"]["calls"] - before)

    assert count_reads(10 * size_bytes) == 5  # one that shows the size, then 10, 10, 10, 9
    assert count_reads(100 * size_bytes) == 2
    assert count_reads(1) == 40


def test_an_unreachable_cache_is_reported_only_if_it_is_needed(settings: Settings) -> None:
    away = RedisSettings(state_url=settings.state_url, cache_url="redis://127.0.0.1:1/0", retries=0)
    store = Store.open(settings.model_copy(update={"redis": away}))
    video = add_encoded(store, 70, encoded=2)
    found = store.read_tokens(video.id, [0, 1], MODEL)
    assert [value and value[0].bit_count() for value in found.values()] == [64, 6]
    assert store.cache.read_rows("rows", MODEL) is None
    question = make_question(video)
    store.add_question(question)
    store.settle_question(question.model_copy(update={"status": "failed"}))
    assert store.read_question(question.id).status == "failed"
    assert [question.status for question in store.read_questions([question.id])] == ["failed"]
    with pytest.raises(RedisUnavailable, match="longwatch up"):
        store.cache.check()
    with pytest.raises(RedisUnavailable):
        store.cache.read_fusions([KEY], MODEL)


def test_values_expire(store: Store, settings: Settings) -> None:
    store.cache.write_record(KEY.video_id, 0, make_record(5))
    store.cache.write_fusions({KEY: ROWS}, MODEL)
    with Redis.from_url(settings.cache_url) as redis:
        keys = redis.keys("*")
        assert keys
        assert all(0 < redis.ttl(key) <= settings.redis.cache_ttl_s for key in keys)
