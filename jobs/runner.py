"""Runs one job and makes sure that it ends: counts attempts, isolates a suspect, retries, gives up with a message."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from configs.settings import JobSettings
from jobs.attempts import Attempts
from jobs.company import Company
from jobs.names import JOBS, Target, find_target
from jobs.queues import parse_arguments
from storage import agenda as due
from storage.deliveries import agenda_item
from storage.errors import GivenAway, JobNotAllowed, LongwatchError, RedisUnavailable, StateRebuilding, Surroundings
from storage.store import Store

log = logging.getLogger(__name__)


class Trouble(NamedTuple):
    """The last fault of the surroundings that a job here met."""

    message: str
    met_at: float  # monotonic
    since: str  # when the current run of such faults began


NO_TROUBLE = Trouble("", -math.inf, "")


class Handler(NamedTuple):
    """What a worker runs for a job name."""

    run: Callable[..., None]  # called with the job's arguments; if it returns, the target is as it should be
    give_up: Callable[..., None]  # called with a reason and the job's arguments; settles the target as failed
    alone_if_suspect: bool = True  # False for jobs that cannot kill a process themselves


Handlers = Mapping[str, Handler]

_ADVANCE: ContextVar[Callable[[], None]] = ContextVar("advance", default=lambda: None)


def note_progress() -> None:
    """Says, within a handler, that this attempt got further than those before it.

    Earlier attempts no longer count: only a job that stands still is given up. A suspect is no longer alone: what
    killed its process lies behind it.
    """
    _ADVANCE.get()()


class Runner:
    """Runs jobs. The job threads of a process share one runner."""

    def __init__(self, store: Store, settings: JobSettings, handlers: Handlers) -> None:
        unknown = set(handlers) - set(JOBS)
        if unknown:
            raise JobNotAllowed(f"no such jobs: {sorted(unknown)}; the list is in jobs/names.py")
        self._store = store
        self._settings = settings
        self._handlers = handlers
        self._attempts = Attempts(store.state)
        self._company = Company()
        self._trouble = NO_TROUBLE
        self._redis_away_at = -math.inf  # monotonic
        self._begun: set[str] = set()  # ids of the jobs that run here now
        self._unforgiven: list[str] = []  # job ids: Redis was away when these attempts should have been forgiven

    @property
    def trouble(self) -> str | None:
        """The current fault of the surroundings, and since when; None after a success or a while without faults."""
        message, met_at, since = self._trouble
        lately = time.monotonic() - met_at < 3 * self._settings.surroundings_retry_after_s
        return f"{message} (since {since})" if lately else None

    def run(self, job_id: str, data: bytes) -> None:
        """Runs the job; raises only RedisUnavailable. `data` is what RQ stored, and nothing in it is trusted."""
        try:
            name, args = parse_arguments(data)
            handler = self._handlers.get(name)
            if handler is None:
                raise JobNotAllowed(f"it asks for {name!r}; this worker runs only {', '.join(self._handlers)}")
        except (ValueError, JobNotAllowed) as error:
            log.error("job %r is dropped: %s", job_id, error)
            return
        before = self._attempts.count(job_id)
        limit = self._settings.max_attempts if handler.alone_if_suspect else self._settings.max_fetch_attempts
        if before >= limit:
            self._give_up(handler, job_id, args, f"its worker died {before} times while working on it")
            return
        if not handler.alone_if_suspect:
            self._begin(handler, job_id, args, limit, lambda: None)
            return
        with self._company.join(alone=before > 0, wait_s=self._settings.exclusive_wait_s) as seat:
            if seat is None:
                self._look_again(job_id, self._settings.exclusive_wait_s)
            else:
                self._begin(handler, job_id, args, limit, partial(self._company.admit_others, seat))

    def give_back(self, job_id: str) -> None:
        """Gives a job back because the process was told to stop. The attempt does not count."""
        if job_id in self._begun:
            self._attempts.forgive(job_id)
        self._look_again(job_id, 0)

    def note_redis_away(self) -> None:
        """Notes that Redis did not answer: meanwhile live jobs here may be taken for dead."""
        self._redis_away_at = time.monotonic()

    def settle_forgiven(self) -> None:
        """Forgives the attempts that ended while Redis was away. Raises RedisUnavailable."""
        while self._unforgiven:
            self._attempts.forgive(self._unforgiven[0])
            self._unforgiven.pop(0)

    def _forgive(self, job_id: str) -> None:
        try:
            self._attempts.forgive(job_id)
        except RedisUnavailable:
            self._unforgiven.append(job_id)
            raise

    def _begin(
        self, handler: Handler, job_id: str, args: list[Any], limit: int, admit_others: Callable[[], None]
    ) -> None:
        # Counted only now: if another job kills the process during the wait, this one is not to blame.
        attempt = self._attempts.begin(job_id)

        def advance() -> None:
            self._attempts.forgive_earlier(job_id)
            admit_others()

        self._begun.add(job_id)
        token = _ADVANCE.set(advance)
        try:
            self._attempt(handler, job_id, args, attempt, limit)
        finally:
            _ADVANCE.reset(token)
            self._begun.discard(job_id)

    def _attempt(self, handler: Handler, job_id: str, args: list[Any], attempt: int, limit: int) -> None:
        began = time.monotonic()
        try:
            handler.run(*args)
        except GivenAway as error:
            log.warning("job %s: %s", job_id, error)
            if self._redis_away_at > began:  # it lost its job because heartbeats could not arrive, not because it hung
                self._forgive(job_id)
        except (Surroundings, StateRebuilding) as error:
            log.error("job %s cannot run now and is retried later: %s", job_id, error)
            since = self._trouble.since if self.trouble else f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
            self._trouble = Trouble(str(error), time.monotonic(), since)
            self._forgive(job_id)
            self._look_again(job_id, self._settings.surroundings_retry_after_s)
        except Exception as error:
            log.exception("job %s failed (attempt %d of %d)", job_id, attempt, limit)
            if attempt >= limit:
                reason = str(error) if isinstance(error, LongwatchError) else f"{type(error).__name__}: {error}"
                self._give_up(handler, job_id, args, reason)
            else:
                pauses = self._settings.retry_after_s
                self._look_again(job_id, pauses[min(attempt, len(pauses)) - 1])
        else:
            self._trouble = NO_TROUBLE
            self._attempts.clear(job_id)

    def _give_up(self, handler: Handler, job_id: str, args: list[Any], reason: str) -> None:
        log.error("job %s is given up: %s", job_id, reason)
        try:
            handler.give_up(reason, *args)
        except (GivenAway, Surroundings, StateRebuilding) as error:
            log.error("job %s could not be settled as failed yet: %s", job_id, error)
            self._look_again(job_id, self._settings.surroundings_retry_after_s)
        except Exception:
            log.exception("job %s could not be settled as failed", job_id)
        else:
            self._attempts.clear(job_id)

    def _look_again(self, job_id: str, in_s: float) -> None:
        make_due(self._store, find_target(job_id), in_s)


def make_due(store: Store, target: Target, in_s: float = 0.0) -> None:
    """Makes the target of a job due in `in_s` seconds."""
    if target.video_id is not None:
        store.agenda.put(due.VIDEOS, target.video_id, in_s=in_s)
    if target.question_id is not None:
        store.agenda.put(due.QUESTIONS, target.question_id, in_s=in_s)
    if target.watch is not None:
        store.agenda.put(due.DELIVERIES, agenda_item(*target.watch), in_s=in_s)
