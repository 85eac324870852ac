"""A worker process: job threads, one heart that beats for all of them, and the reconciler."""

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

DEQUEUE_S = 5  # a blocked look for jobs; RQ beats for an idle thread this often
RESTART_S = 2.0  # pause before a thread whose loop broke begins anew
STOP_S = 3.0  # for the jobs at hand, once the process is told to stop; `longwatch up` kills after 5


@dataclass(frozen=True)
class Pool:
    """Threads that work on the same queues, the first of them first."""

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
) -> None:
    """Works on the pools' queues until told to stop by a signal.

    Beside the jobs a thread reconciles: any live worker, whatever it works on, brings back the jobs of a dead one.
    """
    WorkerProcess(settings, store, kind, pools, handlers, fingerprint, max_frames).run()


def start_thread(body: Callable[[], None], name: str) -> threading.Thread:
    """Starts a thread that does not keep the process from ending."""
    thread = threading.Thread(target=body, name=name, daemon=True)
    thread.start()
    return thread


class JobThread(SimpleWorker):
    """RQ's in-process worker in a thread of its own. Nothing that Redis says is imported, called or fetched.

    RQ looks up functions, callbacks and webhooks by what the job in Redis names, and cleans up with a class that does
    so too. Here a job is a name and arguments for the runner; retries and clean-up are the reconciler's.
    """

    death_penalty_class = TimerDeathPenalty  # signals reach the main thread only

    def __init__(self, process: "WorkerProcess", queues: Sequence[Queue], name: str) -> None:
        super().__init__(list(queues), name=name, connection=process.redis, serializer=JSONSerializer)
        self._process = process
        self.log_job_description = False
        self._beaten_at = -math.inf

    @property
    def dequeue_timeout(self) -> int:
        """Seconds that a look for jobs blocks."""
        return DEQUEUE_S

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Keeps the thread's entry, which lasts for minutes. RQ beats three times a job; once in a while is enough."""
        if pipeline is not None or time.monotonic() - self._beaten_at >= DEQUEUE_S:
            self._beaten_at = time.monotonic()
            super().heartbeat(timeout, pipeline)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Runs the job while the process's heart beats for it, and removes what RQ keeps of it."""
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
        """Forgets threads of killed workers. The jobs are the reconciler's, who calls no callbacks."""
        for queue in self.queues:
            worker_registration.clean_worker_registry(queue)
        self.last_cleaned_at = now()  # type: ignore[assignment]  # RQ does not say that it holds a time

    def clean_group_registries(self) -> None:
        """There are no groups."""

    def check_for_suspension(self, burst: bool) -> None:
        """Nobody suspends workers over Redis."""

    def subscribe(self) -> None:
        """Commands over Redis are not taken."""

    def _install_signal_handlers(self) -> None:
        """The process has its own."""


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
    ) -> None:
        self.settings: JobSettings = settings.jobs
        self.redis = connect(settings.state_url, settings.redis)  # RQ changes its time-outs: not the store's
        self.runner = Runner(store, settings.jobs, handlers)
        self.queues = Queues(self.redis)
        self.running: dict[str, Running] = {}  # by the name of its thread
        self.stopping = threading.Event()
        self._store = store
        self._kind = kind
        self._pools = pools
        self._fingerprint = fingerprint
        self._max_frames = max_frames
        self._reconciler = Reconciler(store, settings.jobs, settings.archive.orphan_after_s)
        self._name = f"{kind}-{socket.gethostname()}-{os.getpid()}"

    def run(self) -> None:
        """Works until a signal; then gives the jobs at hand a moment, and the rest back."""
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
        """Starts the heart, the reconciler and the job threads; they end some time after `stopping` is set."""
        started = [self.start_heart(), start_thread(self._reconcile, "reconciler")]
        pools = [pool for pool in self._pools for _ in range(pool.threads)]
        for count, pool in enumerate(pools, 1):
            started.append(start_thread(self._job_loop(pool, f"{self._name}-{count}"), f"job-{count}"))
        return started

    def start_heart(self) -> threading.Thread:
        """Starts the beats alone, for job threads that are somebody else's."""
        return start_thread(self._beat, "heart")

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        self.stopping.set()

    def _job_loop(self, pool: Pool, name: str) -> Callable[[], None]:
        def loop() -> None:
            while not self.stopping.is_set():
                try:
                    queues = [Queue(queue, connection=self.redis, serializer=JSONSerializer) for queue in pool.queues]
                    # A fresh name each time: RQ refuses one whose entry outlived a Redis that was away.
                    JobThread(self, queues, f"{name}-{secrets.token_hex(2)}").work(logging_level="WARNING")
                except (RedisError, LongwatchError, OSError, ValueError) as error:
                    log.error("job thread %s begins anew: %s", name, error)
                except (Exception, SystemExit):
                    log.exception("job thread %s begins anew", name)
                self.stopping.wait(RESTART_S)

        return loop

    def _beat(self) -> None:
        """Keeps the process and its running jobs known as alive."""
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
        """One step of a heartbeat: what is wrong with it keeps the others from nothing."""
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
        """Once Redis answers; a model other than before makes every video due."""
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
            log.warning("stopping without a word to Redis: %s", error)
        log.info("%s stops", self._name)
        logging.shutdown()
        os._exit(0)  # job threads may hold locks of native code: an ordinary exit could wait for them for ever
