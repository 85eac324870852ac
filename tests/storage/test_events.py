"""Events: each is published once, and a reader that remembers the last id misses none and gets none twice."""

import random
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from configs.settings import EventSettings, Settings
from jobs.reconciler import Reconciler
from storage import agenda as due
from storage.archive import Archive
from storage.connection import as_text
from storage.deletion import delete_video
from storage.documents import Video
from storage.errors import ArchiveUnavailable, NotFound, StateRebuilding
from storage.event_log import LAST, OPEN
from storage.event_scripts import DOCUMENTS
from storage.events import RESERVED, Events
from storage.files import Files
from storage.ids import event_id_of, event_number, new_video_id
from storage.live_documents import Delivery, Event, Watch, Webhook
from storage.rebuild import rebuild_events
from storage.store import Store
from tests.storage.making import list_keys, make_due, make_video
from tests.storage.publishing import make_event
from tests.storage.test_damaged_state import StopAfter, spoil


@pytest.fixture
def store(store: Store) -> Store:
    """A store whose state was built."""
    store.index.set_ready(store.index.read_generation())
    return store


@pytest.fixture
def reconciler(store: Store, settings: Settings) -> Reconciler:
    return Reconciler(store, settings.jobs)


def add_stream(store: Store) -> Video:
    stream = make_video(kind="stream", status="live", recorded_at=datetime.now(UTC))
    store.add_video(stream)
    store.agenda.remove(due.VIDEOS, stream.id)
    return stream


def make_watch(stream: Video, **values: Any) -> Watch:
    return Watch.model_validate({"id": "w1", "stream_id": stream.id, "question": "is it red ?"} | values)


def keys_of(events: list[Event]) -> list[str]:
    return [event.key for event in events]


def read_all(store: Store, stream_id: str | None = None, at_once: int = 7) -> list[Event]:
    found: list[Event] = []
    while page := store.events.read(found[-1].id if found else "", at_once, stream_id):
        found += page
    return found


def age_reservations(store: Store) -> None:
    """Makes all reservations as old as those of a dead process."""
    for number, note in store.state.hgetall(RESERVED).items():
        _, _, rest = as_text(note).partition(":")
        store.state.hset(RESERVED, number, f"1:{rest}")


def test_an_event_is_in_the_archive_and_in_both_logs_under_one_id(store: Store) -> None:
    one, other = add_stream(store), add_stream(store)
    first = store.events.publish(make_event(one.id), "a")
    second = store.events.publish(make_event(other.id), "a")
    third = store.events.publish(make_event(one.id), "b")
    assert first.id < second.id < third.id
    assert read_all(store) == [first, second, third]
    assert read_all(store, one.id) == [first, third]
    assert store.events.read_newest(None, 2) == [third, second]
    assert store.events.read_newest(second.id, 2) == [first]
    assert store.archive.read_event(other.id, second.id) == second
    assert store.archive.files.exists(f"{one.id}/events/{first.id[:8]}/{first.id}.json")
    assert event_id_of(event_number(first.id)) == first.id


def test_the_same_key_of_a_stream_publishes_once(store: Store) -> None:
    one, other = add_stream(store), add_stream(store)
    first = store.events.publish(make_event(one.id), "a")
    assert store.events.publish(make_event(one.id, message="again"), "a") == first
    assert store.events.publish(make_event(other.id), "a") != first
    many = store.events.publish_all([(make_event(one.id), key) for key in ("x", "a", "x", "y")])
    assert keys_of(many) == ["x", "a", "x", "y"]
    assert (many[1], many[2]) == (first, many[0])
    assert keys_of(read_all(store, one.id)) == ["a", "x", "y"]


def test_threads_that_publish_the_same_keys_publish_each_once(store: Store, settings: Settings) -> None:
    stream = add_stream(store)
    together = threading.Barrier(4)
    ids: list[list[str]] = []

    def publish() -> None:
        own = Store.open(settings)
        for number in range(15):
            together.wait()
            ids.append([str(number), own.events.publish(make_event(stream.id), f"key-{number}").id])

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({tuple(each) for each in ids}) == 15
    assert len(read_all(store)) == len(store.archive.list_day(stream.id, ids[0][1][:8]).event_ids) == 15


def test_a_reader_that_reconnects_at_random_sees_every_event_once_and_in_order(
    store: Store, settings: Settings
) -> None:
    streams = [add_stream(store) for _ in range(2)]
    command = [sys.executable, "-m", "tests.storage.publishing", settings.model_dump_json()]
    publishers = [subprocess.Popen([*command, streams[number % 2].id, f"p{number}", "120"]) for number in range(4)]
    rng = random.Random(4)
    seen: list[Event] = []
    while len(seen) < 480:
        assert any(one.poll() is None for one in publishers) or store.events.read(seen[-1].id, 1)
        reader = Store.open(settings)
        for _ in range(rng.randrange(1, 6)):
            found = reader.events.read(seen[-1].id if seen else "", rng.randrange(1, 20))
            seen += found[: rng.randrange(len(found) + 1)]  # the rest was under way when the connection broke
        reader.state.close()
    assert [one.wait() for one in publishers] == [0] * 4
    assert [event.id for event in seen] == sorted({event.id for event in seen})
    assert sorted(keys_of(seen)) == sorted(f"p{number}-{count}" for number in range(4) for count in range(120))
    for number in range(4):
        own = [key for key in keys_of(seen) if key.startswith(f"p{number}-")]
        assert own == [f"p{number}-{count}" for count in range(120)]


@pytest.mark.parametrize("retried", ["at once", "after the reconciler", "never"])
@pytest.mark.parametrize("step", ["reserved", "written", "committed"])
def test_a_publisher_that_is_killed_between_two_steps_loses_and_repeats_nothing(
    store: Store, settings: Settings, reconciler: Reconciler, step: str, retried: str
) -> None:
    stream = add_stream(store)
    command = [sys.executable, "-m", "tests.storage.publishing", settings.model_dump_json()]
    died = subprocess.run([*command, stream.id, "p", "2", step], check=False)
    assert died.returncode < 0
    later = store.events.publish(make_event(stream.id), "later")
    visible = read_all(store)
    assert keys_of(visible) == (["p-0", "p-1", "later"] if step == "committed" else ["p-0"])
    if retried == "at once":
        again = store.events.publish(make_event(stream.id, message="p-1"), "p-1")
        assert again.id < later.id
        assert keys_of(read_all(store)) == ["p-0", "p-1", "later"]
        assert read_all(store)[1] == again
        return
    age_reservations(store)
    reconciler.run_once()
    assert store.state.zcard(OPEN) == store.state.hlen(RESERVED) == 0
    if retried == "never":
        assert keys_of(read_all(store)) == (["p-0", "later"] if step == "reserved" else ["p-0", "p-1", "later"])
        return
    store.events.publish(make_event(stream.id, message="p-1"), "p-1")
    assert keys_of(read_all(store)) == (["p-0", "later", "p-1"] if step == "reserved" else ["p-0", "p-1", "later"])


def test_a_slow_publisher_whose_reservation_was_given_up_publishes_under_another_id(
    store: Store, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = add_stream(store)
    create, paused = Archive.create_event, list[str]()

    def create_late(self: Archive, event: Event) -> Event | None:
        if not paused:
            paused.append(event.id)
            age_reservations(store)
            reconciler.run_once()
            assert read_all(store) == []
        return create(self, event)

    monkeypatch.setattr(Archive, "create_event", create_late)
    event = store.events.publish(make_event(stream.id), "a")
    assert event.id > paused[0]
    assert read_all(store) == [event]
    assert store.events.publish(make_event(stream.id), "a") == event
    with pytest.raises(NotFound):
        store.archive.read_event(stream.id, paused[0])
    flush_and_rebuild(store, reconciler)
    assert read_all(store) == [event]


def test_an_outage_of_the_archive_neither_loses_nor_repeats_an_event(
    store: Store, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = add_stream(store)
    create = Files.create

    def fail(self: Files, path: str, content: bytes) -> bool:
        if b'"b"' in content:
            raise ArchiveUnavailable("away")
        return create(self, path, content)

    monkeypatch.setattr(Files, "create", fail)
    wanted = [(make_event(stream.id), key) for key in "abc"]
    with pytest.raises(ArchiveUnavailable):
        store.events.publish_all(wanted)
    assert keys_of(read_all(store)) == ["a"]
    monkeypatch.setattr(Files, "create", create)
    assert keys_of(store.events.publish_all(wanted)) == ["a", "b", "c"]
    assert keys_of(read_all(store)) == ["a", "b", "c"]


def flush_and_rebuild(store: Store, reconciler: Reconciler) -> None:
    store.state.flushall()
    with pytest.raises(StateRebuilding):
        store.events.read("", 10)
    reconciler.run_once()


def test_a_flush_keeps_ids_order_and_keys(store: Store, reconciler: Reconciler) -> None:
    one, other = add_stream(store), add_stream(store)
    before = [store.events.publish(make_event((one, other)[number % 2].id), f"{number}") for number in range(20)]
    resumed = before[7].id
    store.state.flushall()
    with pytest.raises(StateRebuilding):
        store.events.publish(make_event(one.id), "0")
    reconciler.run_once()
    assert read_all(store) == before
    assert read_all(store, one.id) == before[::2]
    assert store.events.read(resumed, 100) == before[8:]
    assert store.events.publish(make_event(one.id), "0") == before[0]
    later = store.events.publish(make_event(one.id), "new")
    assert store.events.read(before[-1].id, 100) == [later]


def test_ids_grow_even_if_the_clock_steps_back_during_a_flush(store: Store, reconciler: Reconciler) -> None:
    stream = add_stream(store)
    first = store.events.publish(make_event(stream.id), "a")
    ahead = first.model_copy(update={"id": event_id_of(event_number(first.id) + 3600 * 10**6), "key": "b"})
    store.archive.create_event(ahead)  # published an hour ahead of the present clock
    flush_and_rebuild(store, reconciler)
    assert store.events.read_horizon() == ahead.id
    assert store.events.publish(make_event(stream.id), "c").id > ahead.id
    store.events.forget_stream(stream.id)
    assert store.events.publish(make_event(stream.id), "d").id > ahead.id


def test_a_flush_in_the_middle_of_publishing_repeats_nothing(
    store: Store, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = add_stream(store)
    create, seen = Archive.create_event, list[str]()

    def flush_after_writing(self: Archive, event: Event) -> Event | None:
        stored = create(self, event)
        if not seen:
            seen.append(event.id)
            store.state.flushall()
        return stored

    monkeypatch.setattr(Archive, "create_event", flush_after_writing)
    with pytest.raises(StateRebuilding):
        store.events.publish(make_event(stream.id), "a")
    reconciler.run_once()
    assert store.events.publish(make_event(stream.id), "a").id == seen[0]
    assert keys_of(read_all(store)) == ["a"]


def test_a_flush_and_a_whole_rebuild_before_the_event_was_written_repeat_nothing(
    store: Store, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = add_stream(store)
    create, seen = Archive.create_event, list[str]()

    def create_late(self: Archive, event: Event) -> Event | None:
        if not seen:
            seen.append(event.id)
            flush_and_rebuild(store, reconciler)
        return create(self, event)

    monkeypatch.setattr(Archive, "create_event", create_late)
    event = store.events.publish(make_event(stream.id), "a")
    assert event.id > seen[0]
    assert read_all(store) == [event]
    flush_and_rebuild(store, reconciler)
    assert read_all(store) == [event]


def test_a_reader_waits_while_one_stream_is_still_being_read(
    store: Store, settings: Settings, reconciler: Reconciler
) -> None:
    streams = [add_stream(store) for _ in range(2)]
    for stream in streams:
        store.events.publish(make_event(stream.id), "a")
    store.agenda.put(due.EVENTS, streams[0].id, in_s=0)
    with pytest.raises(StateRebuilding):
        store.events.read("", 10, streams[1].id)
    with pytest.raises(StateRebuilding):
        store.events.publish(make_event(streams[1].id), "b")
    rebuild_events(store, lambda: True, streams[0].id)
    assert len(read_all(store)) == 2


def test_a_rebuild_reads_only_the_days_that_the_log_keeps(
    store: Store, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = add_stream(store)
    event = store.events.publish(make_event(stream.id), "a")
    old = event.model_copy(update={"id": event_id_of(event_number(event.id) - 30 * 86400 * 10**6), "key": "old"})
    store.archive.create_event(old)
    read: list[str] = []
    read_many = Files.read_many

    def noted(self: Files, paths: list[str]) -> dict[str, bytes]:
        read.extend(paths)
        return read_many(self, paths)

    monkeypatch.setattr(Files, "read_many", noted)
    flush_and_rebuild(store, reconciler)
    assert read_all(store) == [event]
    assert [path for path in read if old.id in path] == []
    assert store.archive.read_event(stream.id, old.id) == old


@pytest.mark.parametrize("how", ["type", "content"])
def test_junk_under_any_key_is_reported_and_rebuilt(
    store: Store, settings: Settings, reconciler: Reconciler, how: str
) -> None:
    stream = add_stream(store)
    store.archive.write_watch(make_watch(stream, webhook=Webhook(url="http://127.0.0.1:9/", secret="s")))
    before = [store.events.publish(make_event(stream.id), key) for key in "acdefgh"]
    before.append(store.events.publish(make_event(stream.id, type="match", watch_id="w1"), "b"))
    store.state.zadd(due.EVENTS, {stream.id: 0})
    keys = [key for key in list_keys(store.state, "lw:*") if "event" in key or "deliver" in key or "pending" in key]
    assert len(keys) == 10
    store.agenda.remove(due.EVENTS, stream.id)
    store.state.set(LAST, "1")
    for key in [*keys, OPEN, RESERVED]:
        spoil(store, key, how) if store.state.exists(key) else spoil_missing(store, key, how)
        Reconciler(store, settings.jobs).run_forever(StopAfter(4, partial(look_soon, store)))
        for _ in range(2):
            try:
                assert store.deliveries.find_next(stream.id, "w1") is not None, key
                (pending,) = store.deliveries.list_by_status(stream.id, "pending", None, 10)
                assert pending.event_id == before[-1].id, key
                assert read_all(store) == before, key
                assert read_all(store, stream.id) == before, key
                assert store.events.publish(make_event(stream.id), "a") == before[0], key
                break
            except StateRebuilding:  # the reader found the damage
                Reconciler(store, settings.jobs).run_forever(StopAfter(4, partial(look_soon, store)))
        else:
            pytest.fail(key)


def look_soon(store: Store) -> None:
    """Makes the deliveries due, as if their time had come."""
    if store.state.type(due.DELIVERIES) == b"zset":
        make_due(store, due.DELIVERIES)


def spoil_missing(store: Store, key: str, how: str) -> None:
    """Junk under a key that exists only for a moment."""
    if how == "type":
        store.state.set(key, "junk")
    elif key == OPEN:
        store.state.zadd(key, {b"junk": 0, b"\xffjunk": 1})
    elif key == RESERVED:
        store.state.hset(key, "junk", "junk")
    else:
        store.state.zadd(key, {b"junk": 0, b"\xffjunk": 1})


def test_a_damaged_document_in_the_log_is_read_again_and_one_in_the_archive_is_reported(
    store: Store, reconciler: Reconciler
) -> None:
    stream = add_stream(store)
    events = [store.events.publish(make_event(stream.id), key) for key in "abc"]
    store.state.hset(DOCUMENTS, str(event_number(events[1].id)), "junk")
    with pytest.raises(StateRebuilding):
        store.events.read("", 10)
    reconciler.run_once()
    assert read_all(store) == events
    path = f"{stream.id}/events/{events[1].id[:8]}/{events[1].id}.json"
    store.archive.files.write(path, b"{")
    flush_and_rebuild(store, reconciler)
    assert read_all(store) == [events[0], events[2]]
    assert path in store.index.list_unreadable()


def test_deleting_a_stream_removes_its_events_alone(store: Store) -> None:
    gone, kept = add_stream(store), add_stream(store)
    store.events.publish_all(
        [(make_event(stream.id), f"{n}") for n in range(700) for stream in (gone, kept)[n % 3 != 0 :][:1]]
    )
    delete_video(store, gone.id)
    left = read_all(store, at_once=400)
    assert {event.stream_id for event in left} == {kept.id}
    assert read_all(store, gone.id) == []
    assert not [
        key for key in list_keys(store.state) if gone.id in key and not key.startswith(("lw:deleted", "lw:fence"))
    ]
    assert store.state.hlen(DOCUMENTS) == len(left)
    assert list(store.archive.files.tree(gone.id)) == []
    with pytest.raises(NotFound):
        store.events.publish(make_event(gone.id), "late")


def test_a_stream_that_is_deleted_while_an_event_is_written_keeps_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, kept = add_stream(store), add_stream(store)
    create = Files.create

    def delete_first(self: Files, path: str, content: bytes) -> bool:
        if "/events/" in path and store.archive.has_video(gone.id):
            delete_video(store, gone.id)
        return create(self, path, content)

    monkeypatch.setattr(Files, "create", delete_first)
    with pytest.raises(NotFound):
        store.events.publish(make_event(gone.id), "a")
    assert list(store.archive.files.tree(gone.id)) == []
    monkeypatch.undo()
    event = store.events.publish(make_event(kept.id), "a")
    assert read_all(store) == [event]
    with pytest.raises(NotFound):
        store.events.publish_all([(make_event(stream.id), "b") for stream in (kept, gone)])
    later = store.events.publish(make_event(kept.id), "c")
    assert read_all(store) == [event, later]  # what was not published holds up nobody


def test_whole_days_before_a_time_are_forgotten(store: Store, reconciler: Reconciler) -> None:
    stream, other = add_stream(store), add_stream(store)
    today = store.events.publish(make_event(stream.id), "today")
    kept = store.events.publish(make_event(other.id), "other")
    old = [
        today.model_copy(update={"id": event_id_of(event_number(today.id) - days * 86400 * 10**6), "key": f"{days}"})
        for days in (3, 2, 1)
    ]
    for event in old:
        store.archive.create_event(event)
    flush_and_rebuild(store, reconciler)
    assert read_all(store, stream.id) == [*old, today]
    store.events.forget_before(stream.id, datetime.now(UTC) - timedelta(days=2))
    assert read_all(store, stream.id) == [*old[1:], today]
    assert read_all(store) == [*old[1:], today, kept]
    assert store.archive.list_event_days(stream.id) == [event.id[:8] for event in [*old[1:], today]]


def test_the_log_is_bounded_by_count_and_age(store: Store, settings: Settings, reconciler: Reconciler) -> None:
    stream, other = add_stream(store), add_stream(store)
    events = store.events.publish_all([(make_event((stream, other)[n % 2].id), f"{n}") for n in range(60)])
    few = Events(store.state, store.archive, EventSettings(log_max_events=25))
    few.trim()
    assert read_all(store) == events[-25:]
    assert read_all(store, stream.id) == [event for event in events[-25:] if event.stream_id == stream.id]
    assert store.state.hlen(f"lw:events:keys:{stream.id}") + store.state.hlen(f"lw:events:keys:{other.id}") == 25
    brief = Events(store.state, store.archive, EventSettings(log_max_age_h=1e-9))
    brief.trim()
    assert read_all(store) == []
    assert store.state.hlen(DOCUMENTS) == 0
    assert store.events.publish(make_event(stream.id), "new").id > events[-1].id


def test_a_reader_that_begins_now_gets_what_is_committed_from_now_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = add_stream(store)
    store.events.publish(make_event(stream.id), "before")
    starts: list[str] = []
    create = Archive.create_event

    def start_meanwhile(self: Archive, event: Event) -> Event | None:
        starts.append(store.events.read_horizon())
        return create(self, event)

    monkeypatch.setattr(Archive, "create_event", start_meanwhile)
    store.events.publish(make_event(stream.id), "during")
    assert keys_of(store.events.read(starts[0], 10)) == ["during"]
    assert store.events.read(store.events.read_horizon(), 10) == []


def count_commands(store: Store, act: Callable[[], object]) -> int:
    """How many commands the state's server handles meanwhile, those within scripts included."""
    before = store.state.info("stats")["total_commands_processed"]
    act()
    return int(store.state.info("stats")["total_commands_processed"]) - int(before) - 1


def test_reading_costs_as_much_among_ten_thousand_events_as_among_a_hundred(store: Store) -> None:
    streams = [add_stream(store) for _ in range(2)]

    def fill(count: int, stream: Video) -> None:
        events = [make_event(stream.id, id=event_id_of(10**15 + n), key=f"{n}") for n in range(count)]
        for first in range(0, count, 500):
            store.events.restore(stream.id, events[first : first + 500], [])

    costs = []
    fill(100, streams[0])
    for count in (0, 10_000):
        fill(count, streams[1])
        new = make_event(streams[0].id), f"{count}-new"
        costs.append(
            [
                count_commands(store, lambda: store.events.read_newest(None, 50)),
                count_commands(store, lambda: store.events.read_newest(None, 50, streams[0].id)),
                count_commands(store, lambda: store.events.read(event_id_of(10**15 + 20), 50, streams[0].id)),
                count_commands(store, lambda: store.events.publish(*new)),  # noqa: B023 - called at once
            ]
        )
    assert costs[0] == costs[1]
    assert max(costs[0]) < 40


def test_an_event_of_a_watch_with_a_webhook_is_pending_until_it_is_settled_even_after_a_flush(
    store: Store, reconciler: Reconciler
) -> None:
    stream = add_stream(store)
    store.archive.write_watch(make_watch(stream, webhook=Webhook(url="http://127.0.0.1:9/", secret="s")))
    store.archive.write_watch(make_watch(stream, id="w2"))
    posted, other = (store.events.publish(make_event(stream.id, type="match", watch_id=w), w) for w in ("w1", "w2"))
    done = store.events.publish(make_event(stream.id, type="match", watch_id="w1"), "done")
    settled = Delivery(event_id=done.id, stream_id=stream.id, watch_id="w1", status="dead", reason="answers 500")
    store.archive.write_delivery(settled)
    store.deliveries.put(settled)
    for _ in range(2):
        assert store.deliveries.find_next(stream.id, "w2") is None
        following = store.deliveries.find_next(stream.id, "w1")
        assert following is not None
        assert following[0] == posted.id
        (pending,) = store.deliveries.list_by_status(stream.id, "pending", None, 10)
        assert pending.event_id == posted.id
        assert store.deliveries.list_by_status(stream.id, "dead", None, 10) == [settled]
        flush_and_rebuild(store, reconciler)
    assert other.id in [event.id for event in read_all(store)]


def test_a_delivery_is_forgotten_with_its_event_once_it_is_settled(store: Store, reconciler: Reconciler) -> None:
    stream = add_stream(store)
    store.archive.write_watch(make_watch(stream, webhook=Webhook(url="http://127.0.0.1:9/", secret="s")))
    event = store.events.publish(make_event(stream.id, type="match", watch_id="w1"), "a")
    Events(store.state, store.archive, EventSettings(log_max_age_h=1e-9)).trim()
    following = store.deliveries.find_next(stream.id, "w1")
    assert following is not None
    assert following[0] == event.id
    assert store.events.read_event(stream.id, event.id) == event  # it can still be posted
    delivered = Delivery(event_id=event.id, stream_id=stream.id, watch_id="w1", status="delivered")
    store.archive.write_delivery(delivered)
    store.deliveries.put(delivered)
    assert not [key for key in list_keys(store.state) if "pending" in key or "deliveries:" in key]
    store.state.flushall()
    with pytest.raises(StateRebuilding):
        store.deliveries.list_by_status(stream.id, "delivered", None, 10)
    reconciler.run_once()
    assert store.deliveries.list_by_status(stream.id, "delivered", None, 10) == [delivered]
    assert store.deliveries.find_next(stream.id, "w1") is None


def test_a_key_may_be_any_text_and_an_unknown_stream_has_no_events(store: Store) -> None:
    stream = add_stream(store)
    key = "a:b\n\u2028ä" * 20
    first = store.events.publish(make_event(stream.id), key)
    assert store.events.publish(make_event(stream.id), key) == first
    assert read_all(store, new_video_id()) == []
    for bad in ("", "20261121-1", "19700101-000000000000", "99999999-999999999999", "x"):
        with pytest.raises(NotFound):
            store.events.find(bad)
