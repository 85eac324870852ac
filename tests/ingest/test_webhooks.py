"""Events reach the webhooks of watches: signed, guarded, tried again, given up, and posted again on request."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from configs.settings import EventSettings, Settings
from ingest.jobs import IngestJobs
from ingest.webhooks import post_event
from jobs.intake import Intake
from jobs.names import DELIVER
from jobs.runner import Handler
from jobs.worker import Pool
from storage import agenda as due
from storage.deletion import delete_video
from storage.documents import Video
from storage.errors import StateRebuilding
from storage.live_documents import Delivery, DeliveryStatus, Event, Watch, Webhook, show_event
from storage.store import Store
from tests.ingest.conftest import resolve_to
from tests.storage.making import make_video
from tests.storage.publishing import make_event
from tests.waiting import wait_until
from tests.working import WorkerThreads, working

SECRET = "the secret ü"
EXAMPLE = Path(__file__).parent.parent.parent / "docs" / "webhooks.md"


class Receiver:
    """A web server on loopback. `answers` says what it does for each path; it keeps what it got."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: dict[str, Callable[[], int]] = {}
        receiver = self

        class Handle(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Logs nothing."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append((self.path, dict(self.headers), body))
                status = receiver.answers.get(self.path, lambda: 204)()
                self.send_response(status, "odd \x1b[2J words" if status == 500 else None)
                if status == 302:
                    self.send_header("location", "/elsewhere")
                self.end_headers()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handle)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def ids(self, path: str = "/") -> list[str]:
        return [json.loads(body)["id"] for got, _, body in list(self.got) if got == path]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    events = EventSettings(
        allowed_private_hosts=("127.0.0.1",),
        delivery_timeout_s=2,
        max_delivery_attempts=3,
        delivery_retry_least_s=0.1,
        delivery_retry_most_s=0.3,
    )
    jobs = settings.jobs.model_copy(update={"reconcile_interval_s": 0.1, "max_fetch_attempts": 2})
    return settings.model_copy(update={"events": events, "jobs": jobs})


@pytest.fixture
def store(store: Store) -> Store:
    store.index.set_ready(store.index.read_generation())
    return store


@pytest.fixture
def delivering(settings: Settings, store: Store) -> Iterator[WorkerThreads]:
    """A live ingest worker with two threads for deliveries."""
    jobs = IngestJobs(settings, store)
    handlers = {"deliver_events": Handler(jobs.deliver_events, jobs.give_up_delivery, alone_if_suspect=False)}
    with working(settings, store, "ingest", [Pool((DELIVER,), 2)], handlers) as worker:
        yield worker


@pytest.fixture
def stream(store: Store) -> Video:
    stream = make_video(kind="stream", status="live", recorded_at=datetime.now(UTC))
    store.add_video(stream)
    store.agenda.remove(due.VIDEOS, stream.id)
    return stream


def add_watch(store: Store, stream: Video, watch_id: str, url: str) -> Watch:
    watch = Watch(id=watch_id, stream_id=stream.id, question="?", webhook=Webhook(url=url, secret=SECRET))
    store.archive.write_watch(watch)
    return watch


def publish(store: Store, stream: Video, watch_id: str, *keys: str) -> list[Event]:
    values = {"type": "match", "watch_id": watch_id, "answer": "yes ü", "message": "bell \x07"}
    return store.events.publish_all([(make_event(stream.id, **values), f"{watch_id}-{key}") for key in keys])


def list_deliveries(store: Store, stream: Video, status: DeliveryStatus) -> dict[str, Delivery]:
    found = store.deliveries.list_by_status(stream.id, status, None, 100)
    return {delivery.event_id: delivery for delivery in found}


def test_events_are_posted_in_order_and_the_example_in_the_documentation_accepts_them(
    store: Store, stream: Video, receiver: Receiver, delivering: WorkerThreads
) -> None:
    add_watch(store, stream, "w1", f"{receiver.url}/")
    events = publish(store, stream, "w1", *"abc")
    store.events.publish(make_event(stream.id), "not of a watch")
    wait_until(lambda: len(list_deliveries(store, stream, "delivered")) == 3, within_s=20)
    assert receiver.ids() == [event.id for event in events]
    _, headers, body = receiver.got[0]
    assert json.loads(body) == json.loads(show_event(events[0]).model_dump_json())
    assert "key" not in json.loads(body)
    assert (headers["X-Longwatch-Event"], headers["X-Longwatch-Id"]) == ("match", events[0].id)
    is_genuine = load_example()["is_genuine"]
    for _, headers, body in receiver.got:
        assert is_genuine(headers, body)
        assert not is_genuine(headers, body + b" ")
        other_time = str(int(headers["X-Longwatch-Timestamp"]) - 1)
        assert not is_genuine(headers | {"X-Longwatch-Timestamp": other_time}, body)
    assert store.state.zcard(due.DELIVERIES) <= 1
    documents, _ = store.archive.read_deliveries(stream.id, [event.id for event in events])
    assert [(document.status, document.attempts) for document in documents] == [("delivered", 1)] * 3


def load_example() -> dict[str, Any]:
    match = re.search(r"```python\n(.*?)```", EXAMPLE.read_text(), re.DOTALL)
    assert match is not None
    namespace: dict[str, Any] = {"__name__": "example"}
    os.environ["SECRET"] = SECRET
    try:
        exec(match[1], namespace)
    finally:
        del os.environ["SECRET"]
    return namespace


def test_the_example_runs(settings: Settings, stream: Video, tmp_path: Path, unused_port: int) -> None:
    match = re.search(r"```python\n(.*?)```", EXAMPLE.read_text(), re.DOTALL)
    assert match is not None
    (tmp_path / "receiver.py").write_text(match[1])
    surroundings = os.environ | {"SECRET": SECRET, "PORT": str(unused_port)}
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "receiver.py")],
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            wait_until(lambda: answers(unused_port), within_s=20)
            event = make_event(stream.id, id="20261121-020851123456", answer="yes")
            url = f"http://127.0.0.1:{unused_port}/"
            for _ in range(2):
                assert post_event(event, Webhook(url=url, secret=SECRET), settings.events).reason == ""
            assert "401" in post_event(event, Webhook(url=url, secret="wrong"), settings.events).reason
        finally:
            process.terminate()
            out, _ = process.communicate(timeout=20)
    assert out.decode().count(" gap yes") == 1


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_failed_delivery_is_tried_again_and_then_given_up_while_others_arrive(
    store: Store, stream: Video, receiver: Receiver, settings: Settings, delivering: WorkerThreads
) -> None:
    failures = iter([500, 302, 204])
    receiver.answers = {"/flaky": lambda: next(failures), "/broken": lambda: 500}
    for name in ("flaky", "broken", "fine"):
        add_watch(store, stream, name, f"{receiver.url}/{name}")
    (flaky,), (broken,), (fine,) = (publish(store, stream, name, "a") for name in ("flaky", "broken", "fine"))
    wait_until(lambda: broken.id in list_deliveries(store, stream, "dead"), within_s=20)
    wait_until(lambda: len(list_deliveries(store, stream, "delivered")) == 2, within_s=20)
    assert receiver.ids("/flaky") == [flaky.id] * 3
    assert receiver.ids("/broken") == [broken.id] * 3
    assert receiver.ids("/elsewhere") == []
    dead = list_deliveries(store, stream, "dead")[broken.id]
    assert (dead.attempts, dead.reason) == (3, r"the receiver answers 500 odd \x1b[2J words")
    assert list_deliveries(store, stream, "delivered")[fine.id].attempts == 1
    del receiver.answers["/broken"]
    Intake(store, settings).redeliver_event(broken.id)
    wait_until(lambda: broken.id in list_deliveries(store, stream, "delivered"), within_s=20)
    assert list_deliveries(store, stream, "dead") == {}


def test_one_slow_receiver_holds_up_no_other(
    store: Store, stream: Video, receiver: Receiver, delivering: WorkerThreads
) -> None:
    released = threading.Event()
    receiver.answers = {"/slow": lambda: 204 if released.wait(20) else 500}
    add_watch(store, stream, "slow", f"{receiver.url}/slow")
    add_watch(store, stream, "quick", f"{receiver.url}/quick")
    publish(store, stream, "slow", *(f"{n}" for n in range(20)))
    wait_until(lambda: receiver.ids("/slow"), within_s=20)
    quick = publish(store, stream, "quick", *(f"{n}" for n in range(20)))
    wait_until(lambda: len(receiver.ids("/quick")) == 20, within_s=20)
    assert receiver.ids("/quick") == [event.id for event in quick]
    released.set()


def test_what_waits_for_a_receiver_that_is_away_loses_no_attempt_and_survives_a_flush(
    store: Store, stream: Video, settings: Settings, unused_port: int, delivering: WorkerThreads
) -> None:
    add_watch(store, stream, "w1", f"http://127.0.0.1:{unused_port}/")
    events = publish(store, stream, "w1", *"abcd")
    first = events[0].id
    wait_until(lambda: list_deliveries(store, stream, "pending")[first].attempts > 0, within_s=20)
    pending = list_deliveries(store, stream, "pending")
    assert "cannot be reached" in pending[first].reason
    assert [pending[event.id].attempts for event in events[1:]] == [0, 0, 0]
    store.state.flushall()
    wait_until(store.index.is_ready, within_s=20)
    receiver = Receiver()  # on another port: the watch is changed meanwhile
    add_watch(store, stream, "w1", f"{receiver.url}/")
    wait_until(lambda: len(list_settled(store, stream)) == 4, within_s=20)
    assert set(receiver.ids()) == {event.id for event in events} - set(list_deliveries(store, stream, "dead"))
    assert set(list_deliveries(store, stream, "dead")) <= {first}
    receiver.server.shutdown()
    receiver.server.server_close()


def list_settled(store: Store, stream: Video) -> dict[str, Delivery]:
    try:
        return list_deliveries(store, stream, "delivered") | list_deliveries(store, stream, "dead")
    except StateRebuilding:
        return {}


def test_a_watch_without_a_webhook_or_a_deleted_stream_ends_its_deliveries(
    store: Store, stream: Video, settings: Settings, unused_port: int
) -> None:
    watch = add_watch(store, stream, "w1", f"http://127.0.0.1:{unused_port}/")
    (event,) = publish(store, stream, "w1", "a")
    store.archive.write_watch(watch.model_copy(update={"webhook": None}))
    later = publish(store, stream, "w1", "b")
    jobs = IngestJobs(settings, store)
    jobs.deliver_events(stream.id, "w1")
    assert list_deliveries(store, stream, "dead")[event.id].reason == "the watch has no webhook any more"
    assert later[0].id not in list_settled(store, stream)
    store.archive.write_watch(watch)
    publish(store, stream, "w1", "c")
    delete_video(store, stream.id)
    jobs.deliver_events(stream.id, "w1")
    assert store.deliveries.find_next(stream.id, "w1") is None
    assert list(store.archive.files.tree(stream.id)) == []


def test_a_job_that_keeps_killing_its_worker_gives_up_the_next_delivery(
    store: Store, stream: Video, settings: Settings
) -> None:
    add_watch(store, stream, "w1", "http://127.0.0.1:9/")
    events = publish(store, stream, "w1", *"ab")
    IngestJobs(settings, store).give_up_delivery("its worker died 10 times", stream.id, "w1")
    assert list(list_deliveries(store, stream, "dead")) == [events[0].id]
    following = store.deliveries.find_next(stream.id, "w1")
    assert following is not None
    assert following[0] == events[1].id


def test_the_deliveries_of_a_killed_worker_are_made_by_the_next_one(
    store: Store, stream: Video, receiver: Receiver, settings: Settings, tmp_path: Path
) -> None:
    quick = settings.jobs.model_copy(update={"worker_dead_after_s": 2, "heartbeat_interval_s": 0.3})
    config = tmp_path / "config.yaml"
    config.write_text(settings.model_copy(update={"jobs": quick}).model_dump_json())  # JSON is YAML
    command = [sys.executable, "-m", "ingest", "--config", str(config)]
    workers = [subprocess.Popen(command, stderr=subprocess.DEVNULL)]
    try:
        killed = threading.Event()

        def kill_first() -> int:
            if not killed.is_set():
                workers[0].kill()
                killed.set()
            return 204

        receiver.answers = {"/": kill_first}
        add_watch(store, stream, "w1", f"{receiver.url}/")
        events = publish(store, stream, "w1", *"abc")
        assert killed.wait(60)
        workers[0].wait()
        workers.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        wait_until(lambda: len(list_deliveries(store, stream, "delivered")) == 3)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert receiver.ids() == [events[0].id, *(event.id for event in events)]  # the first one arrived twice


EVENT = make_event("20261121-020851123-4f2a9c", id="20261121-020851123456")


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest",
        "http://[::1]/",
        "http://127.0.0.2:8000/v1",
        "http://2852039166/",
    ],
)
def test_an_address_that_is_not_public_is_refused(url: str, settings: Settings) -> None:
    outcome = post_event(EVENT, Webhook(url=url), settings.events)
    assert "is not a public address" in outcome.reason
    assert "events.allowed_private_hosts" in outcome.reason


def test_a_name_that_resolves_to_a_private_address_is_refused_and_looked_up_once(
    settings: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = resolve_to(monkeypatch, ["10.0.0.1"], ["127.0.0.1"])
    webhook = Webhook(url=receiver.url.replace("127.0.0.1", "video.example"), secret="s")
    assert "is not a public address" in post_event(EVENT, webhook, settings.events).reason
    assert len(asked) == 1
    assert post_event(EVENT, webhook, settings.events).reason == ""
    assert len(asked) == 2


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "file:///etc/passwd", "http://[::1", "nonsense", "http://"])
def test_an_address_that_is_not_http_fails_with_a_reason(url: str, settings: Settings) -> None:
    assert post_event(EVENT, Webhook(url=url), settings.events).reason


@pytest.mark.parametrize(
    "behaviour", ["silent", "trickling headers", "trickling body", "endless body", "garbage", "cut"]
)
def test_a_bad_receiver_costs_bounded_time_and_memory(behaviour: str, settings: Settings) -> None:
    quick = settings.events.model_copy(update={"delivery_timeout_s": 0.6})
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def misbehave() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                if behaviour == "garbage":
                    connection.sendall(b"\x00\xff" * 100)
                    return
                if behaviour == "cut":
                    return
                head = b"HTTP/1.1 200 OK\r\n" + (b"X: " if behaviour == "trickling headers" else b"\r\n")
                if behaviour != "silent":
                    connection.sendall(head)
                try:
                    while not done.wait(0 if behaviour == "endless body" else 0.05):
                        if behaviour != "silent":
                            connection.sendall(b"x" * (65536 if behaviour == "endless body" else 1))
                except OSError:
                    return

        thread = threading.Thread(target=misbehave)
        thread.start()
        outcome = post_event(EVENT, Webhook(url=f"http://127.0.0.1:{server.getsockname()[1]}/"), quick)
        done.set()
        thread.join(timeout=20)
    arrived = behaviour in ("trickling body", "endless body")
    assert (outcome.reason == "") == arrived, outcome
    assert outcome.away != arrived


def test_the_secret_and_the_password_of_an_address_are_shown_nowhere(
    store: Store, stream: Video, settings: Settings, unused_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    add_watch(store, stream, "w1", f"http://anna:passw0rd@127.0.0.1:{unused_port}/?token=t0ken")
    publish(store, stream, "w1", "a")
    jobs = IngestJobs(settings, store)
    for _ in range(4):
        make_deliveries_due(store, stream)
        jobs.deliver_events(stream.id, "w1")
    (dead,) = list_deliveries(store, stream, "dead").values()
    for shown in (dead.model_dump_json(), caplog.text):
        assert not any(secret in shown for secret in (SECRET, "passw0rd", "t0ken"))


def make_deliveries_due(store: Store, stream: Video) -> None:
    key = f"lw:pending:{stream.id}:w1"
    scores = dict.fromkeys((member for member, _ in store.state.zscan_iter(key)), 0)
    if scores:
        store.state.zadd(key, scores)


def test_a_password_in_an_address_is_sent(receiver: Receiver, settings: Settings) -> None:
    url = receiver.url.replace("http://", "http://anna:p%40ss@")
    assert post_event(EVENT, Webhook(url=url), settings.events).reason == ""
    assert receiver.got[0][1]["Authorization"] == httpx.BasicAuth("anna", "p@ss")._auth_header
