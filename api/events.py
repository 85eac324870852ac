"""Routes for events of live streams, and for their deliveries to webhooks."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query, Request, Response

from api.context import Service, ServiceNeeded
from api.description import EVENT_STREAM, event_stream, responses
from api.moments import read_clock
from api.paging import Cursor, Limit, cut_page
from api.streaming import live_stream
from api.views import DeliveryPage, DeliveryView, EventPage, as_json, view_delivery, view_event
from storage.errors import BadRequest, NotFound
from storage.ids import EVENT_ID, event_id_of, event_number
from storage.live_documents import DeliveryStatus, Event, EventType
from storage.store import Store

router = APIRouter(prefix="/v1", tags=["events"])
STORAGE = ("state-rebuilding", "redis-unavailable")
DOCUMENTS = ("newer-version", "file-damaged", "archive-unavailable")
SEEN_AT_ONCE, MOST_SEEN = 500, 5000  # events that one page looks at, if a filter leaves out most
CLOCKS_DIFFER_BY = timedelta(hours=1)  # at most, between the host that dates an event and Redis, which numbers it
STREAMED = {
    "content": event_stream("LiveEvents", beside_json=True),
    "description": "A page, newest first. As a stream: each event from now on, or after `Last-Event-ID` or `after`",
}

LastEventId = Annotated[str | None, Header(alias="last-event-id", description="Of a stream: resume after this event.")]
After = Annotated[str | None, Query(description="Like Last-Event-ID, which counts if both are given.")]
Type = Annotated[EventType | None, Query(description="Of a page: only events of this type.")]
WatchId = Annotated[str | None, Query(max_length=80, description="Of a page: only events of this watch.")]
Start = Annotated[str | None, Query(max_length=64, description="Of a page: only events since this RFC 3339 time.")]
End = Annotated[str | None, Query(max_length=64, description="Of a page: only events before this RFC 3339 time.")]


@router.get(
    "/events",
    responses={200: STREAMED, **responses("bad-request", "invalid", *STORAGE)},
    response_model=EventPage,
)
async def list_events(
    request: Request,
    service: ServiceNeeded,
    cursor: Cursor = None,
    limit: Limit = None,
    type: Type = None,
    watch_id: WatchId = None,
    start: Start = None,
    end: End = None,
    after: After = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Lists the events of all streams, newest first; with `Accept: text/event-stream`, streams them as they come.

    A stream that resumes with `Last-Event-ID` misses no event and repeats none, as long as `events.log_max_events` and
    `events.log_max_age_h` keep the events after it.
    """
    if _wants_stream(request):
        return live_stream(service, _resumed_id(last_event_id or after), None)
    keeps, earliest = _make_filter(type, watch_id, start, end)
    return await run_sync(_respond, service, None, cursor, limit, keeps, earliest)


@router.get(
    "/streams/{stream_id}/events",
    responses={200: STREAMED, **responses("bad-request", "not-found", "invalid", *STORAGE, *DOCUMENTS)},
    response_model=EventPage,
)
async def list_stream_events(
    stream_id: str,
    request: Request,
    service: ServiceNeeded,
    cursor: Cursor = None,
    limit: Limit = None,
    type: Type = None,
    watch_id: WatchId = None,
    start: Start = None,
    end: End = None,
    after: After = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Lists the events of a stream, newest first; with `Accept: text/event-stream`, streams them as they come."""
    await run_sync(_require_stream, service.store, stream_id)
    if _wants_stream(request):
        return live_stream(service, _resumed_id(last_event_id or after), stream_id)
    keeps, earliest = _make_filter(type, watch_id, start, end)
    return await run_sync(_respond, service, stream_id, cursor, limit, keeps, earliest)


@router.get(
    "/streams/{stream_id}/deliveries",
    responses=responses("bad-request", "not-found", "invalid", *STORAGE, *DOCUMENTS),
)
def list_deliveries(
    stream_id: str,
    service: ServiceNeeded,
    status: Annotated[DeliveryStatus, Query(description="`dead`: given up.")] = "pending",
    cursor: Cursor = None,
    limit: Limit = None,
) -> DeliveryPage:
    """Lists the deliveries of a stream's events to webhooks, those of the newest events first."""
    store, size = service.store, limit or service.settings.api.page_size
    _require_stream(store, stream_id)
    before = None if cursor is None else _check_cursor(cursor)
    found = store.deliveries.list_by_status(stream_id, status, before, size + 1)
    _, behind = cut_page([delivery.event_id for delivery in found], size)
    return DeliveryPage(deliveries=[view_delivery(delivery) for delivery in found[:size]], next_cursor=behind)


@router.post(
    "/deliveries/{delivery_id}/redeliver",
    status_code=202,
    responses=responses("origin-refused", "not-found", "conflict", *STORAGE, *DOCUMENTS),
)
def redeliver_event(delivery_id: str, service: ServiceNeeded) -> DeliveryView:
    """Posts an event to its watch's webhook again, even if it arrived or was given up. The id is the event's."""
    return view_delivery(service.intake.redeliver_event(delivery_id))


def _wants_stream(request: Request) -> bool:
    return EVENT_STREAM in request.headers.get("accept", "")


def _resumed_id(event_id: str | None) -> str | None:
    if not event_id:
        return None
    try:
        return event_id_of(event_number(event_id))
    except NotFound as error:
        raise BadRequest(f"Last-Event-ID or after: {error}") from error


def _check_cursor(cursor: str) -> str:
    if not EVENT_ID.fullmatch(cursor):
        raise BadRequest("cursor must be the next_cursor of another page")
    return _resumed_id(cursor) or cursor


def _require_stream(store: Store, stream_id: str) -> None:
    if not store.read_video(stream_id).is_live:
        raise NotFound(f"{stream_id} is not a stream")


def _make_filter(
    kind: str | None, watch_id: str | None, start: str | None, end: str | None
) -> tuple[Callable[[Event], bool], datetime | None]:
    """Which events are wanted, and since when."""
    start_at = None if start is None else read_clock(start, "start")
    end_at = None if end is None else read_clock(end, "end")

    def keeps(event: Event) -> bool:
        return (
            (kind is None or event.type == kind)
            and (watch_id is None or event.watch_id == watch_id)
            and (start_at is None or event.at >= start_at)
            and (end_at is None or event.at < end_at)
        )

    return keeps, start_at


def _respond(
    service: Service,
    stream_id: str | None,
    cursor: str | None,
    limit: int | None,
    keeps: Callable[[Event], bool],
    earliest: datetime | None,
) -> Response:
    size = limit or service.settings.api.page_size
    before = None if cursor is None else _check_cursor(cursor)
    events, behind = find_events(service.store, stream_id, before, size, keeps, earliest)
    page = EventPage(events=[view_event(event) for event in events], next_cursor=behind)
    return Response(as_json(page), media_type="application/json")


def find_events(
    store: Store,
    stream_id: str | None,
    before: str | None,
    size: int,
    keeps: Callable[[Event], bool],
    earliest: datetime | None,
) -> tuple[list[Event], str | None]:
    """(events, cursor of the next page). Looks at `MOST_SEEN` events at most, so a page can have fewer than `size`."""
    kept: list[Event] = []
    seen = 0
    while seen < MOST_SEEN:
        wanted = size + 1 if not seen else SEEN_AT_ONCE
        page = store.events.read_newest(before, wanted, stream_id)
        for event in page:
            if keeps(event):
                kept.append(event)
            if len(kept) > size:
                return kept[:size], kept[size - 1].id
            before = event.id
            if earliest is not None and _published_at(event) < earliest - CLOCKS_DIFFER_BY:
                return kept, None
        if len(page) < wanted:
            return kept, None
        seen += len(page)
    return kept, before


def _published_at(event: Event) -> datetime:
    return datetime.strptime(f"{event.id}+0000", "%Y%m%d-%H%M%S%f%z")
