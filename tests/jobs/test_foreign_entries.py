"""Foreign values about workers in Redis neither stop the workers nor break the list of workers."""

import pytest

from jobs.worker import JobThread
from storage.store import Store
from storage.workers import ALIVE, MODEL

ODD = [b"[]", b"\xff", b'{"name":"w","kind":"encode","host":"h","pid":1,"queues":[{}]}', b'{"name":5,"queues":[]}']


@pytest.mark.parametrize("entry", ODD)
def test_a_malformed_worker_entry_is_skipped(entry: bytes, store: Store) -> None:
    store.state.sadd(ALIVE, "w")
    store.state.set("lw:worker:w", entry)
    assert store.workers.list_alive() == []


def test_workers_cannot_be_suspended_through_redis(store: Store) -> None:
    store.state.set("rq:suspended", 1)
    thread = JobThread.__new__(JobThread)
    thread.check_for_suspension(burst=False)  # RQ's own method reads the key and would wait here


@pytest.mark.parametrize("name", ["\x1b]0;no model\x07", "no_model", "٣", "0123456789abcdef\n"])
def test_a_model_that_is_not_hexadecimal_is_removed(name: str, store: Store) -> None:
    store.state.set(MODEL, name)
    assert store.workers.read_model() == ""
    assert not store.state.exists(MODEL)  # the next heartbeat announces the real one
