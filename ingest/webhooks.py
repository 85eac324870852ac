"""Posts events to the webhooks of watches: signed, only to allowed addresses, one watch's after the other."""

import hashlib
import hmac
import logging
import time
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import NamedTuple

import httpcore
import httpx

from configs.settings import EventSettings, IngestSettings
from ingest.errors import FetchRefused, SourceError
from ingest.files.fetch import HTTPCORE_ERRORS, SHOWN_CHARS, describe_error, prepare_request
from ingest.files.transport import Patience, open_pool
from storage import agenda as due
from storage.deliveries import agenda_item
from storage.errors import NotFound
from storage.live_documents import Delivery, Event, Webhook, show_event
from storage.store import Store
from storage.text import escape_controls

log = logging.getLogger(__name__)

TURN_S = 10.0  # after this long a watch's job ends, so that other watches get their turn
MOST_READ_BYTES = 16 * 1024  # of a receiver's answer, which nobody looks at
MOST_DOUBLINGS = 30


class Outcome(NamedTuple):
    """How a call of a webhook ended."""

    reason: str = ""  # why it failed; empty: it did not
    away: bool = False  # nobody answered, so nobody will answer the next call either


class Courier:
    """Delivers events at least once. A failed delivery is due again later; meanwhile it holds up no other."""

    def __init__(self, store: Store, settings: EventSettings) -> None:
        self._store = store
        self._settings = settings

    def deliver(self, stream_id: str, watch_id: str) -> None:
        """Posts the watch's events that are due, the oldest first, until none is left or its turn is over."""
        ends_at = time.monotonic() + TURN_S
        while following := self._store.deliveries.find_next(stream_id, watch_id):
            event_id, due_at_s = following
            wait_s = due_at_s - time.time()
            if wait_s > 0 or time.monotonic() > ends_at:
                self._store.agenda.put(due.DELIVERIES, agenda_item(stream_id, watch_id), in_s=max(wait_s, 0))
                return
            self._deliver(stream_id, watch_id, event_id)

    def give_up(self, reason: str, stream_id: str, watch_id: str) -> None:
        """Gives up the watch's next delivery: the attempts at its job are used up."""
        following = self._store.deliveries.find_next(stream_id, watch_id)
        if following is not None:
            delivery = Delivery(event_id=following[0], stream_id=stream_id, watch_id=watch_id)
            self._settle(delivery.model_copy(update={"status": "dead", "reason": reason}))
            self._store.agenda.put(due.DELIVERIES, agenda_item(stream_id, watch_id))

    def _deliver(self, stream_id: str, watch_id: str, event_id: str) -> None:
        try:
            event = self._store.events.read_event(stream_id, event_id)
        except NotFound:  # retention or a deletion removed it
            self._store.deliveries.forget_pending(stream_id, watch_id, event_id)
            return
        known = self._store.deliveries.get(stream_id, event_id) or Delivery(
            event_id=event_id, stream_id=stream_id, watch_id=watch_id
        )
        webhook = self._find_webhook(stream_id, watch_id)
        if webhook is None:
            self._settle(known.model_copy(update={"status": "dead", "reason": "the watch has no webhook any more"}))
            return
        outcome = post_event(event, webhook, self._settings)
        tried = known.model_copy(
            update={"attempts": known.attempts + 1, "reason": outcome.reason, "changed_at": datetime.now(UTC)}
        )
        if not outcome.reason:
            self._settle(tried.model_copy(update={"status": "delivered", "next_try_at": None}))
        elif tried.attempts >= self._settings.max_delivery_attempts:
            log.error("event %s is given up after %d attempts: %s", event_id, tried.attempts, outcome.reason)
            self._settle(tried.model_copy(update={"status": "dead", "next_try_at": None}))
        else:
            next_try_at = datetime.now(UTC) + timedelta(seconds=self._pause_s(tried.attempts))
            log.warning("event %s is posted again at %s: %s", event_id, next_try_at, outcome.reason)
            self._store.deliveries.put(tried.model_copy(update={"next_try_at": next_try_at}))
            if outcome.away:
                self._store.deliveries.postpone_due(stream_id, watch_id, next_try_at)

    def _pause_s(self, attempts: int) -> float:
        longest_s = self._settings.delivery_retry_most_s
        return min(self._settings.delivery_retry_least_s * 2.0 ** min(attempts - 1, MOST_DOUBLINGS), longest_s)

    def _find_webhook(self, stream_id: str, watch_id: str) -> Webhook | None:
        try:
            return self._store.archive.read_watch(stream_id, watch_id).webhook
        except NotFound:
            return None

    def _settle(self, delivery: Delivery) -> None:
        """The archive first: after a flush, a delivery that it calls pending is repeated."""
        try:
            self._store.archive.write_delivery(delivery)
        except NotFound:
            log.info("stream %s was deleted meanwhile", delivery.stream_id)
        self._store.deliveries.put(delivery)


def post_event(event: Event, webhook: Webhook, settings: EventSettings) -> Outcome:
    """Posts the event as the API shows it, and waits for the answer's status. Any 2xx means that it arrived."""
    body = show_event(event).model_dump_json().encode()
    limit_s = settings.delivery_timeout_s
    limits = IngestSettings(
        allowed_private_hosts=settings.allowed_private_hosts,
        connect_timeout_s=limit_s,
        header_timeout_s=limit_s,
        read_timeout_s=limit_s,
        download_timeout_s=limit_s,
    )
    patience = Patience(limits, still_wanted=lambda: None)
    late = Outcome(f"the receiver did not answer within {limit_s:g} s (events.delivery_timeout_s)", away=True)
    try:
        url, headers = prepare_request(webhook.url)
        headers += _sign(event, webhook, body)
        with (
            open_pool(limits, patience, "events.allowed_private_hosts") as pool,
            pool.stream("POST", url, headers=headers, content=body) as response,
        ):
            status, reason = response.status, response.extensions["reason_phrase"].decode("latin-1")
            _read_some(response)
    except FetchRefused as error:
        return Outcome(str(error), away=True)
    except (SourceError, httpcore.TimeoutException) as error:
        log.info("a webhook: %s", error)
        return late
    except (*HTTPCORE_ERRORS, httpx.InvalidURL, ValueError) as error:
        return Outcome(f"the receiver cannot be reached: {describe_error(error)}", away=True)
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Outcome()
    return Outcome(f"the receiver answers {status} {escape_controls(reason[:SHOWN_CHARS])}".rstrip())


def _sign(event: Event, webhook: Webhook, body: bytes) -> list[tuple[bytes, bytes]]:
    timestamp = str(int(time.time()))
    digest = hmac.new(webhook.secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return [
        (b"Content-Type", b"application/json"),
        (b"Content-Length", str(len(body)).encode()),
        (b"X-Longwatch-Event", event.type.encode()),
        (b"X-Longwatch-Id", event.id.encode()),
        (b"X-Longwatch-Timestamp", timestamp.encode()),
        (b"X-Longwatch-Signature", f"sha256={digest}".encode()),
    ]


def _read_some(response: httpcore.Response) -> None:
    """Reads a short answer to its end, so that the receiver is not cut off; what happens then does not matter."""
    size = 0
    try:
        for chunk in response.iter_stream():
            size += len(chunk)
            if size > MOST_READ_BYTES:
                return
    except (SourceError, *HTTPCORE_ERRORS) as error:
        log.info("a webhook's answer broke off: %s", error)
