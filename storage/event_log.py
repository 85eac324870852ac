"""The log of events in Redis: read by those who listen, bounded in count and age, rebuilt from the archive."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import cast

from redis import Redis

from configs.settings import EventSettings
from storage.agenda import EVENTS
from storage.archive import Archive
from storage.connection import as_text, redis_errors
from storage.deliveries import STATUSES, Deliveries, deliveries_key, status_key
from storage.documents import parse_document
from storage.errors import DamagedFile, DamagedState, NewerDocument, NotFound, StateRebuilding
from storage.event_scripts import DOCUMENTS, FIND_OLD, HORIZON, READ, REMOVE, RESTORE
from storage.ids import EVENT_NUMBER, check_video_id, event_id_of, event_number
from storage.index import READY
from storage.live_documents import Delivery, Event

log = logging.getLogger(__name__)

LOG = "lw:events"  # sorted set: the events' numbers
OPEN = "lw:events:open"  # sorted set: numbers that are reserved and not committed
LAST = "lw:events:last"  # the last number that was reserved

REMOVED_AT_ONCE = 500
BEFORE_ALL = 10**15 - 1  # below every number


class EventLog:
    """The events that readers can still get. Raises RedisUnavailable, and StateRebuilding while it is being rebuilt.

    Readers see only what lies below the lowest reservation, so they meet events in the order of ids and never have to
    look back.
    """

    def __init__(self, redis: Redis, archive: Archive, settings: EventSettings) -> None:
        self._redis = redis
        self._archive = archive
        self._settings = settings
        self._deliveries = Deliveries(redis)
        self._read_script = redis.register_script(READ)
        self._horizon = redis.register_script(HORIZON)
        self._restore = redis.register_script(RESTORE)
        self._find_old = redis.register_script(FIND_OLD)
        self._remove_script = redis.register_script(REMOVE)

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
        with self.rebuilt_if_damaged():
            state, *found = self._horizon(keys=[READY, EVENTS, OPEN, LAST])
        if state == b"rebuilding":
            raise rebuilding()
        return event_id_of(int(found[0]))

    def find(self, event_id: str) -> Event:
        """The event that the log holds under this id; raises NotFound."""
        number = event_number(event_id)
        with self.rebuilt_if_damaged():
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
        key = LOG if stream_id is None else log_key(check_video_id(stream_id))
        with self.rebuilt_if_damaged(*([] if stream_id is None else [stream_id])):
            state, *found = self._read_script(
                keys=[READY, EVENTS, OPEN, key, DOCUMENTS], args=[low, high, count, int(newest_first)]
            )
        if state == b"rebuilding":
            raise rebuilding()
        numbers, contents = cast(tuple[list[bytes], list[bytes | None]], found)
        events = [_parse(content) for content in contents]
        for number, event in zip(numbers, events, strict=True):
            if event is None or event.id != _id_of(number):
                self.start_rebuild(None, f"event {as_text(number)}")
                raise rebuilding()
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
            self._redis.delete(log_key(stream_id), deliveries_key(stream_id))
            self._redis.delete(*(status_key(stream_id, status) for status in STATUSES))
            if self._redis.type(keys_key(stream_id)) != b"hash":
                self._redis.delete(keys_key(stream_id))

    def restore(self, stream_id: str, events: Sequence[Event], deliveries: Sequence[Delivery]) -> None:
        """Adds events that were read from the archive to the log, in ascending order, with their deliveries."""
        if events:
            args = [
                word
                for event in events
                for word in (event_number(event.id), event.key or event.id, event.model_dump_json())
            ]
            with redis_errors():
                keys = [LOG, DOCUMENTS, log_key(stream_id), keys_key(stream_id), LAST]
                self._restore(keys=keys, args=args)
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
                numbers, contents = self._find_old(
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
            self._redis.delete(log_key(stream_id), keys_key(stream_id), deliveries_key(stream_id))
            self._redis.delete(*(status_key(stream_id, status) for status in STATUSES))

    def _remove_below(self, stream_id: str, high: str) -> None:
        bound = high if high == "+inf" else f"({high}"
        while True:
            try:
                with redis_errors():
                    numbers = self._redis.zrange(
                        log_key(stream_id), "-inf", bound, byscore=True, offset=0, num=REMOVED_AT_ONCE
                    )
                    contents = self._redis.hmget(DOCUMENTS, [as_text(number) for number in numbers]) if numbers else []
                    if not numbers:
                        return
                self._remove(stream_id, [event for content in contents if (event := _parse(content)) is not None])
                with redis_errors():
                    self._redis.zrem(log_key(stream_id), *numbers)
            except DamagedState as error:
                self.start_rebuild(None, f"the log of {stream_id} ({error})")
                return

    def _remove(self, stream_id: str, events: Sequence[Event]) -> None:
        if events:
            keys = [LOG, DOCUMENTS, log_key(stream_id), keys_key(stream_id), deliveries_key(stream_id)]
            keys += [status_key(stream_id, status) for status in STATUSES]
            args = [word for event in events for word in (event_number(event.id), event.key or event.id)]
            with redis_errors():
                self._remove_script(keys=keys, args=args)

    @contextmanager
    def rebuilt_if_damaged(self, *stream_ids: str) -> Iterator[None]:
        """If a value of one of these streams (none: of all) is damaged, starts a rebuild and raises StateRebuilding."""
        try:
            with redis_errors():
                yield
        except DamagedState as error:
            for stream_id in stream_ids or (None,):
                self.start_rebuild(stream_id, str(error))
            raise rebuilding() from error


def rebuilding() -> StateRebuilding:
    """The error while the log is not complete."""
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


def log_key(stream_id: str) -> str:
    """The sorted set of one stream's numbers."""
    return f"lw:events:of:{stream_id}"


def keys_key(stream_id: str) -> str:
    """The hash of one stream's keys: key -> number."""
    return f"lw:events:keys:{stream_id}"
