"""Whether the service is alive, and whether all its parts are."""

from anyio.to_thread import run_sync
from fastapi import APIRouter
from fastapi.responses import Response

from api.context import Service, ServiceNeeded
from api.description import responses
from api.problems import problem
from api.schemas import Health
from storage.errors import LongwatchError

router = APIRouter(tags=["health"])
STARTED_BY = {"ingest": "ingest", "encode": "encode", "answer": "reason"}  # queue -> `longwatch worker ...`


@router.get("/healthz")
async def check_alive() -> Health:
    """This process answers."""
    return Health()


@router.get("/readyz", responses=responses("not-ready"), response_model=Health)
async def check_ready(service: ServiceNeeded) -> Health | Response:
    """All parts are there; else 503 whose `missing` names each that is not: redis, archive, ingest, encode, reason."""
    missing, workers = await run_sync(missing_parts, service)
    if missing:
        named = [{"part": part, "message": message} for part, message in missing.items()]
        return problem("not-ready", "; ".join(missing.values()), missing=named)
    return Health(workers=workers)


def missing_parts(service: Service) -> tuple[dict[str, str], dict[str, int]]:
    """What is missing (part -> what to do), and the live workers per queue."""
    missing: dict[str, str] = {}
    workers: dict[str, int] = {}
    try:
        service.store.archive.files.check()
    except LongwatchError as error:
        missing["archive"] = str(error)
    try:
        workers = dict(service.store.hot.workers())
    except LongwatchError as error:
        return missing | {"redis": str(error)}, workers
    for queue, worker in STARTED_BY.items():
        if not workers.get(queue):
            missing[worker] = f"no {worker} worker is alive: start `longwatch worker {worker}`"
    return missing, workers
