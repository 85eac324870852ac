"""Routes for watches: standing questions about a stream."""

import math
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlsplit

from anyio import move_on_after, sleep
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Query, Response

from api.context import Service, ServiceNeeded
from api.description import headers, responses
from api.limits import require_json
from api.moments import find_past_s
from api.problems import TooMany
from api.questions import preferred_wait_s
from api.views import as_json
from api.watch_views import (
    History,
    TrialRequest,
    TrialView,
    WatchChange,
    WatchList,
    WatchRequest,
    WatchView,
    view_trial,
    view_watch,
)
from storage.documents import Video
from storage.errors import BadRequest, NotFound
from storage.ids import new_question_id
from storage.live_documents import Watch, Webhook
from storage.watch_intervals import count_slots
from storage.watch_trials import WatchTrial, new_trial_id

router = APIRouter(prefix="/v1/streams/{stream_id}/watches", tags=["watches"])
STORAGE = ("newer-version", "file-damaged", "archive-unavailable", "redis-unavailable")
REFUSALS = (
    "bad-request",
    "origin-refused",
    "not-found",
    "timed-out",
    "too-large",
    "unsupported-media-type",
    "invalid",
)
TRIAL_LOOK_S = 0.2
Prefer = Annotated[str | None, Header(description="`wait=N`: wait up to N seconds for the end (RFC 7240).")]
Count = Annotated[int, Query(ge=1, le=1000, description="How many evaluations.")]


@router.post(
    "",
    status_code=201,
    response_model=WatchView,
    responses={201: {"headers": headers("Location")}, **responses("too-many", *REFUSALS, *STORAGE)},
    dependencies=[Depends(require_json)],
)
def add_watch(stream_id: str, wanted: WatchRequest, service: ServiceNeeded) -> Response:
    """Adds a standing question. Its answers arrive as events; only its window is looked at in the past."""
    stream = service.store.read_stream(stream_id)
    most = service.settings.watches.max_per_stream
    if len(service.store.watches.list_watches(stream_id)) >= most:
        raise TooMany(f"the stream has {most} watches (watches.max_per_stream): delete one first")
    window_s = wanted.every_s if wanted.window_s is None else wanted.window_s
    _check_times(wanted.every_s, window_s, stream, service)
    given = wanted.model_dump(exclude={"window_s", "webhook", "match", "schedule"})
    watch = Watch(
        id=new_question_id(stream_id),
        stream_id=stream_id,
        window_s=window_s,
        match=wanted.match,
        schedule=wanted.schedule,
        webhook=_make_webhook(wanted, None),
        **given,
    )
    service.store.watches.write(watch)
    location = {"location": f"/v1/streams/{stream_id}/watches/{watch.id}"}
    return Response(as_json(view_watch(watch, None)), 201, location, "application/json")


@router.get("", responses=responses("not-found", *STORAGE))
def list_watches(stream_id: str, service: ServiceNeeded) -> WatchList:
    """Lists the watches of a stream, oldest first."""
    service.store.read_stream(stream_id)
    return WatchList(watches=[_view(watch, service) for watch in service.store.watches.list_watches(stream_id)])


@router.get("/{watch_id}", responses=responses("not-found", *STORAGE))
def read_watch(stream_id: str, watch_id: str, service: ServiceNeeded) -> WatchView:
    """Returns a watch with its last evaluation."""
    return _view(_find(stream_id, watch_id, service), service)


@router.patch("/{watch_id}", responses=responses(*REFUSALS, *STORAGE), dependencies=[Depends(require_json)])
def change_watch(stream_id: str, watch_id: str, wanted: WatchChange, service: ServiceNeeded) -> WatchView:
    """Changes when and where a watch notifies."""
    watch = _find(stream_id, watch_id, service)
    changes = {name: getattr(wanted, name) for name in wanted.model_fields_set - {"webhook"}}
    if "webhook" in wanted.model_fields_set:
        changes["webhook"] = _make_webhook(wanted, watch.webhook)
    changed = watch.model_copy(update=changes)
    service.store.watches.write(changed)
    return _view(changed, service)


@router.delete(
    "/{watch_id}",
    status_code=204,
    responses=responses("origin-refused", "not-found", *STORAGE),
)
def delete_watch(stream_id: str, watch_id: str, service: ServiceNeeded) -> Response:
    """Deletes a watch. Its events stay."""
    watch = _find(stream_id, watch_id, service)
    service.store.watches.delete(watch, service.store.coverage.list_models())
    return Response(status_code=204)


@router.get("/{watch_id}/history", responses=responses("not-found", "invalid", *STORAGE))
def read_history(stream_id: str, watch_id: str, service: ServiceNeeded, limit: Count = 100) -> History:
    """Lists the last evaluations of a watch, newest first, also those without an event."""
    watch = _find(stream_id, watch_id, service)
    return History(evaluations=service.store.watches.read_history(watch.id, limit))


@router.post(
    "/{watch_id}/test",
    status_code=202,
    response_model=TrialView,
    responses={
        200: {"model": TrialView, "description": "Done in time", "headers": headers("Location", "Preference-Applied")},
        202: {"headers": headers("Location", "Preference-Applied")},
        **responses("conflict", *REFUSALS, *STORAGE),
    },
    dependencies=[Depends(require_json)],
)
async def try_watch(
    stream_id: str, watch_id: str, wanted: TrialRequest, service: ServiceNeeded, prefer: Prefer = None
) -> Response:
    """Tries a watch on the past: what would it have answered and sent? Without a time: on the last intervals.

    With `Prefer: wait=N` the request waits for it, up to N seconds; `Location` says where to look later.
    """
    trial = await run_sync(_start_trial, stream_id, watch_id, wanted, service)
    wait_s = preferred_wait_s(prefer, service.settings.api.max_wait_s)
    with move_on_after(wait_s or 0):
        while not trial.settled:
            await sleep(TRIAL_LOOK_S)
            trial = await run_sync(service.store.watch_trials.read, trial.id)
    more = {"location": f"/v1/streams/{stream_id}/watches/{watch_id}/tests/{trial.id}"}
    more |= {} if wait_s is None else {"preference-applied": f"wait={wait_s:g}"}
    return Response(as_json(view_trial(trial)), 200 if trial.settled else 202, more, "application/json")


@router.get("/{watch_id}/tests/{test_id}", responses=responses("not-found", *STORAGE))
def read_test(stream_id: str, watch_id: str, test_id: str, service: ServiceNeeded) -> TrialView:
    """Returns a trial of a watch, also while it runs. Results are kept for an hour."""
    trial = service.store.watch_trials.read(test_id)
    if trial.watch_id != _find(stream_id, watch_id, service).id:
        raise NotFound(f"no test {test_id} of watch {watch_id}")
    return view_trial(trial)


def _start_trial(stream_id: str, watch_id: str, wanted: TrialRequest, service: Service) -> WatchTrial:
    """Raises NotFound, BadRequest, Conflict."""
    stream, watch = service.store.read_stream(stream_id), _find(stream_id, watch_id, service)
    most = service.settings.watches.max_test_evaluations
    start_s, end_s = find_past_s(stream, wanted.start, wanted.end, wanted.last_s, most * watch.every_s)
    per_interval = count_slots(watch, stream.sample_fps)
    now_slot = stream.grid.slot_at(stream.grid.seconds(datetime.now(UTC)))
    slots = stream.grid.slots_between(start_s, math.inf if end_s is None else end_s)
    intervals = range(-(-slots.start // per_interval), min(slots.stop, now_slot) // per_interval)
    if not intervals:
        raise BadRequest(f"no interval of {watch.every_s:g} s ends in this stretch: give a longer one")
    if len(intervals) > most:
        longest = most * watch.every_s
        raise BadRequest(f"this stretch has {len(intervals)} intervals; try {longest:g} s or less at a time")
    trial = WatchTrial(
        id=new_trial_id(), watch_id=watch.id, first_interval=intervals.start, last_interval=intervals.stop - 1
    )
    return service.intake.try_watch(stream_id, trial)


def _find(stream_id: str, watch_id: str, service: Service) -> Watch:
    watch = service.store.archive.read_watch(stream_id, watch_id)
    if watch.stream_id != stream_id:
        raise NotFound(f"no watch {watch_id} of stream {stream_id}")
    return watch


def _view(watch: Watch, service: Service) -> WatchView:
    history = service.store.watches.read_history(watch.id, 1)
    return view_watch(watch, history[0] if history else None)


def _check_times(every_s: float, window_s: float, stream: Video, service: Service) -> None:
    """Raises BadRequest unless the window is a multiple of the interval, and both fit the stream and the settings."""
    slot_s, most_s = 1 / stream.sample_fps, service.settings.watches.max_window_s
    if every_s < slot_s:
        raise BadRequest(f"every_s must be at least {slot_s:g}: the stream has a frame every {slot_s:g} s")
    times = window_s / every_s
    if times < 1 or abs(times - round(times)) > 1e-6:
        raise BadRequest(f"window_s ({window_s:g}) must be a multiple of every_s ({every_s:g})")
    if window_s > most_s:
        raise BadRequest(f"window_s must be at most {most_s:g} (watches.max_window_s)")
    frames, fit = round(window_s * stream.sample_fps), service.store.workers.read_max_frames()
    if fit is not None and frames > fit:
        raise BadRequest(f"a window of {frames} frames is too long: the model takes {fit} at most")


def _make_webhook(wanted: WatchChange, before: Webhook | None) -> Webhook | None:
    """The webhook of a request; a secret that is left out stays if the address does. Raises BadRequest."""
    if wanted.webhook is None:
        return None
    try:
        parts = urlsplit(wanted.webhook.url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise BadRequest(f"webhook.url is invalid: {error}") from error
    if not usable or not wanted.webhook.url.isprintable() or " " in wanted.webhook.url:
        raise BadRequest("webhook.url must be an http or https address without spaces")
    kept = before.secret if before is not None and before.url == wanted.webhook.url else ""
    given = "secret" in wanted.webhook.model_fields_set
    return Webhook(url=wanted.webhook.url, secret=wanted.webhook.secret if given else kept)
