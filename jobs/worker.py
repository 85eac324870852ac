"""A worker process: job threads, one heartbeat thread for all of them, and the reconciler."""

import logging
import math
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import NamedTuple

from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue, SimpleWorker, worker_registration
from rq.exceptions import StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty
from rq.utils import now

from configs.settings import JobSettings, Settings
from jobs.queues import Queues
from jobs.reconciler import Reconciler
from jobs.runner import Handlers, Runner
from storage.connection import connect
from storage.errors import DamagedState, LongwatchError, RedisUnavailable
from storage.store import Store
from storage.workers import Worker

log = logging.getLogger(__name__)

DEQUEUE_S = 5  # how long a look for jobs blocks; RQ beats for an idle thread this often
RESTART_S = 2.0  # pause before a thread whose loop failed restarts
STOP_S = 3.0  # time for running jobs to end after a stop signal; `longwatch up` kills after 5 s


Service = Callable[[threading.Event], None]  # runs until the event is set


@dataclass(frozen=True)
class Pool:
    """Threads that work on the same queues, in order of priority."""

    queues: tuple[str, ...]
    threads: int


def run_worker(
    settings: Settings,
    store: Store,
    kind: str,
    pools: Sequence[Pool],
    handlers: Handlers,
    fingerprint: str | None = None,
    max_frames: int | None = None,
    services: Sequence[Service] = (),
) -> None:
    """Works on the pools' queues until a signal stops it. Each service runs in a thread beside them.

    One more thread runs the reconciler, so any live worker of any kind brings back the jobs of a dead one.
    """
    WorkerProcess(settings, store, kind, pools, handlers, fingerprint, max_frames, services).run()


def name_worker(kind: str) -> str:
    """The name of this process as a worker of the given kind, unique among all hosts."""
    return f"{kind}-{socket.gethostname()}-{os.getpid()}"


def start_thread(body: Callable[[], None], name: str) -> threading.Thread:
    """Starts a daemon thread, so the process can end without it."""
    thread = threading.Thread(target=body, name=name, daemon=True)
    thread.start()
    return thread


class JobThread(SimpleWorker):
    """RQ's in-process worker in its own thread. Nothing that Redis names is imported, called or fetched.

    RQ looks up functions, callbacks and webhooks by the names that the job in Redis gives, and so does its clean-up.
    Here a job is only a name and arguments for the runner. The reconciler does retries and clean-up.
    """

    death_penalty_class = TimerDeathPenalty  # signals reach the main thread only

    def __init__(self, process: "WorkerProcess", queues: Sequence[Queue], name: str) -> None:
        super().__init__(list(queues), name=name, connection=process.redis, serializer=JSONSerializer)
        self._process = process
        self.log_job_description = False
        self._beaten_at = -math.inf

    @property
    def dequeue_timeout(self) -> int:
        """How many seconds a look for jobs blocks."""
        return DEQUEUE_S

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Renews the thread's entry, which lasts for minutes. RQ calls this often: most calls do nothing."""
        if pipeline is not None or time.monotonic() - self._beaten_at >= DEQUEUE_S:
            self._beaten_at = time.monotonic()
            super().heartbeat(timeout, pipeline)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Runs the job while the heartbeat thread beats for it, then removes what RQ stores about it."""
        if self._process.stopping.is_set():
            self._process.queues.put_back(job, queue)
            raise StopRequested
        entry = self._process.queues.begin(job, queue, self._process.settings.worker_dead_after_s)
        self._process.running[self.name] = Running(self, job, entry)
        try:
            self._process.runner.run(job.id, job.data)
        finally:
            self._process.running.pop(self.name, None)
            self._process.queues.end(job, entry)

    def clean_registries(self) -> None:
        """Forgets threads of killed workers. Their jobs are left to the reconciler, which calls no callbacks."""
        for queue in self.queues:
            worker_registration.clean_worker_registry(queue)
        self.last_cleaned_at = now()  # type: ignore[assignment]  # RQ does not annotate it as a time

    def clean_group_registries(self) -> None:
        """Does nothing: there are no groups."""

    def check_for_suspension(self, burst: bool) -> None:
        """Does nothing: workers cannot be suspended through Redis."""

    def subscribe(self) -> None:
        """Does nothing: workers take no commands through Redis."""

    def _install_signal_handlers(self) -> None:
        """Does nothing: the process has its own."""


class Running(NamedTuple):
    """A job, the thread that runs it, and its entry in the queue's registry."""

    thread: JobThread
    job: Job
    entry: str


class WorkerProcess:
    """The threads of one worker."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        kind: str,
        pools: Sequence[Pool],
        handlers: Handlers,
        fingerprint: str | None,
        max_frames: int | None = None,
        services: Sequence[Service] = (),
    ) -> None:
        self.settings: JobSettings = settings.jobs
        self.redis = connect(settings.state_url, settings.redis)  # not the store's: RQ changes its time-outs
        self.runner = Runner(store, settings.jobs, handlers)
        self.queues = Queues(self.redis)
        self.running: dict[str, Running] = {}  # thread name -> its job
        self.stopping = threading.Event()
        self._store = store
        self._kind = kind
        self._pools = pools
        self._fingerprint = fingerprint
        self._max_frames = max_frames
        self._reconciler = Reconciler(store, settings.jobs, settings.archive.orphan_after_s, settings.retention)
        self._services = services
        self._name = name_worker(kind)

    def run(self) -> None:
        """Works until a signal; then waits a moment for running jobs and gives the rest back."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.getLogger("rq").setLevel(logging.WARNING)
        self._announce_model()
        heart, *_ = self.start_threads()
        log.info("%s works on %s", self._name, ", ".join(q for pool in self._pools for q in pool.queues))
        self.stopping.wait()
        self._wind_up(heart)

    def start_threads(self) -> list[threading.Thread]:
        """Starts the heartbeat, reconciler and job threads; they end some time after `stopping` is set."""
        started = [self.start_heart(), start_thread(self._reconcile, "reconciler")]
        started += [
            start_thread(partial(service, self.stopping), f"service-{k}") for k, service in enumerate(self._services)
        ]
        pools = [pool for pool in self._pools for _ in range(pool.threads)]
        for count, pool in enumerate(pools, 1):
            started.append(start_thread(self._job_loop(pool, f"{self._name}-{count}"), f"job-{count}"))
        return started

    def start_heart(self) -> threading.Thread:
        """Starts only the heartbeat thread, for job threads that the caller runs."""
        return start_thread(self._beat, "heart")

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        self.stopping.set()

    def _job_loop(self, pool: Pool, name: str) -> Callable[[], None]:
        def loop() -> None:
            while not self.stopping.is_set():
                try:
                    queues = [Queue(queue, connection=self.redis, serializer=JSONSerializer) for queue in pool.queues]
                    # A new name each time: RQ refuses a name whose entry still exists, as after an outage of Redis.
                    JobThread(self, queues, f"{name}-{secrets.token_hex(2)}").work(logging_level="WARNING")
                except (RedisError, LongwatchError, OSError, ValueError) as error:
                    log.error("job thread %s restarts: %s", name, error)
                except (Exception, SystemExit):
                    log.exception("job thread %s restarts", name)
                self.stopping.wait(RESTART_S)

        return loop

    def _beat(self) -> None:
        """Records regularly that the process and its running jobs are alive."""
        queues = tuple(dict.fromkeys(queue for pool in self._pools for queue in pool.queues))
        host, pid = socket.gethostname(), os.getpid()
        worker = Worker(self._name, self._kind, host, pid, queues, self._fingerprint, self._max_frames)
        while not self.stopping.is_set():
            for thread, job, entry in list(self.running.values()):
                self._try(partial(self.queues.beat, job, entry, self.settings.worker_dead_after_s))
                self._try(thread.heartbeat)
            now = replace(worker, trouble=self.runner.trouble)
            self._try(partial(self._store.workers.announce, now, self.settings.worker_dead_after_s))
            self._try(self.runner.settle_forgiven)
            self.stopping.wait(self.settings.heartbeat_interval_s)

    def _try(self, step: Callable[[], object]) -> None:
        """Runs one step of a heartbeat; a failed step does not prevent the others."""
        try:
            step()
        except (RedisConnectionError, RedisTimeoutError, RedisUnavailable) as error:
            self.runner.note_redis_away()
            log.warning("a heartbeat failed: %s", error)
        except Exception:
            log.exception("a heartbeat failed")

    def _reconcile(self) -> None:
        self._reconciler.run_forever(self.stopping)

    def _announce_model(self) -> None:
        """Announces the model once Redis answers. A changed model makes every video due."""
        if self._fingerprint is None:
            return
        while not self.stopping.is_set():
            try:
                self._reconciler.adopt_model(self._fingerprint)
                return
            except (RedisUnavailable, DamagedState) as error:
                log.warning("waiting for Redis: %s", error)
                self.stopping.wait(RESTART_S)

    def _wind_up(self, heart: threading.Thread) -> None:
        ends_at = time.monotonic() + STOP_S
        while self.running and time.monotonic() < ends_at:
            time.sleep(0.05)
        heart.join(max(ends_at - time.monotonic(), 0))  # a beat on its way would announce the worker again
        try:
            for running in list(self.running.values()):
                self.runner.give_back(running.job.id)
            self._store.workers.withdraw(self._name)
        except (RedisError, LongwatchError) as error:
            log.warning("could not give all jobs back before stopping: %s", error)
        log.info("%s stops", self._name)
        logging.shutdown()
        os._exit(0)  # job threads may hold locks in native code, so an ordinary exit could hang
