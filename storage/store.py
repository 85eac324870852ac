"""The one entrance to storage: writes to archive, state and cache in the right order, and reads from the cheapest."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from configs.settings import Settings
from storage import agenda as due
from storage.agenda import Agenda
from storage.answers import Answers
from storage.archive import Archive
from storage.cache import Cache
from storage.connection import connect
from storage.coverage import Coverage, Covered, Totals
from storage.deliveries import Deliveries
from storage.documents import Progress, Question, QuestionState, Video
from storage.errors import (
    ArchiveUnavailable,
    DamagedFile,
    DamagedState,
    GivenAway,
    NewerDocument,
    NotFound,
    RedisUnavailable,
)
from storage.events import Events
from storage.fences import Fence, Fences
from storage.ids import check_video_id, video_of
from storage.index import Index
from storage.leases import Leases
from storage.locks import Locks
from storage.open_frames import OpenFrames
from storage.progress import describe_progress
from storage.recordings import Recording, Recordings
from storage.records import Half, Record
from storage.segments import SegmentFrame
from storage.sizes import Sizes
from storage.stream_states import StreamStates
from storage.timeline import locate
from storage.watch_trials import WatchTrials
from storage.watches import Watches
from storage.workers import Workers

log = logging.getLogger(__name__)

# Upper limit of one MGET, so that it ends within seconds: about an hour of tokens at 8B shapes.
TOKENS_AT_ONCE_BYTES = 32 * 1024**2
CHANGE_S = 5.0  # longest change of a document
LONGEST_GROUP_S = 300.0  # a recording ends at a keyframe, up to so long after its segment
UNWRITTEN_S = 60.0  # after this long without a document, assume that its writer died


class Store:
    """The parts of storage, opened once per process with `Store.open` and passed down."""

    def __init__(self, settings: Settings) -> None:
        state = connect(settings.state_url, settings.redis)
        self.state = state
        self.archive = Archive(settings.archive_url, settings.archive.options)
        self.index = Index(state)
        self.coverage = Coverage(state)
        self.agenda = Agenda(state)
        self.answers = Answers(state, settings.redis)
        self.sizes = Sizes(state)
        self.recordings = Recordings(state)
        self.events = Events(state, self.archive, settings.events)
        self.deliveries = Deliveries(state)
        self.fences = Fences(state)
        self.locks = Locks(state)
        self.workers = Workers(state)
        cache = connect(settings.cache_url, settings.redis)
        self.cache = Cache(cache, settings.redis)
        self.open_frames = OpenFrames(state, cache)
        self.stream_states = StreamStates(state)
        self.watches = Watches(state, self.archive)
        self.watch_trials = WatchTrials(cache)
        self.captures = Leases(state, "capture")  # which host captures which stream
        self.live_encoders = Leases(state, "encode")  # which encoder worker encodes which stream's open segment

    @classmethod
    def open(cls, settings: Settings) -> "Store":
        """The store that `settings` describe. Connects lazily; raises ArchiveUnavailable or RedisUnavailable."""
        return cls(settings)

    def check_archive(self) -> None:
        """Raises ArchiveUnavailable if the archive cannot be written, or is not the one that the state knows.

        An unmounted disk leaves an empty folder behind, and writing to that folder works.
        """
        self.archive.files.check()
        try:
            newest = self.index.list_videos(None, 1)
            lost = [video_id for video_id in newest if not self.index.is_deleted(video_id)]
        except (RedisUnavailable, DamagedState) as error:
            log.warning("cannot compare the archive with the state: %s", error)
            return
        if lost and not self.archive.has_video(lost[0]) and self.index.list_videos(None, 1) == lost:
            raise ArchiveUnavailable(
                f"the archive at {self.archive.files.full('')} does not hold {lost[0]}, which the state knows: mount "
                "its disk, or correct archive.url; if it is a restored backup, flush the state"
            )

    # videos

    def read_video(self, video_id: str) -> Video:
        """The video's document: the copy in Redis, else the archive's. Raises NotFound, DamagedFile, NewerDocument."""
        video = self.index.get_video(check_video_id(video_id))
        if video is None:
            video = self.archive.read_video(video_id)
            self.index.put_video(video)
        return video

    def read_videos(self, video_ids: Sequence[str]) -> list[Video]:
        """The documents of these videos, without those that were deleted meanwhile or cannot be read."""
        copies = self.index.get_videos(video_ids)
        videos = []
        for video_id, copy in zip(video_ids, copies, strict=True):
            try:
                videos.append(copy or self.read_video(video_id))
            except NotFound:
                self.index.forget_video(video_id)
            except (DamagedFile, NewerDocument) as error:
                self.index.report_unreadable(video_id, str(error))
        return videos

    def read_holder(self, video_id: str) -> Video:
        """The video that holds the frames and records of `video_id`: itself, or the one it duplicates."""
        video = self.read_video(video_id)
        return self.read_holder(video.duplicate_of) if video.duplicate_of else video

    def add_video(self, video: Video) -> None:
        """Stores a new video; it is due at once.

        It goes on the agenda before its document is written and again after it, so a process that dies in between
        loses nothing. The first entry is not due yet, so nobody looks for the document too early.
        """
        self.agenda.put(due.VIDEOS, video.id, in_s=UNWRITTEN_S)
        self.archive.write_video(video)
        self.coverage.set_counted(video.id)
        self.index.put_video(video)
        self.agenda.put(due.VIDEOS, video.id)

    def update_video(self, video: Video, fence: Fence | None = None) -> None:
        """Stores a change; raises GivenAway if the attempt was replaced, NotFound if the video was deleted."""
        if fence is not None:
            self.fences.check(fence)
        if not self.archive.has_video(video.id):
            raise NotFound(f"video {video.id} was deleted meanwhile")
        self.archive.write_video(video)
        self.index.put_video(video)
        if self.index.is_deleted(video.id):
            self.archive.delete_video(video.id)
            self.forget_video(video)
            raise NotFound(f"video {video.id} was deleted meanwhile")
        self.agenda.put(due.VIDEOS, video.id)

    def change_stream(self, stream_id: str, change: Callable[[Video], Video]) -> Video:
        """Changes a stream's document; changes by different processes do not undo each other.

        Raises NotFound, also for a video that is no stream, and RedisUnavailable if others hold it for too long.
        """
        with self.locks.hold(f"stream:{stream_id}", CHANGE_S, wait_s=CHANGE_S) as held:
            if held is None:
                raise RedisUnavailable(f"{stream_id} is being changed by another process for too long: try again")
            video = self.read_stream(stream_id)
            changed = change(video)
            if changed != video:
                self.update_video(changed)
            return changed

    def read_stream(self, stream_id: str) -> Video:
        """The document of a stream; raises NotFound, also for a video that is no stream."""
        video = self.read_video(stream_id)
        if not video.is_live:
            raise NotFound(f"{stream_id} is a video, not a stream")
        return video

    def forget_video(self, video: Video | str) -> None:
        """Removes a deleted video from Redis, given its document or, if that is lost, its id."""
        video_id = video if isinstance(video, str) else video.id
        self.index.forget_video(video)
        if isinstance(video, str) or video.is_live:
            models = self.coverage.list_models()
            self.open_frames.forget(video_id, models)
            self.watches.forget_stream(video_id, models)
        self.coverage.forget(video_id)
        self.sizes.forget(video_id)
        self.recordings.forget(video_id)
        self.agenda.forget_video(video_id)
        self.events.forget_stream(video_id)
        self.fences.close(video_id)

    def claim_content(self, video: Video) -> str | None:
        """Makes the video the owner of its content. If another video owns it already, returns that one's id."""
        key = video.content_key
        assert key is not None, "content is claimed once it is known"
        owner_id = self.index.claim_content(key, video.id)
        if owner_id == video.id:
            return None
        try:
            owner = self.read_video(owner_id)
        except NotFound:
            owner = None
        lost = owner is None or owner.content_key != key or owner.status in ("failed", "duplicate")
        if lost or self.index.is_deleted(owner_id):
            self.index.release_content(key, owner_id)
            return self.claim_content(video)
        return owner_id

    # segments and records

    def create_segment(self, video_id: str, segment: int, frames: Sequence[SegmentFrame]) -> None:
        """Stores a whole segment's pictures (see Archive.create_segment) and marks it as sampled."""
        mask = self.archive.create_segment(video_id, segment, frames)
        self.sizes.set_frames(video_id, {segment: self.archive.measure_frames(video_id, segment, mask)})
        self.coverage.mark_sampled(video_id, {segment: mask})

    def add_frames(self, stream_id: str, segment: int, frames: Sequence[SegmentFrame]) -> None:
        """Adds captured frames of a stream's open segment, so that they can be encoded and asked about."""
        self.open_frames.add_frames(stream_id, segment, frames)

    def close_segment(self, stream_id: str, segment: int, frames: Sequence[SegmentFrame]) -> int:
        """Stores a segment of a stream (see Archive.merge_segment), marks it as sampled; returns its mask."""
        mask = self.archive.merge_segment(stream_id, segment, frames)
        self.sizes.set_frames(stream_id, {segment: self.archive.measure_frames(stream_id, segment, mask)})
        self.coverage.mark_live(stream_id, segment, mask)
        self.open_frames.remove_segment(stream_id, segment)
        self.agenda.put(due.VIDEOS, stream_id)
        return mask

    def create_record(self, video_id: str, segment: int, record: Record) -> None:
        """Stores a segment's record in the archive, then in the cache, then marks the segment as encoded."""
        size = self.archive.create_record(video_id, segment, record)
        self.sizes.set_records(video_id, record.fingerprint, {segment: size})
        self.cache.write_record(video_id, segment, record)
        self.coverage.mark_encoded(video_id, {segment: record.mask}, record.fingerprint)

    def read_tokens(
        self,
        video_id: str,
        segments: Sequence[int],
        fingerprint: str,
        *,
        wanted: Mapping[int, int] | None = None,
    ) -> dict[int, tuple[int, Half] | None]:
        """Segment -> (mask, tokens (n,C,D)); None if the record was lost: the segment is encoded again.

        `wanted` (segment -> mask) is given for a stream: its segments can be open, or can have grown.
        """
        found: dict[int, tuple[int, Half] | None] = {}
        first, count = 0, 1  # the first segment shows how large they are
        while first < len(segments):
            chunk = segments[first : first + count]
            found |= self.cache.read_tokens(video_id, chunk, fingerprint)
            for segment in chunk:
                if wanted is not None and not _covers(found.get(segment), wanted[segment]):
                    found[segment] = self._read_live_tokens(video_id, segment, fingerprint, wanted[segment])
                elif segment not in found:
                    record = self.read_record(video_id, segment, fingerprint)
                    found[segment] = None if record is None else (record.mask, record.tokens)
            largest_bytes = max(kept[1].nbytes if (kept := found[segment]) else 0 for segment in chunk)
            first, count = first + count, max(TOKENS_AT_ONCE_BYTES // largest_bytes, 1) if largest_bytes else count
        return found

    def _read_live_tokens(self, stream_id: str, segment: int, fingerprint: str, wanted: int) -> tuple[int, Half] | None:
        kept = self.open_frames.read_tokens(stream_id, segment, fingerprint)
        if _covers(kept, wanted):
            return kept
        record = self.read_record(stream_id, segment, fingerprint)
        if record is None or not wanted & ~record.mask:
            return None if record is None else (record.mask, record.tokens)
        self.drop_record(stream_id, segment, record)
        return None

    def drop_record(self, stream_id: str, segment: int, record: Record) -> None:
        """Removes a record whose segment has grown since: the segment is encoded again."""
        self.archive.delete_record(stream_id, segment, record.fingerprint)
        self.sizes.set_records(stream_id, record.fingerprint, {segment: 0})
        self.coverage.unmark_encoded(stream_id, segment, record.mask, record.fingerprint)
        self.agenda.put(due.VIDEOS, stream_id)

    def read_record(self, video_id: str, segment: int, fingerprint: str) -> Record | None:
        """The segment's record from the archive, also cached; None if it was lost: the segment is encoded again."""
        record = self.archive.read_record(video_id, segment, fingerprint)
        if record is not None:
            self.cache.write_record(video_id, segment, record)
            return record
        mask = self.coverage.read(video_id, range(segment, segment + 1), fingerprint).sampled.get(segment, 0)
        self.coverage.unmark_encoded(video_id, segment, mask, fingerprint)
        self.agenda.put(due.VIDEOS, video_id)
        return None

    def add_recording(self, stream_id: str, recording: Recording, file: Path) -> None:
        """Copies or moves a recorded file into the archive, then adds it to the index."""
        self.archive.put_recording(stream_id, recording, file)
        self.recordings.add(stream_id, [recording])

    def list_recordings(self, stream: Video, start_s: float, end_s: float) -> list[Recording]:
        """The recordings that overlap a stretch, in order of time; a lost index is made again."""
        grid = stream.grid
        first, _ = locate(grid.slot_at(max(start_s - LONGEST_GROUP_S, 0.0)))
        last, _ = locate(grid.slot_at(max(end_s, 0.0)))
        self.count_video(stream)
        try:
            found = self.recordings.list_segments(stream.id, range(first, last + 1))
        except DamagedState as error:
            log.error("the recordings of %s are read from the archive again: %s", stream.id, error)
            self.coverage.forget(stream.id)
            self.count_video(stream)
            found = self.recordings.list_segments(stream.id, range(first, last + 1))
        return [recording for recording in found if recording.end_s > start_s and recording.start_s < end_s]

    def delete_recordings(self, stream_id: str, recordings: Sequence[Recording]) -> None:
        """Removes recordings from the archive, then from the index."""
        for recording in recordings:
            self.archive.delete_recording(stream_id, recording)
        self.recordings.remove(stream_id, recordings)

    # coverage

    def count_video(self, video: Video) -> None:
        """Makes the video's marks from one listing of the archive, if Redis lost them or holds damaged ones."""
        try:
            if self.coverage.is_counted(video.id):
                return
        except DamagedState as error:
            log.error("the marks of %s are read from the archive again: %s", video.id, error)
            self.coverage.forget(video.id)
        self.sizes.forget(video.id)  # before the listing: what is stored from now on is marked by its writer
        self.recordings.forget(video.id)
        contents = self.archive.list_contents(video.id)
        masks = dict(sorted(contents.sampled.items()))
        if masks and not video.is_live:  # only the last segment of a file can be shorter
            with self.archive.open_segment(video.id, max(masks)) as last:
                masks[max(masks)] = last.mask
        self.coverage.mark_sampled(video.id, masks)
        self.sizes.set_frames(video.id, contents.frames_bytes, keep=True)
        self.recordings.add(video.id, contents.recordings)
        held = sum(mask.bit_count() for mask in masks.values())
        if video.status == "ready" and held < (video.frames_sampled or 0):
            lost = f"the archive holds {held} of its {video.frames_sampled} frames; restore the others, or add it again"
            log.error("%s: %s", video.id, lost)
            self.index.report_unreadable(video.id, lost)
        for fingerprint, segments in contents.encoded.items():
            known = {segment: masks[segment] for segment in segments if segment in masks}
            self.coverage.mark_encoded(video.id, known, fingerprint)
            self.sizes.set_records(video.id, fingerprint, contents.records_bytes[fingerprint], keep=True)
        self.index.add_questions(video.id, contents.question_ids)
        self.agenda.put(due.FOUND, *contents.question_ids)
        self.agenda.put(due.VIDEOS, video.id)  # a failed segment is unfinished again, because its mark is gone
        self.coverage.set_counted(video.id)

    def read_coverage(self, video: Video, segments: range, fingerprint: str) -> Covered:
        """The segments of a stretch, for a video that holds its own frames; lost marks are made again."""
        try:
            covered = self.coverage.read(video.id, segments, fingerprint)
            if covered.totals is not None or not segments:
                return covered
        except (ValueError, DamagedState) as error:
            log.error("marks of %s in Redis are damaged (%s): reading them from the archive again", video.id, error)
            self.coverage.forget(video.id)
        self.count_video(video)
        return self.coverage.read(video.id, segments, fingerprint)

    def read_progress(self, videos: Sequence[Video]) -> list[Progress | None]:
        """How far each video is; a duplicate is as far as its holder. None while its marks are being rebuilt."""
        holders = {video.duplicate_of for video in videos if video.duplicate_of}
        known = {video.id: video for video in [*videos, *self.read_videos(sorted(holders))]}
        model = self.workers.read_model()
        totals = dict(zip(known, self._totals(list(known.values()), model), strict=True))
        holding = [known.get(video.duplicate_of or video.id, video) for video in videos]
        counts = [totals.get(video.id) for video in holding]
        return [
            None if count is None else describe_progress(video, count)
            for video, count in zip(holding, counts, strict=True)
        ]

    def _totals(self, videos: Sequence[Video], model: str) -> list[Totals | None]:
        try:
            return self.coverage.read_totals([video.id for video in videos], model)
        except (ValueError, DamagedState) as error:
            if len(videos) > 1:  # one video's marks are damaged: read each video alone
                return [totals for video in videos for totals in self._totals([video], model)]
            log.error("marks of %s are damaged (%s): reading them from the archive again", videos[0].id, error)
            self.coverage.forget(videos[0].id)
            self.agenda.put(due.VIDEOS, videos[0].id)
            return [None]

    # questions

    def add_question(self, question: Question) -> None:
        """Stores a new question; it is due at once. It goes on the agenda before and after, as a video does."""
        self.agenda.put(due.QUESTIONS, question.id, in_s=UNWRITTEN_S)
        self.archive.write_question(question)
        self.index.add_questions(question.video_id, [question.id])
        self.agenda.put(due.QUESTIONS, question.id)

    def read_question(self, question_id: str) -> Question:
        """The question as it is now; raises NotFound, DamagedFile, NewerDocument."""
        video_of(question_id)  # raises NotFound, so that foreign text never becomes a path or a key
        question = self.cache.read_settled([question_id])[0] or self.archive.read_question(question_id)
        return question if question.settled else self.index.with_states([question])[0]

    def read_questions(self, question_ids: Sequence[str]) -> list[Question]:
        """The documents of these questions, without those that were deleted meanwhile or cannot be read."""
        questions = []
        for question_id, copy in zip(question_ids, self.cache.read_settled(question_ids), strict=True):
            try:
                question = copy or self.archive.read_question(question_id)
            except NotFound:
                continue
            except (DamagedFile, NewerDocument) as error:
                self.index.report_unreadable(question_id, str(error))
                continue
            if copy is None and question.settled:
                self.cache.write_settled(question)
            questions.append(question)
        return self.index.with_states(questions)

    def set_question_state(self, question_id: str, state: QuestionState) -> None:
        """Stores an unsettled question's state and tells its readers of a change. The archive gets only the end."""
        self.answers.change_state(question_id, state)

    def settle_question(self, question: Question, fence: Fence | None = None, holder_id: str | None = None) -> None:
        """Stores a settled question; raises GivenAway, and NotFound if its video was deleted.

        `holder_id` is the video whose frames it was about, if the caller knows. The document is written before readers
        learn of the end. It never changes after that, even after a flush.
        """
        if fence is not None:
            self.fences.check(fence)
            if self.archive.read_question(question.id).settled:
                raise GivenAway(f"another attempt has ended {question.id}")
        self.archive.write_question(question)
        self.cache.write_settled(question)
        self.answers.settle(question.id, holder_id or self._find_holder_id(question.video_id))

    def _find_holder_id(self, video_id: str) -> str:
        try:
            return self.read_holder(video_id).id
        except (NotFound, DamagedFile, NewerDocument):
            return video_id


def _covers(kept: tuple[int, Half] | None, wanted: int) -> bool:
    return kept is not None and not wanted & ~kept[0]
