"""What Redis knows of deliveries to webhooks: which are pending, when each is due, and how the others ended."""

import logging
import time
from datetime import datetime
from typing import cast, get_args

from redis import Redis

from storage.agenda import DELIVERIES, EVENTS
from storage.connection import as_text, redis_errors
from storage.documents import parse_document
from storage.errors import DamagedFile, DamagedState, NewerDocument, NotFound, StateRebuilding
from storage.event_scripts import DOCUMENTS, LIST_DELIVERIES, POSTPONE_DUE, SET_DELIVERY
from storage.ids import EVENT_NUMBER, check_video_id, check_watch_id, event_id_of, event_number
from storage.index import READY
from storage.live_documents import Delivery, DeliveryStatus

log = logging.getLogger(__name__)

STATUSES: tuple[DeliveryStatus, ...] = get_args(DeliveryStatus)


class Deliveries:
    """Deliveries of the events that the log holds. Rebuilt from the archive. Raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._set = redis.register_script(SET_DELIVERY)
        self._postpone_due = redis.register_script(POSTPONE_DUE)
        self._list = redis.register_script(LIST_DELIVERIES)

    def put(self, delivery: Delivery) -> None:
        """Stores the delivery as it is now; a pending one is due at its `next_try_at`, or at once."""
        stream_id, watch_id = delivery.stream_id, delivery.watch_id
        keys = [
            deliveries_key(stream_id),
            *(status_key(stream_id, status) for status in STATUSES),
            pending_key(stream_id, watch_id),
            DELIVERIES,
            DOCUMENTS,
        ]
        args: list[str | int | float] = [event_number(delivery.event_id), delivery.model_dump_json()]
        args += [STATUSES.index(delivery.status) + 1, agenda_item(stream_id, watch_id)]
        if delivery.status == "pending":
            args.append(delivery.next_try_at.timestamp() if delivery.next_try_at else time.time())
        try:
            with redis_errors():
                self._set(keys=keys, args=args)
        except DamagedState as error:
            log.error("%s", error)
            self.forget_damaged(stream_id, watch_id)
            with redis_errors():
                self._set(keys=keys, args=args)

    def get(self, stream_id: str, event_id: str) -> Delivery | None:
        """The delivery of this event; None if there is none, or it is damaged."""
        with redis_errors():
            content = self._redis.hget(deliveries_key(stream_id), str(event_number(event_id)))
        return _parse(content)

    def list_by_status(self, stream_id: str, status: DeliveryStatus, before: str | None, count: int) -> list[Delivery]:
        """Up to `count` deliveries of this status, those of the newest events first; with `before`, only older ones."""
        high = "+inf" if before is None else f"({event_number(before)}"
        keys = [READY, EVENTS, status_key(stream_id, status), deliveries_key(stream_id)]
        try:
            with redis_errors():
                state, *contents = self._list(keys=keys, args=[high, count])
            if state == b"rebuilding":
                raise StateRebuilding("deliveries are being read from the archive: try again soon (see /readyz)")
            found = [_parse(content) for content in contents[0]]
            if None in found:
                raise DamagedState(f"a delivery of {stream_id} in Redis is damaged or lost")
        except DamagedState as error:
            log.error("%s", error)
            self.forget_damaged(stream_id)
            raise StateRebuilding("deliveries are being read from the archive again: try again soon") from error
        return [delivery for delivery in found if delivery is not None and delivery.status == status]

    def find_next(self, stream_id: str, watch_id: str) -> tuple[str, float] | None:
        """(event id, when it is due) of the watch's next delivery; None if none is pending."""
        key = pending_key(stream_id, watch_id)
        with redis_errors():
            found = cast(list[tuple[bytes, float]], self._redis.zrange(key, 0, 9, withscores=True))
            for member, due in found:
                if EVENT_NUMBER.fullmatch(as_text(member)):
                    return event_id_of(int(member)), due
                log.error("%s holds %r, which is not an event; it is removed", key, member)
                self._redis.zrem(key, member)
        return None

    def postpone_due(self, stream_id: str, watch_id: str, until: datetime) -> None:
        """Postpones all deliveries of this watch that are due: its receiver is away."""
        with redis_errors():
            self._postpone_due(keys=[pending_key(stream_id, watch_id)], args=[time.time(), until.timestamp()])

    def forget_pending(self, stream_id: str, watch_id: str, event_id: str) -> None:
        """Removes a pending delivery whose event is gone."""
        with redis_errors():
            self._redis.zrem(pending_key(stream_id, watch_id), str(event_number(event_id)))

    def forget_damaged(self, stream_id: str, watch_id: str | None = None) -> None:
        """Removes values of a wrong type. The reconciler reads them from the archive again."""
        types = {deliveries_key(stream_id): b"hash"}
        types |= {status_key(stream_id, status): b"zset" for status in STATUSES}
        if watch_id is not None:
            types[pending_key(stream_id, watch_id)] = b"zset"
        with redis_errors():
            for key, kind in types.items():
                if self._redis.type(key) not in (kind, b"none"):
                    log.error("%s in Redis has the wrong type and is removed", key)
                    self._redis.delete(key)
            self._redis.zadd(EVENTS, {stream_id: 0})


def agenda_item(stream_id: str, watch_id: str) -> str:
    """The watch as an item of the agenda."""
    return f"{stream_id}:{watch_id}"


def parse_agenda_item(item: str) -> tuple[str, str]:
    """(stream id, watch id) of an item; raises NotFound."""
    stream_id, colon, watch_id = item.partition(":")
    if not colon:
        raise NotFound(f"no watch {item!r}")
    return check_video_id(stream_id), check_watch_id(watch_id)


def _parse(content: object) -> Delivery | None:
    if not isinstance(content, bytes):
        return None
    try:
        return parse_document(Delivery, content, "a delivery in Redis")
    except (DamagedFile, NewerDocument) as error:
        log.error("%s", error)
        return None


def deliveries_key(stream_id: str) -> str:
    """The hash of the stream's deliveries: event number -> document."""
    return f"lw:deliveries:{stream_id}"


def status_key(stream_id: str, status: DeliveryStatus) -> str:
    """The sorted set of the stream's deliveries of one status."""
    return f"lw:deliveries:{status}:{stream_id}"


def pending_key(stream_id: str, watch_id: str) -> str:
    """The sorted set of a watch's pending deliveries: event number -> when it is due."""
    return f"lw:pending:{stream_id}:{watch_id}"
