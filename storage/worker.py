"""A worker process: runs allow-listed jobs one after the other in-process, and beats while it does."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.executions import Execution
from rq.job import Job, get_current_job
from rq.serializers import JSONSerializer

from configs.settings import QueueSettings, Settings
from storage.errors import JobNotAllowed, RedisUnavailable
from storage.hot import connect
from storage.queues import JOBS
from storage.reconciler import Reconciler
from storage.store import Store

log = logging.getLogger(__name__)
Handlers = Mapping[str, Callable[..., None]]


def run_worker(settings: Settings, store: Store, handlers: Handlers, model_fingerprint: str | None = None) -> None:
    """Works on the queues of `handlers` (job name -> function), in their order, until told to stop by a signal.

    Beside the jobs a thread reconciles: any live worker, whatever it works on, brings back the jobs of a dead one.
    """
    unknown = set(handlers) - set(JOBS)
    if unknown:
        raise JobNotAllowed(f"no such jobs: {sorted(unknown)}; the list is in storage/queues.py")
    redis = connect(settings.redis_url, settings.redis)
    queue_names = list(dict.fromkeys(JOBS[name] for name in handlers))
    worker = Worker(
        [Queue(name, connection=redis, serializer=JSONSerializer) for name in queue_names],
        connection=redis,
        serializer=JSONSerializer,
        job_class=_bound_job(handlers),
        maintenance_interval=settings.queues.worker_dead_after_s,
        log_job_description=False,
    )
    worker.settings = settings.queues
    stop = threading.Event()
    tasks = [lambda: worker.beat_forever(store, model_fingerprint, stop)]
    tasks.append(lambda: Reconciler(store, settings.queues).run_forever(stop))
    threads = [threading.Thread(target=task, daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    try:
        worker.work(logging_level="INFO")
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=5)


def is_last_try() -> bool:
    """Whether the job at hand will not be retried if it fails now (also true outside a job)."""
    job = get_current_job()
    return job is None or not job.retries_left


class Worker(SimpleWorker):
    """RQ's in-process worker with a heartbeat of its own: its job is known to be lost soon after it died.

    RQ's SimpleWorker is silent during a job, so its jobs count as alive until their time-out (RQ 2.12).
    """

    settings: QueueSettings

    def get_heartbeat_ttl(self, job: Job) -> int:
        """Seconds after a beat at which the job counts as lost."""
        return self.settings.worker_dead_after_s

    def beat_forever(self, store: Store, model_fingerprint: str | None, stop: threading.Event) -> None:
        """Keeps the running job's claim alive, and the model's name known, until `stop` is set."""
        while True:
            try:
                store.hot.announce_worker(self.name, self.queue_names(), self.settings.worker_dead_after_s)
                if model_fingerprint is not None:
                    store.hot.announce_model(model_fingerprint)
                job = self._running
                if job is not None and self.execution is not None:
                    self.maintain_heartbeats(job)
            except (RedisError, RedisUnavailable) as error:
                log.warning("heartbeat failed: %s", error)
            if stop.wait(self.settings.heartbeat_interval_s):
                return

    _running: Job | None = None

    def perform_job(self, job: Job, queue: Queue) -> bool:
        """Runs one job; remembers it for the heartbeat."""
        self._forget_dead_executions(job)
        self._running = job
        try:
            return super().perform_job(job, queue)
        finally:
            self._running = None

    def _forget_dead_executions(self, job: Job) -> None:
        """Strikes from the job's list what a worker that died in it left there.

        RQ keeps the list a minute longer than what it lists, and fails a job at its successful end over that (2.12).
        """
        registry = job.execution_registry
        for execution_id in registry.get_execution_ids():
            execution = Execution(execution_id, job.id, self.connection)
            if not self.connection.exists(execution.key):
                self.connection.zrem(registry.key, execution_id)


def _bound_job(handlers: Handlers) -> type[Job]:
    class BoundJob(Job):
        """A job whose name is looked up in the worker's own list: nothing that Redis says is ever imported."""

        @property
        def func(self) -> Callable[..., Any]:
            name = str(self.func_name)
            if name not in handlers:
                raise JobNotAllowed(f"job {self.id} asks for {name!r}; this worker runs {', '.join(handlers)} only")
            return handlers[name]

        # RQ would import these by the dotted path that Redis holds.
        success_callback = failure_callback = stopped_callback = None

    return BoundJob
