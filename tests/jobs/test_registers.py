"""RQ's entries for threads of killed workers are removed."""

from rq import Queue
from rq.serializers import JSONSerializer

from configs.settings import Settings
from jobs.names import ENCODE
from jobs.worker import JobThread, WorkerProcess
from storage.store import Store


def test_a_thread_of_a_killed_worker_is_forgotten(settings: Settings, store: Store) -> None:
    process = WorkerProcess(settings, store, "encode", [], {}, None)
    queue = Queue(ENCODE, connection=process.redis, serializer=JSONSerializer)
    killed, living = (JobThread(process, [queue], name) for name in ("killed", "living"))
    for thread in (killed, living):
        thread.register_birth()  # type: ignore[no-untyped-call]
    process.redis.delete(killed.key)  # as if it had expired: nobody beats for it

    living.run_maintenance_tasks()  # type: ignore[no-untyped-call]

    assert process.redis.smembers("rq:workers") == {living.key.encode()}
    assert process.redis.smembers(f"rq:workers:{ENCODE}") == {living.key.encode()}
