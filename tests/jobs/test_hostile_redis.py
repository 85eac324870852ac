"""No name or address in Redis is imported, called or fetched, and no malformed value there ends a worker's thread."""

import json
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rq.job import Job
from rq.serializers import JSONSerializer

from jobs.names import encode_job_id
from storage.store import Store
from tests.jobs.conftest import Spawn, add_segments
from tests.jobs.test_worker import is_settled, read_failed, read_notes
from tests.storage.making import list_keys
from tests.waiting import wait_until

SENTINEL = "tests.jobs.sentinel.call"  # its module leaves one file when imported and another when called


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the sentinel module leaves its files."""
    folder = tmp_path / "traces"
    folder.mkdir()
    monkeypatch.setenv("LW_TEST_TRACES", str(folder))
    return folder


@pytest.fixture
def site() -> Iterator[tuple[str, list[str]]]:
    """A server that nobody should contact: its URL, and the paths that were requested."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Logs nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", asked
        server.shutdown()
        thread.join()


def poison(store: Store, job_id: str, url: str, **fields: Any) -> None:
    """Adds a job in which every name leads to the sentinel and every address to the site."""
    hook = {
        "url": url,
        "events": ["finished", "failed", "stopped"],
        "on": ["finished", "failed"],
        "statuses": ["failed"],
    }
    names: dict[str, Any] = {f"{kind}_callback_name": SENTINEL for kind in ("success", "failure", "stopped")}
    job: dict[Any, Any] = {
        "created_at": "2026-11-21T00:00:00.000000Z",
        "data": zlib.compress(json.dumps([SENTINEL, None, [], {}]).encode()),
        "status": "queued",
        "origin": "encode",
        "webhooks": json.dumps([hook]),
        **names,
        **fields,
    }
    store.state.hset(f"rq:job:{job_id}", mapping=job)


def test_no_name_or_address_in_redis_is_followed(
    store: Store, notes: Path, traces: Path, site: tuple[str, list[str]], spawn: Spawn
) -> None:
    url, asked = site
    video = add_segments(store, 0)
    poison(store, "queued", url)
    store.state.rpush("rq:queue:encode", "queued")
    poison(store, "lost", url, status="started", started_at="2026-11-21T00:00:00.000000Z")
    store.state.zadd("rq:wip:encode", {"lost:execution": time.time() - 60, "lost": time.time() - 60})
    poison(store, "ours", url, data=zlib.compress(json.dumps(["encode_segment", None, [video.id, 0], {}]).encode()))
    store.state.rpush("rq:queue:encode", "ours")
    for registry in ("failed", "finished", "deferred", "scheduled", "canceled"):
        store.state.zadd(f"rq:{registry}:encode", {"lost": time.time() - 60})
    store.state.rpush("rq:queue:encode:intermediate", "lost")
    spawn()
    wait_until(lambda: is_settled(store, video))
    wait_until(lambda: not store.state.exists("rq:job:queued", "rq:job:ours"))
    wait_until(lambda: store.state.zcard("rq:wip:encode") == 0)
    assert list(traces.iterdir()) == []
    assert asked == []
    assert store.state.zcard("rq:failed:encode") == 1  # RQ's own clean-up would have emptied it, so it never ran
    assert "asks for 'tests.jobs.sentinel.call'" in (notes / "log-0").read_text()


def test_rq_itself_follows_the_sentinel(store: Store, traces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the test above proves nothing."""
    poison(store, "queued", "http://127.0.0.1:9/")
    job = Job.fetch("queued", connection=store.state, serializer=JSONSerializer)
    job.func()
    assert sorted(path.name for path in traces.iterdir()) == ["called", "imported"]


JUNK: dict[str, Any] = {
    "no hash": None,
    "another type": "list",
    "empty": {"data": b""},
    "not ours": {"data": b"\x80\x04\x95pickle"},
    "too few": {"data": b'["encode_segment"]'},
    "odd arguments": {"data": b'["encode_segment", null, {"a": 1}, {}]'},
    "too many arguments": {"data": b'["encode_segment", null, [1, 2, 3, 4], {}]'},
    "nested": {"data": b"[" * 100_000},
    "bad date": {"data": b'["encode_segment", null, [], {}]', "created_at": "yesterday"},
    "bad counter": {"data": b'["encode_segment", null, [], {}]', "retries_left": "many"},
    "bad status": {"data": b'["encode_segment", null, [], {}]', "status": "perhaps"},
    "bad text": {"data": b'["encode_segment", null, [], {}]', "success_callback_name": b"\xff\xfe"},
}


def test_no_malformed_job_ends_a_worker_thread(store: Store, notes: Path, spawn: Spawn) -> None:
    for name, fields in JUNK.items():
        job_id = f"junk-{name.replace(' ', '-')}"
        if fields == "list":
            store.state.rpush(f"rq:job:{job_id}", "x")
        elif fields is not None:
            store.state.hset(f"rq:job:{job_id}", mapping=fields)
        store.state.rpush("rq:queue:encode", job_id)
    store.state.rpush("rq:queue:encode", b"\xff\xfe")
    process = spawn(4)
    wait_until(lambda: store.state.llen("rq:queue:encode") == 0)
    video = add_segments(store, 0, 1, 2)
    wait_until(lambda: is_settled(store, video))
    assert read_failed(store, video) == {}
    assert process.poll() is None
    (heart,) = store.workers.list_alive()
    assert heart.pid == process.pid


@pytest.mark.parametrize("field", ["retries_left", "data"])
def test_a_damaged_job_is_queued_again(store: Store, notes: Path, spawn: Spawn, field: str) -> None:
    video = add_segments(store, 0)
    job_id = encode_job_id(video.id, 0)
    store.state.hset(f"rq:job:{job_id}", mapping={"data": b"x", field: "junk"})
    store.state.rpush("rq:queue:encode", job_id)
    store.state.set(f"lw:attempts:{job_id}", "a few")
    spawn()
    wait_until(lambda: is_settled(store, video))
    assert read_notes(notes) == ["begin 0", "end 0"]


def test_junk_in_redis_does_not_stop_the_heartbeats_of_running_jobs(store: Store, notes: Path, spawn: Spawn) -> None:
    for segment in (0, 1):
        (notes / f"hold-{segment}").touch()
    spawn(2)
    video = add_segments(store, 0, 1)
    wait_until(lambda: len(read_notes(notes)) == 2)
    keys = [*list_keys(store.state, "rq:job:*"), "lw:workers", "rq:workers"]
    for key in keys:
        store.state.delete(key)
        store.state.set(key, "junk")
    threading.Event().wait(4)  # longer than a job may go without a heartbeat
    for segment in (0, 1):
        (notes / f"hold-{segment}").unlink()
    wait_until(lambda: is_settled(store, video))
    assert read_failed(store, video) == {}
    assert [worker.kind for worker in store.workers.list_alive()] == ["encode"]
    more = add_segments(store, 0, 1, 2)
    wait_until(lambda: is_settled(store, more))


def test_workers_take_no_commands_through_redis(store: Store, notes: Path, spawn: Spawn) -> None:
    (notes / "hold-0").touch()
    process = spawn()
    video = add_segments(store, 0)
    wait_until(lambda: read_notes(notes) == ["begin 0"])
    names = [key.rpartition(":")[2] for key in list_keys(store.state, "rq:worker:*")]
    assert names
    payload = json.dumps({"command": "shutdown", "job_id": encode_job_id(video.id, 0)})
    assert [store.state.publish(f"rq:pubsub:{name}", payload) for name in names] == [0] * len(names)
    (notes / "hold-0").unlink()
    wait_until(lambda: is_settled(store, video))
    assert process.poll() is None
