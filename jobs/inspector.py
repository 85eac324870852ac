"""Compares one video or question with the state it should be in, and enqueues the missing jobs."""

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from configs.settings import JobSettings
from jobs.queues import Call, Queues, deliver_call, encode_call, fetch_call, ingest_call
from storage import agenda as due
from storage.deletion import finish_deletion
from storage.deliveries import parse_agenda_item
from storage.documents import Problem, Question, Video
from storage.errors import DamagedFile, DamagedState, NewerDocument, NotFound
from storage.ids import created_at
from storage.progress import describe_progress
from storage.store import Store
from storage.stretch import find_stretch

ORPHAN_LOOK_S = 3600.0  # between two looks at a folder without a video.json


class Sight(NamedTuple):
    """What Redis holds about a video under inspection."""

    video_id: str
    copy: Video | None  # Redis' copy of its document
    missing: list[int] | None  # segments to encode, a bounded number; None if unknown
    model: str
    due_at_s: float  # when the video is due again (epoch seconds)


class Inspector:
    """Every inspection may be repeated at any time: a job that already waits or runs is not enqueued again."""

    def __init__(self, store: Store, settings: JobSettings) -> None:
        self._store = store
        self._settings = settings
        self.queues = Queues(store.state)

    # videos

    def inspect_video(self, video_id: str) -> None:
        """Enqueues the jobs that the video needs, at most `max_pending_segments` encode jobs at once."""
        (sight,) = self.see_videos([video_id])
        self.queues.ensure(self.find_jobs(sight))

    def see_videos(self, video_ids: Sequence[str]) -> list[Sight]:
        """Reads what Redis holds about these videos, a few commands for all, and postpones their next inspection."""
        if not video_ids:
            return []
        model = self._store.workers.read_model()
        due_at_s = self._store.agenda.postpone(due.VIDEOS, *video_ids, in_s=self._settings.recheck_after_s)
        copies = self._store.index.get_videos(video_ids)
        streams = {copy.id for copy in copies if copy is not None and copy.is_live}  # their latest frames matter most
        lists = self._store.coverage.list_pending(video_ids, model, self._settings.max_pending_segments, streams)
        return [Sight(*each, model, due_at_s) for each in zip(video_ids, copies, lists, strict=True)]

    def find_jobs(self, sight: Sight) -> list[Call]:
        """Returns the jobs that the video needs. A video that needs none is taken off the agenda."""
        video = sight.copy or self._read_or_drop(sight.video_id)
        if video is None:
            return []
        if video.duplicate_of is not None:
            self._inspect_duplicate(video)
            return []
        missing, due_at_s = sight.missing, sight.due_at_s
        if missing is None:
            missing, due_at_s = self._count_missing(video, sight.model)
        calls = []
        if not video.settled:
            to_fetch = video.kind == "url" and not video.in_archive
            calls.append(fetch_call(video.id) if to_fetch else ingest_call(video.id))
        if sight.model:
            calls += [encode_call(video.id, segment) for segment in missing]
        if video.settled and not missing:
            self._store.agenda.finish(due.VIDEOS, video.id, due_at_s)
            self.wake_questions(video.id)
        return calls

    def inspect_deletion(self, video_id: str, orphan_after_s: float) -> None:
        """Finishes an interrupted deletion, and removes a folder that has had no document for `orphan_after_s`.

        The time counts from the last rebuild of the state, because documents may arrive last when a backup is restored.
        """
        age_s = time.time() - max(created_at(video_id).timestamp(), self._store.index.read_ready_since())
        if self._store.archive.has_video(video_id) and not self._store.index.is_deleted(video_id):
            self._store.agenda.put(due.VIDEOS, video_id)
            self._store.agenda.remove(due.DELETIONS, video_id)
        elif self._store.index.is_deleted(video_id) or age_s > orphan_after_s:
            finish_deletion(self._store, video_id)
        else:
            self._store.agenda.postpone(due.DELETIONS, video_id, in_s=min(ORPHAN_LOOK_S, orphan_after_s))

    def _read_or_drop(self, video_id: str) -> Video | None:
        """Returns the archive's document; None if it is missing or unreadable, because then no job can help."""
        try:
            return self._store.read_video(video_id)
        except NotFound:
            self._store.index.forget_video(video_id)
            self._store.agenda.forget_video(video_id)
        except (DamagedFile, NewerDocument) as error:
            self._store.index.report_unreadable(video_id, str(error))
            self._store.agenda.remove(due.VIDEOS, video_id)
        return None

    def _count_missing(self, video: Video, model: str) -> tuple[list[int], float]:
        """Reads the marks from the archive; returns the segments to encode, and when the video is due again.

        Raises DamagedState.
        """
        due_at_s = self._recount(video)
        most = self._settings.max_pending_segments
        (missing,) = self._store.coverage.list_pending([video.id], model, most)
        if missing is None:
            raise DamagedState(f"the marks of {video.id} were damaged again while they were read from the archive")
        return missing, due_at_s

    def _recount(self, video: Video) -> float:
        """Reads the marks from the archive if they are lost; returns when the video is due again."""
        self._store.count_video(video)
        return self._store.agenda.postpone(due.VIDEOS, video.id, in_s=self._settings.recheck_after_s)

    def _inspect_duplicate(self, video: Video) -> None:
        """Follows the video whose frames it uses: fails if that one failed, is sampled if that one is gone."""
        assert video.duplicate_of is not None
        due_at_s = self._recount(video)  # a duplicate has no segments, but this finds its open questions
        try:
            holder = self._store.read_video(video.duplicate_of)
        except NotFound:
            self._store.index.remove_duplicate(video.id, video.duplicate_of)
            self._store.update_video(video.model_copy(update={"status": "queued", "duplicate_of": None}))
            return
        if holder.status == "failed":
            problem = holder.problem or Problem(code="internal", message=f"{holder.id} has the same content and failed")
            self._store.index.remove_duplicate(video.id, holder.id)
            changes = {"status": "failed", "duplicate_of": None, "problem": problem}
            self._store.update_video(video.model_copy(update=changes))
            return
        for question_id in self._store.agenda.list_waiting(video.id, None):
            self.inspect_question(question_id)
        if holder.settled:
            self._store.agenda.finish(due.VIDEOS, video.id, due_at_s)

    # questions

    def inspect_question(self, question_id: str, known: Question | None = None) -> None:
        """Queues the question if its stretch is encoded. Otherwise the question waits without occupying a worker."""
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
        if question.video_id != holder.id:  # it may have waited before its video was known as a duplicate
            self._store.agenda.stop_waiting(question.video_id, [question_id])
        if question.settled:
            self._store.agenda.remove(due.QUESTIONS, question_id)
            self._store.agenda.stop_waiting(holder.id, [question_id])
            return
        self._store.agenda.postpone(due.QUESTIONS, question_id, in_s=self._settings.recheck_after_s)
        self._queue_or_wait(question, holder)

    def inspect_found_question(self, question_id: str) -> None:
        """Inspects a question found in the archive. It stays on the agenda only if it is unsettled."""
        self._store.agenda.put(due.QUESTIONS, question_id)
        self.inspect_question(question_id)
        self._store.agenda.remove(due.FOUND, question_id)

    def wake_questions(self, holder_id: str, encoded: int | None = None) -> None:
        """Inspects the questions whose frames may now be encoded.

        These are the ones that wait for segments up to the first gap, and those whose last segment is `encoded`, which
        was just encoded, or a little later: segments of a stretch do not end in order.
        """
        if not self._store.agenda.list_waiting(holder_id, None):
            return
        holder = self._store.read_video(holder_id)
        (totals,) = self._store.coverage.read_totals([holder_id], self._store.workers.read_model())
        if totals is None:
            return
        whole = holder.is_live or describe_progress(holder, totals).complete  # a stream's gaps are never encoded
        reached = None if whole else totals.encoded_segments - 1
        ready = self._store.agenda.list_waiting(holder_id, reached)
        if encoded is not None:
            ready += self._store.agenda.list_waiting(holder_id, encoded + self._settings.max_pending_segments, encoded)
        for question_id in dict.fromkeys(ready):
            self.inspect_question(question_id)

    def _find_holder(self, question: Question) -> Video | None:
        """Returns the video that holds the frames. Raises NotFound if the question's own video was deleted.

        Returns None if the holder was deleted, because the question's own video must be sampled first.
        """
        try:
            return self._store.read_holder(question.video_id)
        except NotFound:
            video = self._store.read_video(question.video_id)
            self._store.agenda.put(due.VIDEOS, video.id)
            self._store.agenda.postpone(due.QUESTIONS, question.id, in_s=self._settings.reconcile_interval_s)
            return None

    def _queue_or_wait(self, question: Question, holder: Video) -> None:
        model = self._store.workers.read_model()
        stretch = find_stretch(self._store, question, holder, model)
        if stretch.is_ready(partial=question.partial):
            self._store.agenda.stop_waiting(holder.id, [question.id])
            if self.queues.enqueue_answer(question.id):
                self._store.set_question_state(question.id, "queued")
            return
        self._store.agenda.wait(holder.id, question.id, stretch.awaited_segment(partial=question.partial))
        self._store.set_question_state(question.id, "waiting")
        if 0 < stretch.ends_in_s < self._settings.recheck_after_s:
            self._store.agenda.postpone(due.QUESTIONS, question.id, in_s=stretch.ends_in_s)
        if model:  # these come before the rest of the video, and before videos that nobody asks about
            archived = [s for s in stretch.covered.missing() if not self._is_open(holder, s)]
            wanted = archived[: self._settings.max_pending_segments]
            self.queues.ensure([encode_call(holder.id, segment) for segment in wanted])

    def _is_open(self, holder: Video, segment: int) -> bool:
        """Whether the segment of a stream is not in the archive yet: its frames are encoded as they come."""
        now_s = holder.grid.seconds(datetime.now(UTC)) if holder.is_live else math.inf
        return now_s < holder.grid.segment_start_s(segment + 1)

    # deliveries to webhooks

    def inspect_deliveries(self, item: str) -> None:
        """Queues the watch's job if one of its deliveries is due; notes when the next one is."""
        try:
            stream_id, watch_id = parse_agenda_item(item)
        except NotFound:
            self._store.agenda.remove(due.DELIVERIES, item)
            return
        due_at_s = self._store.agenda.postpone(due.DELIVERIES, item, in_s=self._settings.recheck_after_s)
        following = self._store.deliveries.find_next(stream_id, watch_id)
        if following is None:
            self._store.agenda.finish(due.DELIVERIES, item, due_at_s)
        elif following[1] > time.time():
            self._store.agenda.put(due.DELIVERIES, item, in_s=following[1] - time.time())
        elif not self.queues.ensure([deliver_call(stream_id, watch_id)]):  # its job may just be ending
            self._store.agenda.put(due.DELIVERIES, item, in_s=self._settings.reconcile_interval_s)
