"""Publishes events, each once and in the archive before anybody reads it, and keeps a log of them for readers."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, NamedTuple, cast

from redis import Redis
from redis.commands.core import Script

from configs.settings import EventSettings
from storage.agenda import DELIVERIES, EVENTS
from storage.archive import Archive
from storage.connection import as_text, redis_errors
from storage.deliveries import STATUSES, Deliveries, agenda_item, deliveries_key, pending_key, status_key
from storage.documents import parse_document
from storage.errors import DamagedFile, DamagedState, LongwatchError, NewerDocument, NotFound, StateRebuilding
from storage.event_scripts import COMMIT, DOCUMENTS, DROP, FIND_OLD, FIND_STALE, HORIZON, READ, REMOVE, RESERVE, RESTORE
from storage.ids import EVENT_NUMBER, check_video_id, event_id_of, event_number
from storage.index import READY, deleted_key
from storage.live_documents import Delivery, Event, Webhook

log = logging.getLogger(__name__)

LOG = "lw:events"  # sorted set: the events' numbers
OPEN = "lw:events:open"  # sorted set: numbers that are reserved and not committed
RESERVED = "lw:events:reserved"  # hash: reserved number -> when:stream:key
LAST = "lw:events:last"  # the last number that was reserved

RESERVED_S = 10.0  # a reservation that is older belongs to a process that died, or to one that has to start over
AT_ONCE = 64  # events published in one go: their reservations must not grow old meanwhile
WRITERS = 8  # threads
REMOVED_AT_ONCE = 500
MOST_TRIES = 5  # a reservation is lost only if its process pauses for long, or in a flush
BEFORE_ALL = 10**15 - 1  # below every number

WebhookOf = Callable[[str, str], Webhook | None]


class Wanted(NamedTuple):
    """An event that is being published."""

    event: Event  # without its id
    deliver: bool  # whether it goes to a webhook


class Events:
    """The log of events. Raises RedisUnavailable, ArchiveUnavailable, StateRebuilding while the log is being rebuilt.

    Publishing takes three steps: an id is reserved under the event's key, the event is written to the archive, and the
    reservation becomes an entry of the log. Readers see only what lies below the lowest reservation, so they meet
    events in the order of ids and never have to look back.
    """

    def __init__(
        self, redis: Redis, archive: Archive, settings: EventSettings, webhook_of: WebhookOf | None = None
    ) -> None:
        self._redis = redis
        self._archive = archive
        self._settings = settings
        self._webhook_of = webhook_of or self._read_webhook
        self._deliveries = Deliveries(redis)
        self._scripts: dict[str, Script] = {
            script: redis.register_script(script)
            for script in (RESERVE, COMMIT, DROP, FIND_STALE, READ, HORIZON, RESTORE, FIND_OLD, REMOVE)
        }

    # publishing

    def publish(self, event: Event, key: str) -> Event:
        """Publishes the event under a fresh id, and returns it with that id. The same key of a stream publishes once.

        Raises NotFound if the stream was deleted. After any other error the caller tries again with the same key.
        """
        return self.publish_all([(event, key)])[0]

    def publish_all(self, events: Sequence[tuple[Event, str]]) -> list[Event]:
        """Publishes many events, each under its key, with a few commands for all. Their ids have the same order."""
        published: list[Event] = []
        for first in range(0, len(events), AT_ONCE):
            published += self._publish(events[first : first + AT_ONCE])
        return published

    def _publish(self, events: Sequence[tuple[Event, str]]) -> list[Event]:
        left = {at: self._prepare(event, key) for at, (event, key) in enumerate(events)}
        published: dict[int, Event] = {}
        for _ in range(MOST_TRIES):
            numbered: dict[int, Wanted] = {}
            reserved = self._reserve([wanted.event for wanted in left.values()])
            for (at, (event, deliver)), (state, number) in zip(left.items(), reserved, strict=True):
                event_id = event_id_of(number)
                if state == "done":
                    published[at] = self.read_event(event.stream_id, event_id)
                else:
                    numbered[at] = Wanted(event.model_copy(update={"id": event_id}), deliver)
            written, failure = self._write_all(numbered)
            published |= self._commit(written)  # those that are written do not wait until the others can be
            if failure is not None:
                raise failure
            left = {at: wanted for at, wanted in left.items() if at not in published}
            if not left:
                return [published[at] for at in sorted(published)]
        raise DamagedState("the reservations of events are lost again and again: is Redis being flushed?")

    def _prepare(self, event: Event, key: str) -> Wanted:
        assert key, "each event has a key"
        webhook = None if event.watch_id is None else self._webhook_of(event.stream_id, event.watch_id)
        return Wanted(event.model_copy(update={"key": key}), webhook is not None)

    def _reserve(self, events: Sequence[Event]) -> list[tuple[str, int]]:
        """(state, number) for each event.

        `new`; `open`: an earlier attempt reserved it, and did not commit it; `done`: it is published.
        """
        with self._rebuilt_if_damaged(*{event.stream_id for event in events}):
            found = self._run_all(
                RESERVE,
                [
                    (
                        [
                            READY,
                            EVENTS,
                            deleted_key(event.stream_id),
                            _keys_key(check_video_id(event.stream_id)),
                            DOCUMENTS,
                            RESERVED,
                            OPEN,
                            LOG,
                            _log_key(event.stream_id),
                            LAST,
                        ],
                        [event.key, event.stream_id],
                    )
                    for event in events
                ],
            )
        reserved: list[tuple[str, int]] = []
        for event, (state, *numbers) in zip(events, found, strict=True):
            if state == b"rebuilding":
                raise _rebuilding()
            if state == b"deleted":
                raise NotFound(f"stream {event.stream_id} was deleted meanwhile")
            if state == b"damaged":
                self.start_rebuild(event.stream_id, f"the key {event.key!r} of an event")
                raise _rebuilding()
            reserved.append((as_text(state), int(numbers[0])))
        return reserved

    def _write_all(self, numbered: dict[int, Wanted]) -> tuple[dict[int, Wanted], Exception | None]:
        """Writes the events at the same time, because each waits for a disk; returns those written, and an error."""
        written: dict[int, Wanted] = {}
        failure: Exception | None = None
        with ThreadPoolExecutor(max_workers=min(len(numbered), WRITERS) or 1) as writers:
            started = {at: writers.submit(self._write, *wanted) for at, wanted in numbered.items()}
            for at, writing in started.items():
                try:
                    stored = writing.result()
                except LongwatchError as error:
                    failure = failure or error
                else:
                    if stored is not None:
                        written[at] = Wanted(stored, numbered[at].deliver)
        return written, failure

    def _write(self, event: Event, deliver: bool) -> Event | None:
        """Writes the event; returns what its id stands for. None if the id was given up: another one is reserved."""
        try:
            if deliver:  # first: an event without it is never delivered, and without an event it means nothing
                assert event.watch_id is not None
                self._archive.write_delivery(
                    Delivery(event_id=event.id, stream_id=event.stream_id, watch_id=event.watch_id)
                )
            stored = self._archive.create_event(event)
        except NotFound:
            self._drop(event.stream_id, event_number(event.id), event.key)
            raise
        if stored is None:
            self._drop(event.stream_id, event_number(event.id), event.key)
        return stored

    def _commit(self, written: dict[int, Wanted]) -> dict[int, Event]:
        """Adds the events to the log; returns those that are in it. The others lost their reservation."""
        with self._rebuilt_if_damaged(*{wanted.event.stream_id for wanted in written.values()}):
            met = self._run_all(COMMIT, [_commit_arguments(*wanted) for wanted in written.values()])
        committed: dict[int, Event] = {}
        for (at, (event, _)), result in zip(written.items(), met, strict=True):
            if result == -1:
                self._drop(event.stream_id, event_number(event.id), event.key)
                raise NotFound(f"stream {event.stream_id} was deleted meanwhile")
            if result == -2:  # the rebuild may find it
                raise _rebuilding()
            if result == 1:
                committed[at] = event
            else:
                log.warning("event %s lost its reservation and is published again", event.id)
                self._archive.void_event(event)
        return committed

    def _drop(self, stream_id: str, number: int, key: str) -> None:
        with redis_errors():
            self._scripts[DROP](keys=[RESERVED, OPEN, _keys_key(stream_id)], args=[number, key])

    def resolve_reservations(self) -> None:
        """Ends the reservations of processes that died: commits what is in the archive, and drops the others."""
        with redis_errors():
            found: list[bytes] = self._scripts[FIND_STALE](keys=[RESERVED, OPEN], args=[RESERVED_S])
        for member, note in zip(found[::2], found[1::2], strict=True):
            _, _, rest = as_text(note).partition(":")
            stream_id, _, key = rest.partition(":")
            number = as_text(member)
            try:
                if not EVENT_NUMBER.fullmatch(number):
                    raise NotFound(f"{number!r} is not the number of an event")
                self._resolve(check_video_id(stream_id), int(number), key)
            except NotFound as error:
                log.warning("a reservation is dropped: %s", error)
                with redis_errors():
                    self._scripts[DROP](keys=[RESERVED, OPEN], args=[member, key])

    def _resolve(self, stream_id: str, number: int, key: str) -> None:
        event_id = event_id_of(number)
        try:
            event = self._archive.give_up_event(stream_id, event_id)
        except (DamagedFile, NewerDocument) as error:
            log.error("event %s cannot be read: %s", event_id, error)
            event = None
        if event is None:
            log.warning("event %s (%s) was reserved by a process that died before it wrote it", event_id, key)
            self._drop(stream_id, number, key)
            return
        log.warning("event %s was written by a process that died before it published it", event_id)
        deliveries, _ = self._archive.read_deliveries(stream_id, [event_id])
        self._commit({0: Wanted(event, bool(deliveries))})

    def _read_webhook(self, stream_id: str, watch_id: str) -> Webhook | None:
        try:
            return self._archive.read_watch(stream_id, watch_id).webhook
        except NotFound:
            return None
        except (DamagedFile, NewerDocument) as error:
            log.error("%s", error)
            return None

    # reading

    def read(self, after_id: str, count: int, stream_id: str | None = None) -> list[Event]:
        """Up to `count` events after this id ("": all), of all streams or of one, in the order of their ids.

        An event that is read later has a greater id, so the last id is all that a reader has to remember.
        """
        after = event_number(after_id) if after_id else BEFORE_ALL
        return self._read(after, "+inf", count, stream_id, newest_first=False)

    def read_newest(self, before_id: str | None, count: int, stream_id: str | None = None) -> list[Event]:
        """Up to `count` events, newest first; with `before_id`, only those before it."""
        high = "+inf" if before_id is None else str(event_number(before_id))
        return self._read(BEFORE_ALL, high, count, stream_id, newest_first=True)

    def read_horizon(self) -> str:
        """The id after which a reader starts who wants only what is published from now on."""
        with self._rebuilt_if_damaged():
            state, *found = self._scripts[HORIZON](keys=[READY, EVENTS, OPEN, LAST])
        if state == b"rebuilding":
            raise _rebuilding()
        return event_id_of(int(found[0]))

    def find(self, event_id: str) -> Event:
        """The event that the log holds under this id; raises NotFound."""
        number = event_number(event_id)
        with self._rebuilt_if_damaged():
            content = self._redis.hget(DOCUMENTS, str(number))
        event = _parse(content)
        if event is None:
            raise NotFound(f"no event {event_id}; those of the last {self._settings.log_max_age_h:g} h can be found")
        return event

    def read_event(self, stream_id: str, event_id: str) -> Event:
        """The event, from the log or else from the archive; raises NotFound, DamagedFile, NewerDocument."""
        try:
            return self.find(event_id)
        except NotFound:
            return self._archive.read_event(stream_id, event_id)

    def _read(self, low: int, high: str, count: int, stream_id: str | None, *, newest_first: bool) -> list[Event]:
        key = LOG if stream_id is None else _log_key(check_video_id(stream_id))
        with self._rebuilt_if_damaged(*([] if stream_id is None else [stream_id])):
            state, *found = self._scripts[READ](
                keys=[READY, EVENTS, OPEN, key, DOCUMENTS], args=[low, high, count, int(newest_first)]
            )
        if state == b"rebuilding":
            raise _rebuilding()
        numbers, contents = cast(tuple[list[bytes], list[bytes | None]], found)
        events = [_parse(content) for content in contents]
        for number, event in zip(numbers, events, strict=True):
            if event is None or event.id != _id_of(number):
                self.start_rebuild(None, f"event {as_text(number)}")
                raise _rebuilding()
        return cast(list[Event], events)

    # keeping the log

    def start_rebuild(self, stream_id: str | None, what: str) -> None:
        """Reports a damaged value, and makes the reconciler read the stream's events (None: all) from the archive."""
        log.error("%s in Redis is damaged: the events are read from the archive again", what)
        with redis_errors():
            if stream_id is None:
                self._redis.delete(READY)
            else:
                self._redis.zadd(EVENTS, {stream_id: 0})

    def forget_log(self) -> None:
        """Empties the log, before all streams' events are read from the archive."""
        with redis_errors():
            self._redis.delete(LOG, DOCUMENTS)

    def forget_stream_log(self, stream_id: str) -> None:
        """Empties a stream's own list, before its events are read from the archive. Keys stay if they are readable."""
        with redis_errors():
            self._redis.delete(_log_key(stream_id), deliveries_key(stream_id))
            self._redis.delete(*(status_key(stream_id, status) for status in STATUSES))
            if self._redis.type(_keys_key(stream_id)) != b"hash":
                self._redis.delete(_keys_key(stream_id))

    def restore(self, stream_id: str, events: Sequence[Event], deliveries: Sequence[Delivery]) -> None:
        """Adds events that were read from the archive to the log, in ascending order, with their deliveries."""
        if events:
            args = [
                word
                for event in events
                for word in (event_number(event.id), event.key or event.id, event.model_dump_json())
            ]
            with redis_errors():
                keys = [LOG, DOCUMENTS, _log_key(stream_id), _keys_key(stream_id), LAST]
                self._scripts[RESTORE](keys=keys, args=args)
        known = {event.id for event in events}
        for delivery in deliveries:
            if delivery.event_id in known:
                self._deliveries.put(delivery)

    def read_oldest_id(self) -> str:
        """The id of the oldest event that may be in the log, by Redis' clock."""
        with redis_errors():
            seconds, microseconds = self._redis.time()
        return event_id_of(seconds * 10**6 + microseconds - int(self._settings.log_max_age_h * 3600e6))

    def trim(self) -> None:
        """Removes the oldest events from the log, as `log_max_events` and `log_max_age_h` say."""
        young = event_number(self.read_oldest_id())
        while True:
            with redis_errors():
                numbers, contents = self._scripts[FIND_OLD](
                    keys=[LOG, DOCUMENTS], args=[self._settings.log_max_events, young, REMOVED_AT_ONCE]
                )
            if not numbers:
                return
            events = [event for content in contents if (event := _parse(content)) is not None]
            for stream_id, group in groupby(sorted(events, key=_stream_of), key=_stream_of):
                self._remove(stream_id, list(group))
            with redis_errors():
                self._redis.zrem(LOG, *numbers)
                self._redis.hdel(DOCUMENTS, *numbers)

    def forget_before(self, stream_id: str, when: datetime) -> None:
        """Removes the whole days before `when` (UTC) from the archive and the log."""
        first_kept = when.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        for day in self._archive.list_event_days(stream_id):
            if day < f"{first_kept:%Y%m%d}":
                self._archive.delete_event_day(stream_id, day)
        self._remove_below(stream_id, str((first_kept - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)))

    def forget_stream(self, stream_id: str) -> None:
        """Removes a deleted stream from the log."""
        self._remove_below(stream_id, "+inf")
        with redis_errors():
            self._redis.delete(_log_key(stream_id), _keys_key(stream_id), deliveries_key(stream_id))
            self._redis.delete(*(status_key(stream_id, status) for status in STATUSES))

    def _remove_below(self, stream_id: str, high: str) -> None:
        bound = high if high == "+inf" else f"({high}"
        while True:
            try:
                with redis_errors():
                    numbers = self._redis.zrange(
                        _log_key(stream_id), "-inf", bound, byscore=True, offset=0, num=REMOVED_AT_ONCE
                    )
                    contents = self._redis.hmget(DOCUMENTS, [as_text(number) for number in numbers]) if numbers else []
                    if not numbers:
                        return
                self._remove(stream_id, [event for content in contents if (event := _parse(content)) is not None])
                with redis_errors():
                    self._redis.zrem(_log_key(stream_id), *numbers)
            except DamagedState as error:
                self.start_rebuild(None, f"the log of {stream_id} ({error})")
                return

    def _remove(self, stream_id: str, events: Sequence[Event]) -> None:
        if events:
            keys = [LOG, DOCUMENTS, _log_key(stream_id), _keys_key(stream_id), deliveries_key(stream_id)]
            keys += [status_key(stream_id, status) for status in STATUSES]
            args = [word for event in events for word in (event_number(event.id), event.key or event.id)]
            with redis_errors():
                self._scripts[REMOVE](keys=keys, args=args)

    def _run_all(self, script: str, calls: Sequence[tuple[list[str], list[Any]]]) -> list[Any]:
        """Runs the script once for each call, with one round trip."""
        if not calls:
            return []
        with redis_errors(), self._redis.pipeline(transaction=False) as pipeline:
            for keys, args in calls:
                self._scripts[script](keys=keys, args=args, client=pipeline)
            return list(pipeline.execute())

    @contextmanager
    def _rebuilt_if_damaged(self, *stream_ids: str) -> Iterator[None]:
        """If a value of one of these streams (none: of all) is damaged, starts a rebuild and raises StateRebuilding."""
        try:
            with redis_errors():
                yield
        except DamagedState as error:
            for stream_id in stream_ids or (None,):
                self.start_rebuild(stream_id, str(error))
            raise _rebuilding() from error


def _commit_arguments(event: Event, deliver: bool) -> tuple[list[str], list[str | int]]:
    stream_id, number = event.stream_id, event_number(event.id)
    keys = [READY, EVENTS, deleted_key(stream_id), _keys_key(stream_id), DOCUMENTS, RESERVED, OPEN, LOG]
    keys.append(_log_key(stream_id))
    args: list[str | int] = [number, event.model_dump_json(), event.key]
    if deliver and event.watch_id is not None:
        keys += [DELIVERIES, pending_key(stream_id, event.watch_id)]
        keys += [status_key(stream_id, "pending"), deliveries_key(stream_id)]
        delivery = Delivery(event_id=event.id, stream_id=stream_id, watch_id=event.watch_id)
        args += [agenda_item(stream_id, event.watch_id), delivery.model_dump_json()]
    return keys, args


def _rebuilding() -> StateRebuilding:
    return StateRebuilding(
        "the log of events is being rebuilt from the archive: try again soon; this needs a live worker (see /readyz)"
    )


def _parse(content: object) -> Event | None:
    if not isinstance(content, bytes):
        return None
    try:
        return parse_document(Event, content, "an event in Redis")
    except (DamagedFile, NewerDocument) as error:
        log.error("%s", error)
        return None


def _id_of(number: bytes) -> str:
    return event_id_of(int(number)) if EVENT_NUMBER.fullmatch(as_text(number)) else ""


def _stream_of(event: Event) -> str:
    return event.stream_id


def _log_key(stream_id: str) -> str:
    return f"lw:events:of:{stream_id}"


def _keys_key(stream_id: str) -> str:
    return f"lw:events:keys:{stream_id}"
