"""Inspects all unfinished work repeatedly: the one remedy for killed workers, a flushed Redis and lost jobs."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from configs.settings import JobSettings, RetentionSettings
from jobs.inspector import Inspector
from jobs.names import ENCODE, JOBS, find_target
from jobs.queues import Call
from jobs.retention import Retention
from jobs.runner import make_due
from storage import agenda as due
from storage.deliveries import parse_agenda_item
from storage.errors import ArchiveUnavailable, DamagedState, LongwatchError, NotFound, RedisUnavailable, Surroundings
from storage.ids import check_video_id, video_of
from storage.locks import Hold
from storage.rebuild import rebuild_events, rebuild_state
from storage.repair import repair_shared, repair_video
from storage.store import Store

log = logging.getLogger(__name__)

ITEMS_A_PASS = 200  # from each agenda, so that a pass stays short
LEASE_S = 10.0
OUTAGES_A_PASS = 3  # after this many archive errors a pass leaves the archive alone: each may cost a time-out
SWEEP_S = 3600.0


class Reconciler:
    """Works through the agenda, in one process at a time."""

    def __init__(
        self,
        store: Store,
        settings: JobSettings,
        orphan_after_s: float = 86400.0,
        retention: RetentionSettings | None = None,
    ) -> None:
        self.inspector = Inspector(store, settings)
        self._store = store
        self._settings = settings
        self._orphan_after_s = orphan_after_s
        self._queues = self.inspector.queues
        self._swept_at = self._limited_at = -math.inf
        self._retention = None if retention is None else Retention(store, retention)
        self._retention_every_s = retention.check_every_s if retention else math.inf
        self._revive_from = 0.0  # monotonic
        self._outages = 0  # of the archive, in this pass

    def run_forever(self, stop: threading.Event) -> None:
        """A pass every `reconcile_interval_s` until `stop` is set. No exception ends it."""
        while not stop.wait(self._settings.reconcile_interval_s):
            try:
                self.run_once()
            except RedisUnavailable as error:
                log.error("reconciler: %s", error)
                # Workers whose heartbeats failed in the same outage are not dead: give them time to beat again.
                self._revive_from = time.monotonic() + 2 * self._settings.heartbeat_interval_s
            except Surroundings as error:
                log.error("reconciler: %s", error)
            except DamagedState as error:
                log.error("reconciler: %s", error)
                self._repair_queues()
            except Exception:
                log.exception("reconciler: a pass failed; the next one follows")

    def run_once(self) -> None:
        """One pass, unless another process holds the lease."""
        with self._store.locks.hold("reconciler", LEASE_S) as held:
            if not held:
                return
            self._outages = 0
            repair_shared(self._store)
            if not self._store.index.is_ready():
                rebuild_state(self._store, held.renew)
            if time.monotonic() >= self._revive_from:
                self._revive()
            self._inspect_due(
                due.DELETIONS, partial(self.inspector.inspect_deletion, orphan_after_s=self._orphan_after_s)
            )
            self._inspect_due_videos()
            self._inspect_due(due.FOUND, self.inspector.inspect_found_question)
            self._inspect_due(due.QUESTIONS, self.inspector.inspect_question)
            self._keep_events(held)
            if self._retention is not None and time.monotonic() - self._limited_at > self._retention_every_s:
                self._limited_at = time.monotonic()
                self._retention.run_once(held.renew)
            if time.monotonic() - self._swept_at > SWEEP_S:
                self._store.archive.files.sweep(SWEEP_S)
                self._swept_at = time.monotonic()

    def _keep_events(self, held: Hold) -> None:
        """Reads lost events from the archive, ends reservations of dead publishers, queues deliveries that are due."""
        self._inspect_due(due.EVENTS, partial(rebuild_events, self._store, held.renew))
        try:
            self._store.events.resolve_reservations()
        except ArchiveUnavailable as error:
            log.error("reconciler: %s", error)
        self._store.events.trim()
        self._inspect_due(due.DELIVERIES, self.inspector.inspect_deliveries)

    def adopt_model(self, fingerprint: str) -> None:
        """Makes every video due if this model differs from the last one, because each model has its own records."""
        self._store.workers.announce_model(fingerprint)
        if self._store.workers.read_adopted() == fingerprint:
            return
        cursor: str | None = None
        while video_ids := self._store.index.list_videos(cursor, 1000):
            self._store.agenda.put(due.VIDEOS, *video_ids)
            cursor = video_ids[-1]
        self._store.workers.set_adopted(fingerprint)  # last: if this process dies earlier, the next one starts over

    def _inspect_due_videos(self) -> None:
        """Inspects all videos that are due, with a few commands in total.

        After too many archive errors, videos that need the archive wait for the next pass. There they come before the
        videos that met the errors. Finished videos that must be encoded again, as after a change of model, are queued
        only while few jobs wait: a video that is added now need not wait for all of them.
        """
        calls: list[Call] = []
        backlog: list[Call] = []
        for sight in self.inspector.see_videos(self._store.agenda.list_due(due.VIDEOS, ITEMS_A_PASS)):
            if self._outages >= OUTAGES_A_PASS and (sight.copy is None or sight.missing is None):
                self._store.agenda.postpone(due.VIDEOS, sight.video_id, in_s=0)
                continue
            with self._contain(due.VIDEOS, sight.video_id):
                found = self.inspector.find_jobs(sight)
                finished = all(JOBS[call.name] == ENCODE for call in found)
                (backlog if finished else calls).extend(found)
        room = max(self._settings.max_backlog_segments - self._queues.count_waiting(ENCODE), 0) if backlog else 0
        self._queues.ensure([*calls, *backlog[:room]])

    def _inspect_due(self, agenda: str, inspect: Callable[[str], None]) -> None:
        """Inspects the items that are due; stops early after too many archive errors."""
        for item_id in self._store.agenda.list_due(agenda, ITEMS_A_PASS):
            if self._outages >= OUTAGES_A_PASS:
                break
            with self._contain(agenda, item_id):
                inspect(item_id)

    @contextmanager
    def _contain(self, agenda: str, item_id: str) -> Iterator[None]:
        """Postpones an item whose inspection fails, so that the others get their turn."""
        try:
            yield
        except RedisUnavailable:
            raise
        except Surroundings as error:
            log.error("%s: %s", item_id, error)
            self._store.agenda.postpone(agenda, item_id, in_s=self._settings.surroundings_retry_after_s)
            self._outages += 1
        except (ValueError, DamagedState) as error:
            log.error("the state of %s in Redis is damaged and is read from the archive again: %s", item_id, error)
            self._forget_damaged(agenda, item_id)
        except LongwatchError as error:
            log.error("%s: %s", item_id, error)
            self._store.agenda.postpone(agenda, item_id, in_s=self._settings.recheck_after_s)
        except Exception:
            log.exception("%s could not be inspected", item_id)
            self._store.agenda.postpone(agenda, item_id, in_s=self._settings.recheck_after_s)

    def _forget_damaged(self, agenda: str, item_id: str) -> None:
        """Removes damaged values and inspects the item again soon; an item that is not an id is removed."""
        try:
            if agenda == due.DELIVERIES:
                self._forget_damaged_deliveries(item_id)
                return
            video_id = video_of(item_id) if agenda in (due.QUESTIONS, due.FOUND) else check_video_id(item_id)
        except NotFound:
            self._store.agenda.remove(agenda, item_id)
            return
        self._store.agenda.postpone(agenda, item_id, in_s=self._settings.reconcile_interval_s)
        self._repair_queues()
        copy = self._store.index.get_video(video_id)
        for damaged_id in {video_id, (copy and copy.duplicate_of) or video_id}:
            repair_video(self._store, damaged_id)
            self._store.agenda.put(due.VIDEOS, damaged_id)

    def _forget_damaged_deliveries(self, item_id: str) -> None:
        stream_id, watch_id = parse_agenda_item(item_id)
        self._store.deliveries.forget_damaged(stream_id, watch_id)
        self._store.agenda.postpone(due.DELIVERIES, item_id, in_s=self._settings.reconcile_interval_s)
        self._repair_queues()

    def _repair_queues(self) -> None:
        try:
            self._queues.repair()
        except LongwatchError as error:
            log.error("reconciler: damaged queues could not be removed: %s", error)

    def _revive(self) -> None:
        """Makes the targets of jobs of dead workers due now."""
        for job_id in [*self._queues.drop_lost(), *self._queues.take_dead()]:
            log.warning("the worker of job %s is silent: another one gets the job", job_id)
            make_due(self._store, find_target(job_id))
