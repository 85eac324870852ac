"""Publishes events: each once under its key, and in the archive before anybody reads it."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from redis import Redis
from redis.commands.core import Script

from configs.settings import EventSettings
from storage.agenda import DELIVERIES, EVENTS
from storage.archive import Archive
from storage.connection import as_text, redis_errors
from storage.deliveries import agenda_item, deliveries_key, pending_key, status_key
from storage.errors import DamagedFile, DamagedState, LongwatchError, NewerDocument, NotFound
from storage.event_log import LAST, LOG, OPEN, EventLog, keys_key, log_key, rebuilding
from storage.event_scripts import COMMIT, DOCUMENTS, DROP, FIND_STALE, RESERVE
from storage.ids import EVENT_NUMBER, check_video_id, event_id_of, event_number
from storage.index import READY, deleted_key
from storage.live_documents import Delivery, Event, Webhook

log = logging.getLogger(__name__)

RESERVED = "lw:events:reserved"  # hash: reserved number -> when:stream:key

RESERVED_S = 10.0  # a reservation that is older belongs to a process that died, or to one that has to start over
AT_ONCE = 64  # events published in one go: their reservations must not grow old meanwhile
WRITERS = 8  # threads
MOST_TRIES = 5  # a reservation is lost only if its process pauses for long, or in a flush

WebhookOf = Callable[[str, str], Webhook | None]


class Wanted(NamedTuple):
    """An event that is being published."""

    event: Event  # without its id
    deliver: bool  # whether it goes to a webhook


class Events(EventLog):
    """Publishes events to the log. Raises RedisUnavailable, ArchiveUnavailable, StateRebuilding.

    Publishing takes three steps: an id is reserved under the event's key, the event is written to the archive, and the
    reservation becomes an entry of the log.
    """

    def __init__(
        self, redis: Redis, archive: Archive, settings: EventSettings, webhook_of: WebhookOf | None = None
    ) -> None:
        super().__init__(redis, archive, settings)
        self._webhook_of = webhook_of or self._read_webhook
        self._scripts: dict[str, Script] = {
            script: redis.register_script(script) for script in (RESERVE, COMMIT, DROP, FIND_STALE)
        }

    def publish(self, event: Event, key: str) -> Event:
        """Publishes the event under a fresh id, and returns it with that id. The same key of a stream publishes once.

        Raises NotFound if the stream was deleted. After any other error the caller tries again with the same key.
        """
        return self.publish_all([(event, key)])[0]

    def publish_all(self, events: Sequence[tuple[Event, str]]) -> list[Event]:
        """Publishes many events, each under its key, with a few commands for all. Their ids have the same order.

        Raises NotFound if a stream of one of them was deleted; the others may not be published then.
        """
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
        with self.rebuilt_if_damaged(*{event.stream_id for event in events}):
            found = self._run_all(
                RESERVE,
                [
                    (
                        [
                            READY,
                            EVENTS,
                            deleted_key(event.stream_id),
                            keys_key(check_video_id(event.stream_id)),
                            DOCUMENTS,
                            RESERVED,
                            OPEN,
                            LOG,
                            log_key(event.stream_id),
                            LAST,
                        ],
                        [event.key, event.stream_id],
                    )
                    for event in events
                ],
            )
        try:
            for event, (state, *_) in zip(events, found, strict=True):
                self._require_reserved(event, state)
        except LongwatchError:  # none is published now, so none may hold up readers
            for event, (state, *numbers) in zip(events, found, strict=True):
                if state == b"new":
                    self._drop(event.stream_id, int(numbers[0]), event.key)
            raise
        return [(as_text(state), int(number)) for state, number in found]

    def _require_reserved(self, event: Event, state: bytes) -> None:
        if state == b"rebuilding":
            raise rebuilding()
        if state == b"deleted":
            raise NotFound(f"stream {event.stream_id} was deleted meanwhile")
        if state == b"damaged":
            self.start_rebuild(event.stream_id, f"the key {event.key!r} of an event")
            raise rebuilding()

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
        with self.rebuilt_if_damaged(*{wanted.event.stream_id for wanted in written.values()}):
            met = self._run_all(COMMIT, [_commit_arguments(*wanted) for wanted in written.values()])
        committed: dict[int, Event] = {}
        for (at, (event, _)), result in zip(written.items(), met, strict=True):
            if result == -1:
                self._drop(event.stream_id, event_number(event.id), event.key)
                raise NotFound(f"stream {event.stream_id} was deleted meanwhile")
            if result == -2:  # the rebuild may find it
                raise rebuilding()
            if result == 1:
                committed[at] = event
            else:
                log.warning("event %s lost its reservation and is published again", event.id)
                self._archive.void_event(event)
        return committed

    def _drop(self, stream_id: str, number: int, key: str) -> None:
        with redis_errors():
            self._scripts[DROP](keys=[RESERVED, OPEN, keys_key(stream_id)], args=[number, key])

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

    def _run_all(self, script: str, calls: Sequence[tuple[list[str], list[Any]]]) -> list[Any]:
        """Runs the script once for each call, with one round trip."""
        if not calls:
            return []
        with redis_errors(), self._redis.pipeline(transaction=False) as pipeline:
            for keys, args in calls:
                self._scripts[script](keys=keys, args=args, client=pipeline)
            return list(pipeline.execute())


def _commit_arguments(event: Event, deliver: bool) -> tuple[list[str], list[str | int]]:
    stream_id, number = event.stream_id, event_number(event.id)
    keys = [READY, EVENTS, deleted_key(stream_id), keys_key(stream_id), DOCUMENTS, RESERVED, OPEN, LOG]
    keys.append(log_key(stream_id))
    args: list[str | int] = [number, event.model_dump_json(), event.key]
    if deliver and event.watch_id is not None:
        keys += [DELIVERIES, pending_key(stream_id, event.watch_id)]
        keys += [status_key(stream_id, "pending"), deliveries_key(stream_id)]
        delivery = Delivery(event_id=event.id, stream_id=stream_id, watch_id=event.watch_id)
        args += [agenda_item(stream_id, event.watch_id), delivery.model_dump_json()]
    return keys, args
