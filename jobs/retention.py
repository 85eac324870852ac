"""Removes what streams need not keep any longer: whole segments and recordings, the oldest first."""

import heapq
import logging
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from configs.settings import RetentionSettings
from storage import agenda as due
from storage.documents import Video
from storage.errors import DamagedFile, LongwatchError, NewerDocument, NotFound
from storage.ids import video_of
from storage.live_documents import Event
from storage.sizes import HeldBytes
from storage.store import Store
from storage.timeline import locate
from storage.watch_intervals import count_intervals, count_slots

log = logging.getLogger(__name__)

GB = 1e9
MOST_STREAMS = 1000
MOST_SEGMENTS = 256  # removed of one stream in one pass: the next pass goes on
LOOK_SEGMENTS = 4096  # read at once when the oldest ones are looked for: three days at 1 fps


class Oldest(NamedTuple):
    """The oldest segment of a stream that may go."""

    starts_at: datetime
    stream_id: str
    segment: int
    bytes: int


class Retention:
    """One pass looks at all streams. What it removes stays in the stream's document as a time (`removed_until_s`)."""

    def __init__(self, store: Store, settings: RetentionSettings) -> None:
        self._store = store
        self._settings = settings

    def run_once(self, renew_lease: Callable[[], bool]) -> None:
        """Removes what is too old, and what exceeds a limit. A stream that fails does not stop the others."""
        streams = self._store.read_videos(self._store.index.list_streams(None, MOST_STREAMS))
        kept_from = self._find_protected(streams)
        for stream in streams:
            if not renew_lease():
                return
            try:
                self._apply_limits(stream, kept_from[stream.id])
            except NotFound:
                continue  # deleted meanwhile
            except (DamagedFile, NewerDocument) as error:
                log.error("retention of %s: %s", stream.id, error)
        self._apply_global_limits(streams, kept_from)

    def _find_protected(self, streams: Sequence[Video]) -> dict[str, int]:
        """Stream -> the first segment that must stay: unsettled questions and windows of watches need it."""
        kept = {stream.id: self._find_window(stream) for stream in streams}
        by_id = {stream.id: stream for stream in streams}
        for question_id in self._store.agenda.list_all(due.QUESTIONS):
            stream = by_id.get(video_of(question_id))
            if stream is not None:
                try:
                    question = self._store.read_question(question_id)
                except LongwatchError as error:
                    log.warning("retention keeps everything of %s for now: %s", stream.id, error)
                    kept[stream.id] = 0
                    continue
                segment, _ = locate(stream.grid.slot_at(question.start_s))
                kept[stream.id] = min(kept[stream.id], segment)
        return kept

    def _find_window(self, stream: Video) -> int:
        """The segment in which the longest window of its watches begins; the last but one without watches."""
        now_slot = stream.grid.slot_at(stream.grid.seconds(datetime.now(UTC)))
        watches = self._store.watches.list_watches(stream.id)
        slots = max((count_slots(w, stream.sample_fps) * (count_intervals(w) + 2) for w in watches), default=0)
        return max(locate(max(now_slot - slots, 0))[0] - 1, 0)

    def _apply_limits(self, stream: Video, kept_from: int) -> None:
        """Applies the stream's own limits."""
        assert stream.capture is not None, "a stream has one"
        limits, now_s = stream.capture.retention, stream.grid.seconds(datetime.now(UTC))
        (held,) = self._store.sizes.read_totals([stream.id])
        too_much = held.frames - limits.max_gb * GB if limits.max_gb is not None else 0.0
        until = 0
        if limits.max_age_h is not None:
            until, _ = locate(max(stream.grid.slot_at(now_s - limits.max_age_h * 3600), 0))
            self._store.events.forget_before(stream.id, datetime.now(UTC) - timedelta(hours=limits.max_age_h))
        self._remove_segments(stream, min(until, kept_from), kept_from, too_much)
        self._limit_recordings(stream, held, now_s)

    def _remove_segments(self, stream: Video, until: int, kept_from: int, too_much: float) -> None:
        """Removes the segments before `until`, and more while `too_much` bytes are not yet freed."""
        first, _ = locate(stream.grid.slot_at(stream.removed_until_s))
        stop, removed = max(until, first), 0
        sizes = self._store.sizes.read_segments(stream.id, range(first, max(kept_from, first)))
        for segment, size in sizes.items():
            if segment >= until and too_much <= 0:
                break
            if removed == MOST_SEGMENTS:
                stop = min(stop, segment)
                break
            self._remove_segment(stream, segment)
            stop, too_much, removed = max(stop, segment + 1), too_much - size, removed + 1
        if stop > first:
            until_s = stream.grid.segment_start_s(stop)
            self._store.change_stream(stream.id, lambda video: video.model_copy(update={"removed_until_s": until_s}))

    def _remove_segment(self, stream: Video, segment: int) -> None:
        covered = self._store.read_coverage(stream, range(segment, segment + 1), "")
        self._store.archive.delete_frames(stream.id, segment)
        self._store.coverage.remove_segment(stream.id, segment, covered.sampled.get(segment, 0))
        self._store.sizes.remove_segments(stream.id, [segment])

    def _limit_recordings(self, stream: Video, held: HeldBytes, now_s: float) -> None:
        """Applies the limits of recordings; without one, those of the frames."""
        assert stream.capture is not None, "a stream has one"
        limits = stream.capture.retention
        age_h = limits.max_age_h if limits.recordings_max_age_h is None else limits.recordings_max_age_h
        too_much = held.recordings - limits.recordings_max_gb * GB if limits.recordings_max_gb is not None else 0.0
        until_s = now_s - age_h * 3600 if age_h is not None else 0.0
        if too_much <= 0 and until_s <= 0:
            return
        doomed = []
        for recording in self._store.recordings.list_oldest(stream.id, MOST_SEGMENTS):
            if recording.end_s > until_s and too_much <= 0:
                break
            doomed.append(recording)
            too_much -= recording.size_bytes
        if doomed:
            self._store.delete_recordings(stream.id, doomed)
            ended_s = max(recording.end_s for recording in doomed)
            self._store.change_stream(
                stream.id, lambda video: video.model_copy(update={"recordings_removed_until_s": ended_s})
            )

    # limits of all streams together

    def _apply_global_limits(self, streams: Sequence[Video], kept_from: dict[str, int]) -> None:
        """Removes the oldest segments of all streams until they fit, and the archive's disk has room again."""
        too_much, because = self._find_excess(streams)
        if too_much <= 0:
            return
        by_id = {stream.id: stream for stream in streams}
        queue = [oldest for stream in streams if (oldest := self._find_oldest(stream, 0, kept_from[stream.id]))]
        heapq.heapify(queue)
        until: dict[str, int] = {}
        for _ in range(MOST_SEGMENTS):
            if too_much <= 0 or not queue:
                break
            oldest = heapq.heappop(queue)
            stream = by_id[oldest.stream_id]
            self._remove_segment(stream, oldest.segment)
            freed = self._remove_recordings_of(stream, oldest.segment)
            too_much -= oldest.bytes + freed
            until[stream.id] = oldest.segment + 1
            following = self._find_oldest(stream, oldest.segment + 1, kept_from[stream.id])
            if following:
                heapq.heappush(queue, following)
        for stream_id, segment in until.items():
            self._note_removal(by_id[stream_id], segment, because)

    def _find_excess(self, streams: Sequence[Video]) -> tuple[float, str]:
        """How many bytes must go, and why."""
        held = self._store.sizes.read_totals([stream.id for stream in streams])
        limit_gb, total = self._settings.max_gb, sum(each.frames + each.recordings for each in held)
        excess = total - limit_gb * GB if limit_gb is not None else 0.0
        root = self._store.archive.files.local_path("")
        free = shutil.disk_usage(root).free if root is not None and Path(root).is_dir() else None
        lacking = self._settings.min_free_disk_gb * GB - free if free is not None else 0.0
        if lacking > excess:
            return (
                lacking,
                f"the archive's disk is nearly full (retention.min_free_disk_gb: {free or 0:.0f} bytes free)",
            )
        return excess, f"all streams together exceed {limit_gb} GB (retention.max_gb)"

    def _find_oldest(self, stream: Video, first: int, kept_from: int) -> Oldest | None:
        assert stream.recorded_at is not None, "a stream has a grid in wall-clock time"
        first = max(first, locate(stream.grid.slot_at(stream.removed_until_s))[0])
        while first < kept_from:
            sizes = self._store.sizes.read_segments(stream.id, range(first, min(first + LOOK_SEGMENTS, kept_from)))
            for segment, size in sizes.items():
                starts_at = stream.recorded_at + timedelta(seconds=stream.grid.segment_start_s(segment))
                return Oldest(starts_at, stream.id, segment, size)
            first += LOOK_SEGMENTS
        return None

    def _remove_recordings_of(self, stream: Video, segment: int) -> int:
        recordings = self._store.recordings.list_segments(stream.id, range(segment, segment + 1))
        self._store.delete_recordings(stream.id, recordings)
        return sum(recording.size_bytes for recording in recordings)

    def _note_removal(self, stream: Video, segment: int, because: str) -> None:
        """Notes until when a stream was removed; an event says so once an hour."""
        until_s, now = stream.grid.segment_start_s(segment), datetime.now(UTC)
        changes = {"removed_until_s": until_s, "recordings_removed_until_s": until_s}
        try:
            self._store.change_stream(stream.id, lambda video: video.model_copy(update=changes))
            message = (
                f"what was captured before {stream.grid.clock(until_s):%Y-%m-%d %H:%M:%S} UTC was removed: {because}"
            )
            event = Event(id="", type="retention", stream_id=stream.id, at=now, message=message)
            self._store.events.publish(event, f"retention:{now:%Y%m%d-%H}")
        except NotFound:
            log.info("stream %s was deleted meanwhile", stream.id)
