"""Says whether the service is alive, and whether all its parts work."""

from collections import Counter
from collections.abc import Callable
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

    The parts are state, cache, archive, ingest, encode and reason.
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
        group.start_soon(look, "state", _look_at_state)
        group.start_soon(look, "cache", _look_at_cache)
        group.start_soon(look, "archive", _look_at_archive)
    state = seen[0] if seen else Condition({}, {}, [])
    missing = {part: faults[part] for part in ("state", "cache", "archive") if part in faults} | state.missing
    notes = [*state.notes, *_list_notes(service)]
    return Condition(missing, state.workers, [escape_controls(note) for note in notes])


def _look_at_state(store: Store) -> Condition:
    store.index.check()
    workers = store.workers.list_alive()
    counted = Counter(worker.kind for worker in workers)
    missing = {
        kind: f"no {kind} worker is alive: start `longwatch worker {kind}`" for kind in KINDS if not counted[kind]
    }
    if not store.index.is_ready():
        missing = {"state": "the state is being rebuilt from the archive: wait; this needs a live worker"} | missing
    notes = [f"{worker.kind} worker on {worker.host}: {worker.trouble}" for worker in workers if worker.trouble]
    models = list_fingerprints(workers)
    if len(models) > 1:
        notes.append(f"workers run different models ({', '.join(models)}): stop the workers of the old one")
    notes += [f"{path}: {reason}" for path, reason in store.index.list_unreadable().items()]
    return Condition(missing, {kind: counted[kind] for kind in KINDS}, notes)


def _look_at_cache(store: Store) -> None:
    store.cache.check()


def _look_at_archive(store: Store) -> None:
    store.check_archive()


def _list_notes(service: Service) -> list[str]:
    settings = service.settings
    if same_server(settings.state_url, settings.cache_url):
        return ["state and cache are one Redis server: it must not evict, or jobs and locks are lost"]
    return []
