"""Names of dead threads do not pile up in Redis. RQ itself removes them only when a worker ends regularly."""

from rq import Queue
from rq.serializers import JSONSerializer

from configs.settings import Settings
from jobs.worker import JobThread, WorkerProcess
from storage.store import Store


def test_names_of_dead_threads_are_forgotten(settings: Settings, store: Store) -> None:
    process = WorkerProcess(settings, store, "ingest", [], {}, None)
    queue = Queue("fetch", connection=process.redis, serializer=JSONSerializer)
    gone, alive = JobThread(process, [queue], "gone"), JobThread(process, [queue], "alive")
    gone.register_birth()  # type: ignore[no-untyped-call]
    alive.register_birth()  # type: ignore[no-untyped-call]
    store.state.delete(gone.key)  # as if it had expired
    alive.clean_registries()
    for names in ("rq:workers", "rq:workers:fetch"):
        assert store.state.smembers(names) == {alive.key.encode()}
    assert not alive.should_run_maintenance_tasks
