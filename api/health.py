"""Whether the service is alive, and whether all its parts are."""

from fastapi import APIRouter

from api.context import Service, ServiceNeeded
from api.problems import NotReady, responses
from api.schemas import Health
from storage.errors import LongwatchError

router = APIRouter(tags=["health"])
STARTED_BY = {"ingest": "ingest", "encode": "encode", "answer": "reason"}  # queue -> `longwatch worker ...`


@router.get("/healthz")
def alive() -> Health:
    """This process answers."""
    return Health()


@router.get("/readyz", responses=responses(503))
def ready(service: ServiceNeeded) -> Health:
    """All parts are there; else 503 with what is missing and what to do."""
    missing, workers = missing_parts(service)
    if missing:
        raise NotReady("; ".join(missing))
    return Health(workers=workers)


def missing_parts(service: Service) -> tuple[list[str], dict[str, int]]:
    """What is missing, in words, and the live workers per queue."""
    missing: list[str] = []
    workers: dict[str, int] = {}
    for check in (service.store.hot.check, service.store.archive.files.check):
        try:
            check()
        except LongwatchError as error:
            missing.append(str(error))
    if not missing:
        workers = dict(service.store.hot.workers())
        for queue, worker in STARTED_BY.items():
            if not workers.get(queue):
                missing.append(f"no {worker} worker is alive: start `longwatch worker {worker}`")
    return missing, workers
