"""Says whether the service is alive, and whether all its parts work."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from anyio import create_task_group
from anyio.to_thread import run_sync
from fastapi import APIRouter
from fastapi.responses import Response

from api.context import Service, ServiceNeeded
from api.description import responses
from api.problems import problem
from api.views import Health
from storage.connection import same_server
from storage.errors import LongwatchError
from storage.store import Store
from storage.text import escape_controls
from storage.workers import list_fingerprints

router = APIRouter(tags=["health"])
KINDS = ("ingest", "encode", "reason")  # of workers: `longwatch worker KIND`
CAPTURE = "capture"  # needed only if there are streams
MOST_STREAM_NOTES = 20


class Condition(NamedTuple):
    """The state of the service: missing parts (part -> what to do), live workers by kind, and what needs attention."""

    missing: dict[str, str]
    workers: dict[str, int]
    notes: list[str]


@router.get("/healthz")
async def check_alive() -> Health:
    """Answers if this process is alive."""
    return Health()


@router.get("/readyz", responses=responses("not-ready"), response_model=Health)
async def check_ready(service: ServiceNeeded) -> Health | Response:
    """Answers 200 if all parts work; otherwise 503, and `missing` names each part that does not.

    The parts are state, cache, archive, ingest, encode and reason; and capture, if there are streams.
    """
    condition = await find_condition(service)
    if condition.missing:
        named = [{"part": part, "message": escape_controls(why)} for part, why in condition.missing.items()]
        return problem("not-ready", "; ".join(condition.missing.values()), missing=named)
    return Health(workers=condition.workers, notes=condition.notes)


async def find_condition(service: Service) -> Condition:
    """Checks all parts at once, so that one that hangs does not hold up the others."""
    store, faults = service.store, dict[str, str]()
    seen: list[Condition] = []

    async def look(part: str, check: Callable[[Store], Condition | None]) -> None:
        try:
            found = await run_sync(check, store)
        except LongwatchError as error:
            faults[part] = str(error)
        else:
            seen.extend([found] if found else [])

    async with create_task_group() as group:
        group.start_soon(look, "state", partial(_look_at_state, late_s=service.settings.cameras.lag_s))
        group.start_soon(look, "cache", _look_at_cache)
        group.start_soon(look, "archive", _look_at_archive)
    state = seen[0] if seen else Condition({}, {}, [])
    missing = {part: faults[part] for part in ("state", "cache", "archive") if part in faults} | state.missing
    notes = [*state.notes, *_list_notes(service)]
    return Condition(missing, state.workers, [escape_controls(note) for note in notes])


def _look_at_state(store: Store, late_s: float) -> Condition:
    store.index.check()
    workers = store.workers.list_alive()
    counted = Counter(worker.kind for worker in workers)
    missing = {
        kind: f"no {kind} worker is alive: start `longwatch worker {kind}`" for kind in KINDS if not counted[kind]
    }
    if not counted[CAPTURE] and store.index.count_streams():
        missing[CAPTURE] = "no capture worker is alive: cameras are not captured; start `longwatch worker capture`"
    if not store.index.is_ready():
        missing = {"state": "the state is being rebuilt from the archive: wait; this needs a live worker"} | missing
    notes = [f"{worker.kind} worker on {worker.host}: {worker.trouble}" for worker in workers if worker.trouble]
    models = list_fingerprints(workers)
    if len(models) > 1:
        notes.append(f"workers run different models ({', '.join(models)}): stop the workers of the old one")
    notes += [f"{path}: {reason}" for path, reason in store.index.list_unreadable().items()]
    notes += _note_streams(store, late_s)
    return Condition(missing, {kind: counted[kind] for kind in (*KINDS, CAPTURE)}, notes)


def _note_streams(store: Store, late_s: float) -> list[str]:
    """The cameras that are offline, and those whose frames wait too long for an encoder."""
    stream_ids = store.index.list_streams(None, 1000)
    notes = []
    for stream_id, state in zip(stream_ids, store.stream_states.read(stream_ids), strict=True):
        if state is not None and state.state == "offline" and state.problem is not None:
            notes.append(
                f"stream {stream_id} is offline since {state.since:%Y-%m-%d %H:%M:%S} UTC: {state.problem.message}"
            )
        if state is not None and state.lag_s > late_s:
            notes.append(f"frames of stream {stream_id} wait {state.lag_s:.0f} s for an encoder (cameras.lag_s)")
    more = len(notes) - MOST_STREAM_NOTES
    return notes[:MOST_STREAM_NOTES] + ([f"and {more} more notes about streams"] if more > 0 else [])


def _look_at_cache(store: Store) -> None:
    store.cache.check()


def _look_at_archive(store: Store) -> None:
    store.check_archive()


def _list_notes(service: Service) -> list[str]:
    settings = service.settings
    if same_server(settings.state_url, settings.cache_url):
        return ["state and cache are one Redis server: it must not evict, or jobs and locks are lost"]
    return []
