"""Compares what should be with what is, and enqueues what is missing: the one cure for every lost job."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from configs.settings import JobSettings
from jobs.names import find_target
from jobs.queues import Call, Queues, encode_call, fetch_call, ingest_call
from storage import agenda as due
from storage.deletion import finish_deletion
from storage.documents import Problem, Question, Video
from storage.errors import (
    DamagedFile,
    DamagedState,
    LongwatchError,
    NewerDocument,
    NotFound,
    RedisUnavailable,
    Surroundings,
)
from storage.ids import check_video_id, created_at, video_of
from storage.progress import describe_progress
from storage.rebuild import rebuild_state
from storage.repair import repair_shared, repair_video
from storage.store import Store
from storage.stretch import find_stretch

log = logging.getLogger(__name__)

LOOKS_A_PASS = 200  # of each kind: a pass stays short
LEASE_S = 10.0
OUTAGES_A_PASS = 3  # items that meet a failing archive before the pass ends: each may cost a time-out
SWEEP_S = 3600.0


class Sight(NamedTuple):
    """What Redis holds of a video that is looked at."""

    video_id: str
    copy: Video | None  # of its document
    missing: list[int] | None  # segments to be encoded, a bounded number; None: not known
    model: str


class Reconciler:
    """Level-triggered: covers a killed worker, a flushed Redis and a lost job by the same look at what is there."""

    def __init__(self, store: Store, settings: JobSettings, orphan_after_s: float = 86400.0) -> None:
        self._store = store
        self._settings = settings
        self._orphan_after_s = orphan_after_s
        self.queues = Queues(store.state)
        self._swept_at = -math.inf
        self._revive_from = 0.0  # monotonic
        self._outages = 0  # of the archive, in this pass

    def run_forever(self, stop: threading.Event) -> None:
        """A pass every `reconcile_interval_s` until `stop` is set. No exception ends it."""
        while not stop.wait(self._settings.reconcile_interval_s):
            try:
                self.run_once()
            except RedisUnavailable as error:
                log.error("reconciler: %s", error)
                # Jobs whose heartbeats met the same outage are not dead: they beat again before anyone is taken for it.
                self._revive_from = time.monotonic() + 2 * self._settings.heartbeat_interval_s
            except Surroundings as error:
                log.error("reconciler: %s", error)
            except DamagedState as error:
                log.error("reconciler: %s", error)
                self._repair()
            except Exception:
                log.exception("reconciler: a pass failed; the next one comes")

    def _repair(self) -> None:
        try:
            self.queues.repair()
        except LongwatchError as error:
            log.error("reconciler: damaged queues could not be removed: %s", error)

    def run_once(self) -> None:
        """One pass, unless another process is at it."""
        with self._store.locks.hold("reconciler", LEASE_S) as held:
            if not held:
                return
            self._outages = 0
            repair_shared(self._store)
            if not self._store.index.is_ready():
                rebuild_state(self._store, held.renew)
            if time.monotonic() >= self._revive_from:
                self._revive()
            self._look_at_due(due.DELETIONS, self._look_at_deletion)
            self._look_at_due_videos()
            self._look_at_due(due.FOUND, self._look_at_found)
            self._look_at_due(due.QUESTIONS, self.look_at_question)
            if time.monotonic() - self._swept_at > SWEEP_S:
                self._store.archive.files.sweep(SWEEP_S)
                self._swept_at = time.monotonic()

    def adopt_model(self, fingerprint: str) -> None:
        """Another model than before makes every video due: it has its own records."""
        self._store.workers.announce_model(fingerprint)
        if self._store.workers.read_adopted() == fingerprint:
            return
        cursor: str | None = None
        while video_ids := self._store.index.list_videos(cursor, 1000):
            self._store.agenda.put(due.VIDEOS, *video_ids)
            cursor = video_ids[-1]
        self._store.workers.set_adopted(fingerprint)  # last: who dies before leaves it to the next one to start

    def look_at_video(self, video_id: str) -> None:
        """Enqueues what the video lacks, a bounded number of segments at once."""
        (sight,) = self._see_videos([video_id])
        self.queues.ensure(self._find_lacking(sight))

    def _look_at_due_videos(self) -> None:
        """As `look_at_video`, of all videos that are due: the commands are shared.

        Once the archive has failed, what needs it waits for the next pass, and comes before what met the failure.
        """
        lacking: list[Call] = []
        for sight in self._see_videos(self._store.agenda.list_due(due.VIDEOS, LOOKS_A_PASS)):
            if self._outages >= OUTAGES_A_PASS and (sight.copy is None or sight.missing is None):
                self._store.agenda.postpone(due.VIDEOS, sight.video_id, in_s=0)
                continue
            with self._contained(due.VIDEOS, sight.video_id):
                lacking += self._find_lacking(sight)
        self.queues.ensure(lacking)

    def _see_videos(self, video_ids: Sequence[str]) -> list[Sight]:
        """What Redis holds of these videos; each is to be looked at again later."""
        if not video_ids:
            return []
        model = self._store.workers.read_model()
        self._store.agenda.postpone(due.VIDEOS, *video_ids, in_s=self._settings.recheck_after_s)
        copies = self._store.index.get_videos(video_ids)
        lists = self._store.coverage.list_pending(video_ids, model, self._settings.max_pending_segments)
        return [Sight(*each, model) for each in zip(video_ids, copies, lists, strict=True)]

    def _find_lacking(self, sight: Sight) -> list[Call]:
        """The jobs that the video needs."""
        video = sight.copy or self._read_or_drop(sight.video_id)
        if video is None:
            return []
        if video.duplicate_of is not None:
            self._look_at_duplicate(video)
            return []
        missing = self._count_missing(video, sight.model) if sight.missing is None else sight.missing
        calls = []
        if not video.settled:
            to_fetch = video.kind == "url" and not video.in_archive
            calls.append(fetch_call(video.id) if to_fetch else ingest_call(video.id))
        if sight.model:
            calls += [encode_call(video.id, segment) for segment in missing]
        if video.settled and not missing:
            self._store.agenda.remove(due.VIDEOS, video.id)
            self.wake_questions(video.id)
        return calls

    def _read_or_drop(self, video_id: str) -> Video | None:
        """The archive's document; None if there is none that can be read: then nothing is due."""
        try:
            return self._store.read_video(video_id)
        except NotFound:
            self._store.index.forget_video(video_id)
            self._store.agenda.forget_video(video_id)
        except (DamagedFile, NewerDocument) as error:
            self._store.index.report_unreadable(video_id, str(error))
            self._store.agenda.remove(due.VIDEOS, video_id)
        return None

    def _count_missing(self, video: Video, model: str) -> list[int]:
        """Has the marks read from the archive first; raises DamagedState."""
        self._store.count_video(video)
        most = self._settings.max_pending_segments
        (missing,) = self._store.coverage.list_pending([video.id], model, most)
        if missing is None:
            raise DamagedState(f"the marks of {video.id} are none of ours")
        return missing

    def wake_questions(self, holder_id: str) -> None:
        """Looks at the questions that may have what they waited for."""
        if not self._store.agenda.list_waiting(holder_id, None):
            return
        holder = self._store.read_video(holder_id)
        (totals,) = self._store.coverage.read_totals([holder_id], self._store.workers.read_model())
        if totals is None:
            return
        reached = None if describe_progress(holder, totals).complete else totals.encoded_segments - 1
        for question_id in self._store.agenda.list_waiting(holder_id, reached):
            self.look_at_question(question_id)

    def look_at_question(self, question_id: str, known: Question | None = None) -> None:
        """Has the question answered if its stretch is encoded; else it waits, and holds no worker."""
        try:
            question = known or self._store.read_question(question_id)
            holder = self._find_holder(question)
            if holder is None:
                return
        except NotFound:
            self._store.agenda.remove(due.QUESTIONS, question_id)
            return
        except (DamagedFile, NewerDocument) as error:
            self._store.index.report_unreadable(question_id, str(error))
            self._store.agenda.remove(due.QUESTIONS, question_id)
            return
        if question.settled:
            self._store.agenda.remove(due.QUESTIONS, question_id)
            self._store.agenda.stop_waiting(holder.id, [question_id])
            return
        self._store.agenda.postpone(due.QUESTIONS, question_id, in_s=self._settings.recheck_after_s)
        self._queue_or_wait(question, holder)

    def _look_at_found(self, question_id: str) -> None:
        """Counts a question of the archive's as unsettled only if a look finds it so."""
        self._store.agenda.put(due.QUESTIONS, question_id)
        self.look_at_question(question_id)
        self._store.agenda.remove(due.FOUND, question_id)

    def _find_holder(self, question: Question) -> Video | None:
        """The video that holds the frames; None if its owner was deleted and it is to be sampled itself first.

        Raises NotFound once the question's own video was deleted.
        """
        try:
            return self._store.read_holder(question.video_id)
        except NotFound:
            video = self._store.read_video(question.video_id)
            self._store.agenda.put(due.VIDEOS, video.id)
            self._store.agenda.postpone(due.QUESTIONS, question.id, in_s=self._settings.reconcile_interval_s)
            return None

    def _queue_or_wait(self, question: Question, holder: Video) -> None:
        stretch = find_stretch(self._store, question, holder, self._store.workers.read_model())
        if stretch.is_ready(partial=question.partial):
            self._store.agenda.stop_waiting(holder.id, [question.id])
            if self.queues.answer(question.id):
                self._store.set_question_state(question.id, "queued")
            return
        self._store.agenda.wait(holder.id, question.id, stretch.awaited_segment(partial=question.partial))
        self._store.set_question_state(question.id, "waiting")

    def _look_at_duplicate(self, video: Video) -> None:
        """A duplicate lasts as long as what it leans on: one that failed fails it, one that is gone frees it."""
        assert video.duplicate_of is not None
        self._store.count_video(video)  # it has no segments, but its open questions are found by this
        try:
            holder = self._store.read_video(video.duplicate_of)
        except NotFound:
            self._store.index.stop_leaning(video.id, video.duplicate_of)
            self._store.update_video(video.model_copy(update={"status": "queued", "duplicate_of": None}))
            return
        if holder.status == "failed":
            problem = holder.problem or Problem(code="internal", message=f"{holder.id}, of the same content, failed")
            self._store.index.stop_leaning(video.id, holder.id)
            changes = {"status": "failed", "duplicate_of": None, "problem": problem}
            self._store.update_video(video.model_copy(update=changes))
        elif holder.settled:
            self._store.agenda.remove(due.VIDEOS, video.id)

    def _look_at_deletion(self, video_id: str) -> None:
        """Finishes a deletion that broke off; what has no document goes once nobody can be writing it any more.

        Its age counts from the last look through the archive: a backup that is being restored may lack it yet.
        """
        age_s = time.time() - max(created_at(video_id).timestamp(), self._store.index.read_ready_since())
        if self._store.archive.has_video(video_id) and not self._store.index.is_deleted(video_id):
            self._store.agenda.put(due.VIDEOS, video_id)
            self._store.agenda.remove(due.DELETIONS, video_id)
        elif self._store.index.is_deleted(video_id) or age_s > self._orphan_after_s:
            finish_deletion(self._store, video_id)
        else:
            self._store.agenda.postpone(due.DELETIONS, video_id, in_s=min(SWEEP_S, self._orphan_after_s))

    def _revive(self) -> None:
        """Has the targets of dead workers' jobs looked at now."""
        self.queues.drop_lost()
        for job_id in self.queues.take_dead():
            log.warning("the worker of job %s is silent: the job is given to another", job_id)
            target = find_target(job_id)
            if target.video_id is not None:
                self._store.agenda.put(due.VIDEOS, target.video_id)
            if target.question_id is not None:
                self._store.agenda.put(due.QUESTIONS, target.question_id)

    def _look_at_due(self, agenda: str, look: Callable[[str], None]) -> None:
        """Looks at what is due, as long as the archive answers."""
        for item_id in self._store.agenda.list_due(agenda, LOOKS_A_PASS):
            if self._outages >= OUTAGES_A_PASS:
                break
            with self._contained(agenda, item_id):
                look(item_id)

    @contextmanager
    def _contained(self, agenda: str, item_id: str) -> Iterator[None]:
        """A look. One that fails is postponed, and keeps no other from its turn."""
        try:
            yield
        except RedisUnavailable:
            raise
        except Surroundings as error:
            log.error("%s: %s", item_id, error)
            self._store.agenda.postpone(agenda, item_id, in_s=self._settings.surroundings_retry_after_s)
            self._outages += 1
        except (ValueError, DamagedState) as error:  # what Redis holds of it is none of ours
            log.error("what Redis holds of %s is damaged and is read from the archive again: %s", item_id, error)
            self._forget_damaged(agenda, item_id)
        except LongwatchError as error:
            log.error("%s: %s", item_id, error)
            self._store.agenda.postpone(agenda, item_id, in_s=self._settings.recheck_after_s)
        except Exception:
            log.exception("%s could not be looked at", item_id)
            self._store.agenda.postpone(agenda, item_id, in_s=self._settings.recheck_after_s)

    def _forget_damaged(self, agenda: str, item_id: str) -> None:
        """Has it looked at again without what is damaged; what is no id at all is removed."""
        try:
            video_id = video_of(item_id) if agenda in (due.QUESTIONS, due.FOUND) else check_video_id(item_id)
        except NotFound:
            self._store.agenda.remove(agenda, item_id)
            return
        self._store.agenda.postpone(agenda, item_id, in_s=self._settings.reconcile_interval_s)
        self._repair()
        copy = self._store.index.get_video(video_id)
        for damaged_id in {video_id, (copy and copy.duplicate_of) or video_id}:
            repair_video(self._store, damaged_id)
            self._store.agenda.put(due.VIDEOS, damaged_id)
