"""What somebody else wrote into Redis about workers neither stops them nor breaks what is shown of them."""

import pytest

from jobs.worker import JobThread
from storage.store import Store
from storage.workers import ALIVE, MODEL

ODD = [b"[]", b"\xff", b'{"name":"w","kind":"encode","host":"h","pid":1,"queues":[{}]}', b'{"name":5,"queues":[]}']


@pytest.mark.parametrize("entry", ODD)
def test_an_odd_entry_of_a_worker_is_passed_over(entry: bytes, store: Store) -> None:
    store.state.sadd(ALIVE, "w")
    store.state.set("lw:worker:w", entry)
    assert store.workers.list_alive() == []


def test_nobody_suspends_workers_over_redis(store: Store) -> None:
    store.state.set("rq:suspended", 1)
    thread = JobThread.__new__(JobThread)
    thread.check_for_suspension(burst=False)  # RQ's own asks Redis, and waits here


def test_a_model_that_can_be_none_is_forgotten(store: Store) -> None:
    store.state.set(MODEL, "\x1b]0;no model\x07")
    assert store.workers.read_model() == ""
    assert not store.state.exists(MODEL)  # the next heart that beats names its own
