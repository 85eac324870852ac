"""Runs the service's own worker in threads of the test process: the same queues, runner, heartbeat and reconciler."""

import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from redis.exceptions import RedisError
from rq import Queue
from rq.serializers import JSONSerializer

from configs.settings import Settings
from jobs.runner import Handlers
from jobs.worker import JobThread, Pool, WorkerProcess
from storage.store import Store

log = logging.getLogger(__name__)
PAUSE_S = 0.01


class WorkerThreads(WorkerProcess):
    """A worker that ignores signals and stops without ending the process."""

    def start(self) -> list[threading.Thread]:
        self._announce_model()
        return self.start_threads()

    def end(self) -> None:
        self.stopping.set()

    def withdraw(self) -> None:
        self._store.workers.withdraw(self._name)

    def _job_loop(self, pool: Pool, name: str) -> Callable[[], None]:
        """Polls without blocking, so that the thread ends immediately when it is told to."""

        def loop() -> None:
            while not self.stopping.wait(PAUSE_S):
                queues = [Queue(queue, connection=self.redis, serializer=JSONSerializer) for queue in pool.queues]
                try:
                    if any(queue.count for queue in queues):
                        JobThread(self, queues, f"{name}-{secrets.token_hex(4)}").work(burst=True)
                except (RedisError, ValueError) as error:  # a test took Redis away, or flushed it
                    log.warning("%s starts over: %s", name, error)

        return loop


@contextmanager
def working(
    settings: Settings,
    store: Store,
    kind: str,
    pools: Sequence[Pool],
    handlers: Handlers,
    fingerprint: str | None = None,
) -> Iterator[WorkerThreads]:
    """Runs a worker of this kind until the block ends."""
    logging.getLogger("rq").setLevel(logging.WARNING)
    worker = WorkerThreads(settings, store, kind, pools, handlers, fingerprint)
    threads = worker.start()
    try:
        yield worker
    finally:
        worker.end()
        for thread in threads:
            thread.join(timeout=30)
            assert not thread.is_alive(), f"{thread.name} does not stop"
        worker.withdraw()


def count_waiting(store: Store, queue: str) -> int:
    """How many jobs wait in this queue."""
    return Queue(queue, connection=store.state, serializer=JSONSerializer).count
