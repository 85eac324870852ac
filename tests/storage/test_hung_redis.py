"""Every call reports a server that hangs (it accepts connections and never answers) within a bounded time."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from redis import Redis

from configs.settings import RedisSettings, Settings
from jobs.attempts import Attempts
from jobs.notices import Notices
from jobs.queues import Queues, ingest_call
from storage.cache import FusionKey
from storage.deletion import delete_video
from storage.errors import RedisUnavailable
from storage.fences import Fence
from storage.store import Store
from storage.workers import Worker
from tests.conftest import running_redis
from tests.storage.making import MODEL, make_question, make_record, make_video
from tests.waiting import wait_until

VIDEO = make_video()
QUESTION = make_question(VIDEO)
FENCE = Fence(QUESTION.id, "token")
KEY = FusionKey(VIDEO.id, "text", ((0, 1),))
LONGEST_S = 15.0  # generous: a command's time-out is 0.5 s here, and a call has a few commands
STATE: dict[str, Callable[[Store], object]] = {
    "is_ready": lambda store: store.index.is_ready(),
    "check": lambda store: store.index.check(),
    "list_videos": lambda store: store.index.list_videos(None, 10),
    "read_video": lambda store: store.read_video(VIDEO.id),
    "add_video": lambda store: store.add_video(VIDEO),
    "delete_video": lambda store: delete_video(store, VIDEO.id),
    "read_progress": lambda store: store.read_progress([VIDEO]),
    "read_coverage": lambda store: store.read_coverage(VIDEO, range(3), MODEL),
    "add_question": lambda store: store.add_question(QUESTION),
    "settle_question": lambda store: store.settle_question(QUESTION, FENCE),
    "send": lambda store: store.answers.send(FENCE, "x"),
    "read": lambda store: list(store.answers.read(QUESTION.id, wait_s=60)),
    "take": lambda store: store.fences.take(VIDEO.id),
    "hold": lambda store: store.locks.hold("x", 5).__enter__(),
    "list_due": lambda store: store.agenda.list_due("lw:due:videos", 5),
    "announce": lambda store: store.workers.announce(Worker("w", "encode", "h", 1, ()), 5),
    "list_alive": lambda store: store.workers.list_alive(),
    "begin": lambda store: Attempts(store.state).begin("job"),
    "wait": lambda store: Notices(store.state).wait("job", 0.2),
    "enqueue": lambda store: Queues(store.state).ensure([ingest_call(VIDEO.id)]),
    "take_dead": lambda store: Queues(store.state).take_dead(),
}
CACHE: dict[str, Callable[[Store], object]] = {
    "check": lambda store: store.cache.check(),
    "read_fusions": lambda store: store.cache.read_fusions([KEY], MODEL),
    "write_fusions": lambda store: store.cache.write_fusions({KEY: np.zeros((1, 8), np.float16)}, MODEL),
}


@pytest.fixture(scope="module")
def hung() -> Iterator[str]:
    """The address of a server whose process is stopped."""
    with running_redis() as url:
        with Redis.from_url(url) as redis:
            pid = int(redis.info("server")["process_id"])
            redis.set("before", 1)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield url
        finally:
            os.kill(pid, signal.SIGCONT)


def open_store(settings: Settings, state_url: str, cache_url: str) -> Store:
    redis = RedisSettings(
        state_url=state_url, cache_url=cache_url, connect_timeout_s=0.5, command_timeout_s=0.5, retries=1
    )
    return Store.open(settings.model_copy(update={"redis": redis}))


def expect_unavailable(use: Callable[[Store], object], store: Store, name: str) -> None:
    began = time.monotonic()
    with pytest.raises(RedisUnavailable, match=f"the {name}'s Redis .* does not answer in time.*; .* restart it"):
        use(store)
    assert time.monotonic() - began < LONGEST_S


@pytest.mark.parametrize("name", STATE)
def test_every_call_reports_a_hung_state(name: str, hung: str, settings: Settings) -> None:
    expect_unavailable(STATE[name], open_store(settings, hung, settings.cache_url), "state")


@pytest.mark.parametrize("name", CACHE)
def test_a_hung_cache_is_reported_if_an_answer_needs_it(name: str, hung: str, settings: Settings) -> None:
    expect_unavailable(CACHE[name], open_store(settings, settings.state_url, hung), "cache")


def test_a_hung_cache_is_skipped_if_it_only_saves_time(hung: str, settings: Settings) -> None:
    store = open_store(settings, settings.state_url, hung)
    store.add_video(VIDEO)
    store.create_record(VIDEO.id, 0, make_record())
    assert store.read_tokens(VIDEO.id, [0], MODEL)[0] is not None
    assert store.cache.read_rows("rows", MODEL) is None
    assert store.read_videos([VIDEO.id]) == [VIDEO]


def test_a_reader_that_waits_learns_that_the_server_hangs(settings: Settings) -> None:
    with running_redis() as url, Redis.from_url(url) as redis:
        pid = int(redis.info("server")["process_id"])
        store = open_store(settings, url, settings.cache_url)
        ends: list[str] = []

        def read() -> None:
            try:
                while True:
                    list(store.answers.read(QUESTION.id, wait_s=60))
            except RedisUnavailable as error:
                ends.append(str(error))

        reader = threading.Thread(target=read)
        reader.start()
        wait_until(lambda: redis.client_list(_type="normal"))
        os.kill(pid, signal.SIGSTOP)
        try:
            reader.join(timeout=LONGEST_S)
            assert len(ends) == 1
            assert "in time" in ends[0]
        finally:
            os.kill(pid, signal.SIGCONT)
        assert store.index.is_ready() is False  # the same connections work again
