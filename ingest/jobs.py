"""The jobs that turn a submitted source into frames in the archive, and the one that delivers events."""

import errno
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from configs.settings import Settings
from ingest.errors import SourceError, SourceInterrupted, SourceUnavailable, UnsupportedSource
from ingest.files.fetch import fetch_file
from ingest.files.frame_encoding import EncodedFrame
from ingest.files.images import is_image, read_image
from ingest.files.local import find_allowed_file, hash_file
from ingest.files.source import VideoSource
from ingest.webhooks import Courier
from jobs.inspector import Inspector
from jobs.runner import note_progress
from playback.playable import PROBE_BYTES, find_media_type
from storage import agenda as due
from storage.documents import Problem, Video
from storage.errors import DamagedFile, DiskFull, NewerDocument, NotFound, Surroundings
from storage.fences import Fence
from storage.ids import VIDEO_ID
from storage.segments import SegmentFrame
from storage.store import Store
from storage.timeline import SEGMENT_SLOTS, locate

log = logging.getLogger(__name__)
ABANDONED_AFTER_S = 3600.0  # an upload in progress is younger
Work = Callable[[Video, Fence, Path], None]


class IngestJobs:
    """`fetch_video`, `ingest_video` and `deliver_events`.

    Segments are stored whole; the next attempt continues at the first missing one.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._inspector = Inspector(store, settings.jobs)
        self._courier = Courier(store, settings.events)

    def fetch_video(self, video_id: str) -> None:
        """Downloads the source into the archive; if it cannot, writes why to `video.json`. Raises SourceInterrupted."""
        file = self._settings.work_file(f"{video_id}.{secrets.token_hex(4)}")  # not that of an attempt taken for dead
        try:
            fence, video = self._begin(video_id)
            if not video.settled and not video.in_archive:
                self._remove_downloads(video_id)
                self._settle_source_errors(video, fence, self._fetch, file)
                self._inspector.inspect_video(video_id)
        except NotFound:
            log.info("video %s was deleted meanwhile", video_id)
        finally:
            file.unlink(missing_ok=True)

    def ingest_video(self, video_id: str) -> None:
        """Samples the video into the archive; if it cannot, writes why to `video.json`."""
        file = self._settings.work_file(video_id)
        try:
            fence, video = self._begin(video_id)
            if not video.settled:
                self._settle_source_errors(video, fence, self._ingest, file)
                self._inspector.inspect_video(video_id)
        except NotFound:
            log.info("video %s was deleted meanwhile", video_id)
        file.unlink(missing_ok=True)  # only a repeated attempt needs it

    def give_up_video(self, reason: str, video_id: str) -> None:
        """Settles the video as failed: the attempts are used up."""
        try:
            fence, video = self._begin(video_id)
            if not video.settled:
                message = f"{reason}; `longwatch retry {video_id}` tries again, logs/ingest.log in data_dir says more"
                fetched = video.kind != "url" or video.in_archive
                self._fail(video, fence, "internal" if fetched else "source-unavailable", message)
        except NotFound:
            log.info("video %s was deleted meanwhile", video_id)
        self._remove_downloads(video_id)

    def _remove_downloads(self, video_id: str) -> None:
        """Removes what earlier attempts left on this host; one that still runs finds that it was replaced."""
        for file in self._settings.work_dir.glob(f"{video_id}.*"):
            file.unlink(missing_ok=True)

    def deliver_events(self, stream_id: str, watch_id: str) -> None:
        """Posts the watch's events that are due to its webhook."""
        self._courier.deliver(stream_id, watch_id)

    def give_up_delivery(self, reason: str, stream_id: str, watch_id: str) -> None:
        """Gives up the watch's next delivery."""
        self._courier.give_up(reason, stream_id, watch_id)

    def sweep(self) -> None:
        """Removes this host's downloads that no unsettled video needs."""
        for file in self._settings.work_dir.glob("*"):
            try:
                if time.time() - file.stat().st_mtime > ABANDONED_AFTER_S and not self._is_needed(file):
                    file.unlink(missing_ok=True)
            except FileNotFoundError:
                continue  # a job on this host has just removed it
            except Surroundings as error:
                log.warning("cannot remove old files in %s for now: %s", self._settings.work_dir, error)
                return

    def _begin(self, video_id: str) -> tuple[Fence, Video]:
        """Takes the fence, then reads: an earlier attempt cannot settle the video between the two."""
        return self._store.fences.take(video_id), self._store.read_video(video_id)

    def _settle_source_errors(self, video: Video, fence: Fence, work: Work, file: Path) -> None:
        try:
            work(video, fence, file)
        except SourceInterrupted:
            raise  # the next attempt may succeed
        except SourceError as error:
            self._fail(self._store.read_video(video.id), fence, error.code, str(error))

    def _fetch(self, video: Video, fence: Fence, file: Path) -> None:
        video = self._update(video, fence, status="fetching")
        fetched = fetch_file(video.location, file, self._settings.ingest, lambda: self._require_wanted(video.id, fence))
        video = self._update(video, fence, sha256=fetched.sha256)
        if not self._settle_duplicate(video, fence):
            self._store.archive.put_source(video.id, file)
            self._update(video, fence, in_archive=True)

    def _ingest(self, video: Video, fence: Fence, work_file: Path) -> None:
        if video.kind == "path":
            path = find_allowed_file(video.location, self._settings.ingest.allowed_roots)
        else:
            path = self._open_source(video, fence, work_file)
        if video.sha256 is None:
            video = self._update(video, fence, sha256=hash_file(path))
        if self._settle_duplicate(video, fence):
            return
        if is_image(path):
            self._keep_image(video, fence, path, work_file)
        else:
            self._sample(video, fence, path, work_file)

    def _settle_duplicate(self, video: Video, fence: Fence) -> bool:
        """If another video owns the same content, makes this one its duplicate; returns whether it did."""
        owner_id = self._store.claim_content(video)
        if owner_id is None:
            return False
        self._update(video, fence, status="duplicate", duplicate_of=owner_id, in_archive=False)
        if video.in_archive:
            self._store.archive.delete_source(video.id)
        return True

    def _open_source(self, video: Video, fence: Fence, work_file: Path) -> Path:
        try:
            return self._store.archive.open_source(video.id, work_file)
        except NotFound as error:
            self._update(video, fence, in_archive=False)  # raises NotFound if the video was deleted
            raise SourceUnavailable(str(error)) from error

    def _keep_image(self, video: Video, fence: Fence, path: Path, work_file: Path) -> None:
        """Stores the image as a video of one frame. Keeps the original, because the model sees it and not a copy."""
        image = read_image(path, self._settings.ingest)
        if not video.in_archive:
            _copy_file(path, work_file)  # `put_source` may move its file
            self._store.archive.put_source(video.id, work_file)
        video = self._update(
            video,
            fence,
            media="image",
            in_archive=True,
            status="sampling",
            frames_expected=1,
            width_px=image.info.width_px,
            height_px=image.info.height_px,
            codec=image.info.codec,
        )
        self._store.create_segment(video.id, 0, [_kept(image.frame)])
        self._update(video, fence, status="ready", frames_sampled=1)

    def _sample(self, video: Video, fence: Fence, path: Path, work_file: Path) -> None:
        source = VideoSource(path, self._settings.ingest)
        info = source.info
        video = self._update(
            video,
            fence,
            status="sampling",
            duration_s=info.duration_s,
            frames_expected=source.count_slots(video.sample_fps),
            width_px=info.width_px,
            height_px=info.height_px,
            source_fps=info.fps,
            codec=info.codec,
        )
        self._store.count_video(video)
        done = start_slot = self._store.coverage.count_sampled(video.id)
        frames = source.sample_frames(video.sample_fps, mode=video.mode, start_slot=start_slot)
        for batch in _segments(frame.encode() for frame in frames):
            self._require_wanted(video.id, fence)
            segment, _ = locate(batch[0].slot)
            self._store.create_segment(video.id, segment, [_kept(frame) for frame in batch])
            self._inspector.inspect_video(video.id)
            if done == start_slot:  # a long video may be interrupted often, as long as each attempt gets further
                note_progress()
            done = batch[-1].slot + 1
        if done == 0:
            because = f": {source.truncated}" if source.truncated else ""
            raise UnsupportedSource(f"{video.source} holds no picture that can be decoded{because}")
        if self._settings.ingest.keep_source:
            video = self._keep_source(video, fence, path, work_file)
        self._update(video, fence, status="ready", frames_sampled=done, truncated=source.truncated)
        if video.in_archive and video.source_type is None:
            self._store.archive.delete_source(video.id)

    def _keep_source(self, video: Video, fence: Fence, path: Path, work_file: Path) -> Video:
        """Leaves the source in the archive; copies it there if it is a file of the user's."""
        if not video.in_archive:
            _copy_file(path, work_file)  # `put_source` may move its file
            self._store.archive.put_source(video.id, work_file)
        with path.open("rb") as file:
            kind = find_media_type(file.read(PROBE_BYTES))
        return self._update(video, fence, in_archive=True, source_type=kind)

    def _update(self, video: Video, fence: Fence, **changes: object) -> Video:
        changed = video.model_copy(update=changes)
        if changed != video:
            self._store.update_video(changed, fence)
        return changed

    def _fail(self, video: Video, fence: Fence, code: str, message: str) -> None:
        log.error("video %s failed (%s): %s", video.id, code, message)
        if video.content_key is not None:
            self._store.index.release_content(video.content_key, video.id)
        problem = Problem(code=code, message=message)
        sampled = self._store.coverage.count_sampled(video.id)
        self._update(video, fence, status="failed", problem=problem, frames_sampled=sampled)
        self._store.agenda.put(due.VIDEOS, *self._store.index.list_duplicates(video.id))  # its duplicates fail with it
        self._inspector.inspect_video(video.id)

    def _require_wanted(self, video_id: str, fence: Fence) -> None:
        """Raises NotFound if the video was deleted, GivenAway if another attempt began."""
        if self._store.index.is_deleted(video_id):
            raise NotFound(f"video {video_id} was deleted meanwhile")
        self._store.fences.check(fence)

    def _is_needed(self, file: Path) -> bool:
        video_id = file.name.split(".")[0]
        try:
            return bool(VIDEO_ID.fullmatch(video_id)) and not self._store.read_video(video_id).settled
        except NotFound:
            return False
        except (DamagedFile, NewerDocument):
            return True  # its video may be unsettled


def _copy_file(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"the disk of {target.parent} is full: {error}; make room there") from error
        raise SourceUnavailable(f"cannot copy the file: {error.strerror}") from error


def _kept(frame: EncodedFrame) -> SegmentFrame:
    return SegmentFrame(frame.slot % SEGMENT_SLOTS, frame.t_s, frame.model_jpeg, frame.view_jpeg)


def _segments(frames: Iterable[EncodedFrame]) -> Iterator[list[EncodedFrame]]:
    """The frames, one segment after the other; the last segment may be shorter."""
    batch: list[EncodedFrame] = []
    for frame in frames:
        batch.append(frame)
        if (frame.slot + 1) % SEGMENT_SLOTS == 0:
            yield batch
            batch = []
    if batch:
        yield batch
