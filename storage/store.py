"""All of storage in one hand: reads through the hot copy to the archive, and writes to both in the right order."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from configs.settings import Settings
from storage.answers import Answers
from storage.archive import Archive
from storage.errors import Conflict, DamagedRecord, ForeignRecord, NotFound
from storage.hot import Hot, connect
from storage.models import Progress, Question, Video
from storage.queues import Queues
from storage.records import Record, from_bytes
from storage.segments import SEGMENT_FRAMES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counts:
    """Frames and encoded frames per segment, and since when (epoch seconds) and from where encoding is measured."""

    frames: dict[int, int]
    tokens: dict[int, int]
    since_s: int
    base: int

    def missing(self) -> list[int]:
        """Segments whose record does not cover all their frames, ascending."""
        return sorted(s for s, n in self.frames.items() if self.tokens.get(s, 0) < n)

    def contiguous(self) -> int:
        """How many frames from the start are encoded without a gap."""
        total = 0
        for expected, segment in enumerate(sorted(self.frames)):
            encoded = self.tokens.get(segment, 0)
            if segment != expected:
                break
            total += encoded
            if encoded < SEGMENT_FRAMES:
                break
        return total


class Store:
    """The parts of storage, opened once per process with `Store.open` and passed down."""

    def __init__(self, archive: Archive, hot: Hot, answers: Answers, queues: Queues) -> None:
        self.archive = archive
        self.hot = hot
        self.answers = answers
        self.queues = queues

    @classmethod
    def open(cls, settings: Settings) -> "Store":
        """The store that `settings` describe. Connects lazily; raises ArchiveUnavailable or RedisUnavailable."""
        redis = connect(settings.redis_url, settings.redis)
        return cls(
            Archive(settings.archive_url),
            Hot(redis, settings.redis),
            Answers(redis, settings.redis),
            Queues(redis, settings.queues),
        )

    # records

    def record(self, video_id: str, segment: int, fingerprint: str) -> Record | None:
        """The segment's record by this model: the hot copy, else the archive's. None where it has to be made.

        A damaged or foreign record is reported by path, forgotten, and the reconciler has it made again.
        """
        blob = self.hot.record(video_id, segment)
        if blob is not None:
            try:
                return from_bytes(blob, f"hot copy of segment {segment} of {video_id}", fingerprint)
            except (DamagedRecord, ForeignRecord) as error:
                log.warning("%s", error)
        try:
            record = self.archive.record(video_id, segment, fingerprint)
        except (DamagedRecord, ForeignRecord) as error:
            log.error("%s", error)
            self.hot.drop_record(video_id, segment)
            self.hot.set_count(video_id, f"tokens:{segment}", 0)
            self.hot.mark_unfinished(video_id)
            return None
        if record is not None:
            self.hot.put_record(video_id, segment, record.to_bytes())
        return record

    def put_record(self, video_id: str, segment: int, record: Record) -> None:
        """Keeps the record: first in the archive, then hot, then in the counters."""
        self.archive.put_record(video_id, segment, record)
        self.hot.put_record(video_id, segment, record.to_bytes())
        self.hot.set_count(video_id, f"tokens:{segment}", len(record))

    @contextmanager
    def segment_lock(self, video_id: str, segment: int, hold_s: float, wait_s: float) -> Iterator[bool]:
        """Keeps others from working on the segment meanwhile; yields False where another holds it."""
        with self.hot.lock(f"{video_id}:{segment}", hold_s, wait_s) as got:
            yield got

    # frames and progress

    def put_frames(
        self, video_id: str, first_index: int, pictures: Sequence[bytes], timestamps_s: Sequence[float]
    ) -> None:
        """Appends frames of one segment (see Archive.put_frames) and counts them."""
        self.archive.put_frames(video_id, first_index, pictures, timestamps_s)
        segment = first_index // SEGMENT_FRAMES
        count = first_index % SEGMENT_FRAMES + len(pictures)
        self.hot.set_count(video_id, f"frames:{segment}", count)

    def counts(self, video_id: str) -> Counts:
        """The video's counters; rebuilt from the archive where Redis has lost them."""
        raw = self.hot.counts(video_id)
        if raw is None or "base" not in raw:
            self.hot.begin_counts(video_id)
            self.hot.fill_counts(video_id, self._counted_in_archive(video_id))
            raw = self.hot.counts(video_id) or {}
        frames = {int(name[7:]): n for name, n in raw.items() if name.startswith("frames:")}
        tokens = {int(name[7:]): n for name, n in raw.items() if name.startswith("tokens:")}
        return Counts(frames, tokens, raw.get("since_s", int(time.time())), raw.get("base", 0))

    def progress(self, video: Video) -> Progress:
        """How far the video is. A duplicate is as far as the video that holds its frames."""
        if video.duplicate_of:
            return self.progress(self.archive.video(video.duplicate_of))
        counts = self.counts(video.id)
        sampled, encoded = sum(counts.frames.values()), sum(counts.tokens.values())
        expected = video.frames_sampled if video.frames_sampled is not None else video.frames_expected
        complete = video.settled and encoded >= sampled
        return Progress(
            frames_sampled=sampled,
            frames_expected=expected,
            frames_encoded=encoded,
            encoded_until_s=counts.contiguous() / video.sample_fps,
            eta_s=0.0 if complete else _eta_s(encoded, expected, counts),
            hot_bytes=self.hot.record_bytes(video.id, len(counts.frames)),
            complete=complete,
        )

    def _counted_in_archive(self, video_id: str) -> dict[str, int]:
        counts = {"base": 0}
        fingerprint = self.hot.model()
        for segment in self.archive.segments(video_id):
            frames = len(self.archive.timestamps_s(video_id, segment))
            try:
                record = self.archive.record(video_id, segment, fingerprint)
            except (DamagedRecord, ForeignRecord) as error:
                log.error("%s", error)
                record = None
            counts[f"frames:{segment}"] = frames
            counts[f"tokens:{segment}"] = min(len(record), frames) if record else 0
            counts["base"] += counts[f"tokens:{segment}"]
        return counts

    # videos and questions

    def add_video(self, video: Video) -> None:
        """Keeps a new video and has it ingested.

        The reconciler is told first: where Redis is away nothing was kept, and where it goes away now nothing waits
        for ever.
        """
        self.hot.mark_unfinished(video.id)
        self.archive.put_video(video)
        self.hot.begin_counts(video.id)
        self.hot.fill_counts(video.id, {"base": 0})
        self.queues.ingest(video.id)

    def update_video(self, video: Video) -> None:
        """Keeps a change of the video; raises NotFound once it was deleted, if only at this very moment."""
        self.archive.video(video.id)
        self.archive.put_video(video)
        if self.hot.was_deleted(video.id):
            self.archive.delete_video(video.id)
            raise NotFound(f"video {video.id} was deleted meanwhile")

    def holder(self, video_id: str) -> Video:
        """The video whose frames and records stand for `video_id`: itself, or the one it duplicates."""
        video = self.archive.video(video_id)
        return self.holder(video.duplicate_of) if video.duplicate_of else video

    def delete_video(self, video_id: str) -> None:
        """Removes the video, its jobs and its records; raises NotFound, and Conflict while others lean on it."""
        if not self.archive.holds(video_id):
            raise NotFound(f"no video {video_id}: `longwatch list` shows the ids")
        self.hot.mark_deleted(video_id)  # before looking: who begins to lean on it from now on looks for the mark
        leaning = [video.id for video in self.archive.videos() if video.duplicate_of == video_id]
        if leaning:
            self.hot.unmark_deleted(video_id)
            raise Conflict(f"{video_id} holds the frames of {', '.join(leaning)} (same content); delete these first")
        segments = self.archive.segments(video_id)
        self.queues.drop(video_id)
        self.archive.delete_video(video_id)
        self.hot.forget_video(video_id, max(segments, default=-1) + 1)

    def add_question(self, question: Question) -> None:
        """Keeps a new question and has it answered; raises NotFound. The reconciler is told first, as of a video."""
        self.hot.mark_unfinished(question.id)
        self.archive.put_question(question)
        self.queues.answer(question.id)

    def settle_question(self, question: Question) -> None:
        """Keeps the question's end (done, failed or cancelled) and tells the readers of its pieces."""
        self.archive.put_question(question)
        self.hot.mark_finished(question.id)
        self.answers.send(question.id, "error" if question.status == "failed" else "done")

    def same_content(self, video: Video) -> Video | None:
        """Another video that was, or is being, sampled in the same way from the same bytes, if there is one."""
        owner_id = self.archive.content_owner(video)
        if owner_id is None or owner_id == video.id:
            return None
        try:
            owner = self.archive.video(owner_id)
        except NotFound:
            return None  # it was deleted since
        return owner if owner.sha256 == video.sha256 and owner.status not in ("failed", "duplicate") else None


def _eta_s(encoded: int, expected: int | None, counts: Counts) -> float | None:
    done, elapsed_s = encoded - counts.base, time.time() - counts.since_s
    if expected is None or done <= 0:
        return None
    return round(elapsed_s / done * max(expected - encoded, 0), 1)
