"""Compares what should be with what is, and enqueues what is missing: the one cure for every lost job."""

import logging
import threading

from configs.settings import QueueSettings
from storage.errors import LongwatchError, NotFound
from storage.ids import QUESTION_ID
from storage.queues import ENCODE, encode_job_id
from storage.segments import SEGMENT_FRAMES
from storage.store import Store

log = logging.getLogger(__name__)


class Reconciler:
    """Covers a killed worker, a flushed Redis, a lost job and a retried one by the same look at the archive."""

    def __init__(self, store: Store, settings: QueueSettings) -> None:
        self._store = store
        self._settings = settings

    def run_forever(self, stop: threading.Event) -> None:
        """One pass every `reconcile_interval_s` until `stop` is set; a failing pass is logged, the next one comes."""
        while not stop.wait(self._settings.reconcile_interval_s):
            try:
                self.run_once()
            except LongwatchError as error:
                log.error("reconciler: %s", error)

    def run_once(self) -> None:
        """One pass, unless another process is at it."""
        with self._store.hot.lock("reconciler", hold_s=60, wait_s=0.01) as got:
            if not got:
                return
            self._store.queues.revive()
            if self._store.hot.scan_is_due():
                self._scan()
            for unfinished_id in self._store.hot.unfinished():
                self._settle(unfinished_id)

    def video(self, video_id: str) -> None:
        """Enqueues what the video lacks, a bounded number of segments at once; raises NotFound."""
        video = self._store.archive.video(video_id)
        if not video.settled:
            self._store.queues.ingest(video_id)
        counts = self._store.counts(video_id)
        missing = counts.missing()
        if video.settled and not missing:
            self._store.hot.mark_finished(video_id)
        pending = 0
        for segment in missing:
            if pending == self._settings.max_pending_segments:
                break
            if video.settled or counts.frames[segment] == SEGMENT_FRAMES:  # a growing segment can wait until it is full
                self._store.queues.encode(video_id, segment)
                pending += self._store.queues.is_live(ENCODE, encode_job_id(video_id, segment))

    def _settle(self, unfinished_id: str) -> None:
        try:
            if QUESTION_ID.fullmatch(unfinished_id):
                self._question(unfinished_id)
            else:
                self.video(unfinished_id)
        except NotFound:
            self._store.hot.mark_finished(unfinished_id)

    def _question(self, question_id: str) -> None:
        if self._store.archive.question(question_id).settled:
            self._store.hot.mark_finished(question_id)
        else:
            self._store.queues.answer(question_id)

    def _scan(self) -> None:
        """Marks whatever the archive knows to be unfinished: a new or flushed Redis knows nothing of it."""
        log.info("looking through the archive for unfinished work")
        for video_id in self._store.archive.video_ids():
            self._store.hot.mark_unfinished(video_id)
            for question_id in self._store.archive.question_ids(video_id):
                self._store.hot.mark_unfinished(question_id)
