"""Events over HTTP: pages with filters, streams that resume, and what became of deliveries."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from api import event_feed, events
from api.app import create_app
from configs.settings import Settings
from jobs.reconciler import Reconciler
from storage import agenda as due
from storage.deletion import delete_video
from storage.documents import Video
from storage.errors import RedisUnavailable
from storage.events import Events
from storage.live_documents import Delivery, Event, Watch, Webhook
from storage.store import Store
from tests.api.conftest import require_problem, serving
from tests.api.sse import STREAM
from tests.storage.making import make_video
from tests.storage.publishing import make_event
from tests.waiting import wait_until

FIELDS = {
    "id", "type", "stream_id", "at", "watch_id", "answer", "probability", "evidence", "message", "start_at", "end_at",
    "picture", "clip",
}  # fmt: skip


@pytest.fixture
def stream(store: Store) -> Video:
    return add_stream(store)


def add_stream(store: Store) -> Video:
    stream = make_video(kind="stream", status="live", recorded_at=datetime.now(UTC))
    store.add_video(stream)
    store.agenda.remove(due.VIDEOS, stream.id)
    return stream


def publish(store: Store, stream: Video, *keys: str, **values: Any) -> list[Event]:
    return store.events.publish_all([(make_event(stream.id, **values), key) for key in keys])


LISTENERS: list["Listener"] = []


@pytest.fixture
def http(http: httpx.Client) -> Iterator[httpx.Client]:
    """The client; all its listeners hang up in the end."""
    yield http
    hang_up_all()


def hang_up_all() -> None:
    while LISTENERS:
        LISTENERS.pop().hang_up()


class Listener(threading.Thread):
    """Follows events in a thread of its own; `last_id` is what a browser would resume from."""

    def __init__(self, http: httpx.Client, path: str = "/v1/events", **request: Any) -> None:
        super().__init__(daemon=True)
        self.last_id = ""
        self.got: list[tuple[str, str, str]] = []  # (event, id, data)
        self.blocks = 0
        self._stop_after: int | None = None
        self._request = http, path, request
        self._socket: socket.socket | None = None
        LISTENERS.append(self)
        self.start()

    def run(self) -> None:
        with suppress(httpx.RemoteProtocolError, httpx.ReadError):  # it hung up
            self._listen()

    def _listen(self) -> None:
        http, path, request = self._request
        headers = STREAM | request.pop("headers", {})
        with http.stream("GET", path, headers=headers, **request) as response:
            assert response.status_code == 200, response.read()
            self._socket = response.extensions["network_stream"].get_extra_info("socket")
            for fields in parse_blocks(response.iter_lines()):
                self.last_id = fields.get("id", self.last_id)
                if "data" in fields:
                    self.got.append((fields["event"], fields.get("id", ""), fields["data"]))
                if self._stop_after is not None and len(self.got) >= self._stop_after:
                    return

    def hang_up(self) -> None:
        """Breaks the connection."""
        if self.is_alive() and self._socket is not None:
            self._socket.shutdown(socket.SHUT_RDWR)
        self.join(timeout=20)

    @property
    def ids(self) -> list[str]:
        return [event_id for _, event_id, _ in self.got]

    def wait_for(self, events: list[Event]) -> None:
        wait_until(lambda: len(self.got) >= len(events), within_s=20)
        assert self.ids == [event.id for event in events]


def parse_blocks(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """The fields of each block of an event stream; skips comments."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if not line and fields:
            yield fields
            fields = {}
        elif name:
            fields[name] = value.removeprefix(" ")


def listen(http: httpx.Client, path: str = "/v1/events", **request: Any) -> Listener:
    """A listener that is connected: it has got the id to resume from."""
    listener = Listener(http, path, **request)
    wait_until(lambda: listener.last_id)
    return listener


def test_a_page_shows_the_newest_events_first_without_their_keys(
    http: httpx.Client, store: Store, stream: Video
) -> None:
    other = add_stream(store)
    events = publish(store, stream, *"abc", message="the camera says \x1b[2J") + publish(store, other, "a")
    page = http.get("/v1/events", params={"limit": 3}).json()
    assert [event["id"] for event in page["events"]] == [event.id for event in events[:0:-1]]
    rest = http.get("/v1/events", params={"limit": 3, "cursor": page["next_cursor"]}).json()
    assert ([event["id"] for event in rest["events"]], rest["next_cursor"]) == ([events[0].id], None)
    assert set(rest["events"][0]) == FIELDS
    assert rest["events"][0]["message"] == r"the camera says \x1b[2J"
    own = http.get(f"/v1/streams/{other.id}/events").json()
    assert [event["id"] for event in own["events"]] == [events[-1].id]


def test_a_page_can_be_filtered(
    http: httpx.Client, store: Store, stream: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    found: list[str] = []
    for n in range(12):
        values = {"at": noon + timedelta(hours=n), "type": "match" if n % 2 else "gap", "watch_id": f"w{n % 3}"}
        found += [event.id for event in publish(store, stream, f"{n}", **values)]

    def ids(**params: Any) -> list[str]:
        page = http.get("/v1/events", params=params).json()
        got = [event["id"] for event in page["events"]]
        return got if page["next_cursor"] is None else got + ids(**params | {"cursor": page["next_cursor"]})

    assert ids(type="match") == found[1::2][::-1]
    assert ids(watch_id="w1") == found[1::3][::-1]
    assert ids(watch_id="w1", type="match", limit=1) == [found[7], found[1]]
    assert ids(start="2026-11-20T15:00:00Z", end="2026-11-20T18:00:00Z") == found[5:2:-1]
    assert ids(start="2026-11-20T16:00:00+01:00", end="2026-11-20T18:00:00Z") == found[5:2:-1]
    monkeypatch.setattr(events, "MOST_SEEN", 2)
    assert ids(watch_id="w1", type="match", limit=1) == [found[7], found[1]]
    assert ids(watch_id="nobody") == []


@pytest.mark.parametrize(
    ("params", "status", "code"),
    [
        ({"cursor": "x"}, 400, "bad-request"),
        ({"start": "yesterday"}, 400, "bad-request"),
        ({"type": "nonsense"}, 422, "invalid"),
        ({"limit": 1000}, 422, "invalid"),
    ],
)
def test_a_wrong_request_is_refused(http: httpx.Client, params: dict[str, Any], status: int, code: str) -> None:
    require_problem(http.get("/v1/events", params=params), status, code)


def test_what_does_not_exist_is_not_found(http: httpx.Client, store: Store, stream: Video) -> None:
    file = make_video()
    store.add_video(file)
    for stream_id in (file.id, "20200101-000000000-aaaaaa", "x"):
        require_problem(http.get(f"/v1/streams/{stream_id}/events"), 404, "not-found")
        require_problem(http.get(f"/v1/streams/{stream_id}/events", headers=STREAM), 404, "not-found")
        require_problem(http.get(f"/v1/streams/{stream_id}/deliveries"), 404, "not-found")
    (event,) = publish(store, stream, "a")
    for event_id in (event.id, "x", "20200101-000000000000"):
        require_problem(http.post(f"/v1/deliveries/{event_id}/redeliver"), 404, "not-found")
    for wrong in ({"headers": STREAM | {"last-event-id": "x"}}, {"headers": STREAM, "params": {"after": "x"}}):
        require_problem(http.get("/v1/events", **wrong), 400, "bad-request")  # type: ignore[arg-type]


def test_a_listener_gets_events_from_now_on_and_resumes_where_it_was(
    http: httpx.Client, store: Store, stream: Video
) -> None:
    other = add_stream(store)
    publish(store, stream, "before")
    everything, own = listen(http), listen(http, f"/v1/streams/{stream.id}/events")
    idle = listen(http)  # it gets nothing before it disconnects
    first = publish(store, stream, *"abc") + publish(store, other, *"ab")
    everything.wait_for(first)
    own.wait_for(first[:3])
    name, _, data = everything.got[0]
    assert name == "gap"
    shown = httpx.Response(200, text=data).json()
    assert set(shown) == FIELDS
    missed = publish(store, stream, "d") + publish(store, other, "c")
    for listener, expected in ((everything, missed), (own, missed[:1])):
        path = "/v1/events" if listener is everything else f"/v1/streams/{stream.id}/events"
        resumed = Listener(
            http, path, headers={"last-event-id": first[-1].id if listener is everything else first[2].id}
        )
        resumed.wait_for(expected)
        by_query = Listener(http, path, params={"after": first[-1].id})
        by_query.wait_for(expected)
    assert idle.last_id
    begun_id = event_before(store, first[0])
    Listener(http, headers={"last-event-id": begun_id}).wait_for(first + missed)


def event_before(store: Store, event: Event) -> str:
    (earlier,) = store.events.read_newest(event.id, 1)
    return earlier.id


def test_listeners_that_reconnect_at_random_see_every_event_once_and_in_order(
    http: httpx.Client, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "HELD_EVENTS", 10)  # so that they also read the log themselves
    streams = [add_stream(store) for _ in range(3)]
    start = listen(http).last_id

    def write(number: int) -> None:
        own = Store.open(settings)
        for count in range(60):
            own.events.publish(make_event(streams[number].id), f"{number}-{count}")

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    seen: list[str] = []
    last_id, turn = start, 0
    while len(seen) < 180:
        turn += 1
        reader = Listener(http, headers={"last-event-id": last_id})
        reader._stop_after = 1 + turn * 7 % 23
        wait_until(lambda: not reader.is_alive() or len(seen) + len(reader.got) >= 180)  # noqa: B023
        got = reader.ids
        seen, last_id = seen + got, got[-1] if got else last_id
    for writer in writers:
        writer.join()
    assert seen == [event.id for event in store.events.read(start, 500)]
    assert len(set(seen)) == 180


def test_a_flush_interrupts_no_listener(http: httpx.Client, store: Store, settings: Settings, stream: Video) -> None:
    listener = listen(http)
    before = publish(store, stream, *"abc")
    listener.wait_for(before)
    store.state.flushall()
    late = Listener(http, headers={"last-event-id": before[0].id})
    require_problem(http.get("/v1/events"), 503, "state-rebuilding")
    Reconciler(store, settings.jobs).run_once()
    after = publish(store, stream, *"cde")
    assert after[0] == before[2]
    listener.wait_for(before + after[1:])
    late.wait_for(before[1:] + after[1:])


def test_a_failure_of_storage_ends_streams_with_a_problem_and_later_ones_work(
    http: httpx.Client, store: Store, stream: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    listeners = [listen(http) for _ in range(3)]
    (first,) = publish(store, stream, "a")
    for listener in listeners:
        listener.wait_for([first])
    read: Callable[..., list[Event]] = Events.read

    def fail(*_: object, **__: object) -> list[Event]:
        raise RedisUnavailable("away")

    monkeypatch.setattr(Events, "read", fail)
    for listener in listeners:
        listener.join(timeout=20)
        assert [name for name, _, _ in listener.got] == ["gap", "problem"]
        assert "redis-unavailable" in listener.got[-1][2]
        assert listener.last_id == first.id
    monkeypatch.setattr(Events, "read", read)
    (second,) = publish(store, stream, "b")
    Listener(http, headers={"last-event-id": listeners[0].last_id}).wait_for([second])


def test_deleting_a_stream_ends_its_listeners_only(
    http: httpx.Client, store: Store, stream: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "LOOK_FOR_DELETIONS_S", 0.1)
    other = add_stream(store)
    own, all_of_them = listen(http, f"/v1/streams/{stream.id}/events"), listen(http)
    delete_video(store, stream.id)
    own.join(timeout=20)
    assert [name for name, _, _ in own.got] == ["problem"]
    assert "not-found" in own.got[0][2]
    all_of_them.wait_for(publish(store, other, "a"))


def test_reading_costs_the_same_for_one_listener_and_for_forty(settings: Settings, store: Store, stream: Video) -> None:
    quick = settings.events.model_copy(update={"poll_interval_s": 0.05})
    limits = httpx.Limits(max_connections=None)
    with serving(create_app(settings.model_copy(update={"events": quick}), store), settings.api) as http:
        with httpx.Client(base_url=http.base_url, timeout=30, trust_env=False, limits=limits) as crowd:
            listeners = [listen(crowd)]
            alone = count_scripts(store)
            listeners += [listen(crowd) for _ in range(40)]
            assert count_scripts(store) < 1.5 * alone + 5
            events = publish(store, stream, *"abc")
            for listener in listeners:
                listener.wait_for(events)
            hang_up_all()
        wait_until(lambda: count_scripts(store) == 0)  # nobody listens: nothing is read


def count_scripts(store: Store) -> int:
    """How many scripts Redis runs within half a second."""

    def count() -> int:
        return int(store.state.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))

    before = count()
    threading.Event().wait(0.5)
    return count() - before


def test_a_listener_that_does_not_read_holds_up_no_other(
    http: httpx.Client, store: Store, stream: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "HELD_EVENTS", 50)
    address = (http.base_url.host, http.base_url.port)
    with socket.create_connection(address) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        slow.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        received = slow.recv(4096)
        while b"\nid: " not in received:
            received += slow.recv(4096)
        quick = listen(http)
        events = publish(store, stream, *(f"{n}" for n in range(1500)), message="x" * 3000)
        quick.wait_for(events)
        slow.settimeout(20)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        parts, end = [received], f"id: {events[-1].id}".encode()
        while end not in b"".join(parts[-3:]):  # now it goes on, and gets what is no longer held from the log
            parts.append(slow.recv(1 << 20))
    rest = b"".join(parts)
    ids = [line.split()[1].decode() for line in rest.split(b"\n") if line.startswith(b"id: 2")]
    assert ids[1:] == [event.id for event in events]


def test_head_answers_like_get_and_does_not_listen(http: httpx.Client, store: Store, stream: Video) -> None:
    publish(store, stream, "a")
    for path in ("/v1/events", f"/v1/streams/{stream.id}/events", f"/v1/streams/{stream.id}/deliveries"):
        get, head = http.get(path), http.head(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-length"] == get.headers["content-length"]
    head = http.head("/v1/events", headers=STREAM)
    assert head.headers["content-type"] == "text/event-stream; charset=utf-8"
    wait_until(lambda: count_scripts(store) == 0)


def test_deliveries_are_listed_by_status_and_posted_again_on_request(
    http: httpx.Client, store: Store, stream: Video
) -> None:
    watch = Watch(id="w1", stream_id=stream.id, question="?", webhook=Webhook(url="http://127.0.0.1:9/", secret="s"))
    store.archive.write_watch(watch)
    posted = publish(store, stream, *"abc", type="match", watch_id="w1")
    dead = Delivery(event_id=posted[1].id, stream_id=stream.id, watch_id="w1", status="dead", attempts=15, reason="no")
    store.archive.write_delivery(dead)
    store.deliveries.put(dead)

    def ids(status: str) -> list[str]:
        page = http.get(f"/v1/streams/{stream.id}/deliveries", params={"status": status, "limit": 1}).json()
        found = [delivery["id"] for delivery in page["deliveries"]]
        if page["next_cursor"]:
            more = {"status": status, "cursor": page["next_cursor"]}
            found += [
                one["id"] for one in http.get(f"/v1/streams/{stream.id}/deliveries", params=more).json()["deliveries"]
            ]
        return found

    assert (ids("pending"), ids("dead"), ids("delivered")) == ([posted[2].id, posted[0].id], [posted[1].id], [])
    (shown,) = http.get(f"/v1/streams/{stream.id}/deliveries?status=dead").json()["deliveries"]
    assert (shown["reason"], shown["attempts"], shown["watch_id"]) == ("no", 15, "w1")
    answer = http.post(f"/v1/deliveries/{posted[1].id}/redeliver")
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    assert (len(ids("pending")), ids("dead")) == (3, [])
    store.archive.write_watch(watch.model_copy(update={"webhook": None}))
    require_problem(http.post(f"/v1/deliveries/{posted[1].id}/redeliver"), 409, "conflict")
