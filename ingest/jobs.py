"""The job that turns a submitted source into frames in the archive."""

import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from configs.settings import Settings
from ingest.errors import SourceError, SourceInterrupted, UnsupportedSource
from ingest.fetch import fetch
from ingest.frames import SampledFrame
from ingest.local import allowed_file, sha256_of
from ingest.pictures import encode_jpeg
from ingest.source import VideoSource
from storage.errors import NotFound
from storage.ids import VIDEO_ID
from storage.models import Problem, Video
from storage.reconciler import Reconciler
from storage.segments import SEGMENT_FRAMES
from storage.store import Store
from storage.worker import is_last_try

log = logging.getLogger(__name__)
BATCH_INTERVAL_S = 1.0  # frames become visible (progress, questions) at least this often
ABANDONED_AFTER_S = 3600.0  # an upload in progress is younger


class SettledElsewhere(Exception):
    """The job was taken for lost and given to another worker, which has finished it."""


class IngestJobs:
    """Fetches and samples videos; what it has written stays, so a retried job goes on where the last one stopped."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._reconciler = Reconciler(store, settings.queues)

    def ingest_video(self, video_id: str) -> None:
        """Have every frame of the video in the archive, or the reason why not in `video.json`.

        Raises what is worth a retry (storage or a server that does not answer); a source at fault is settled as failed.
        """
        try:
            video = self._store.archive.video(video_id)
            if not video.settled:
                self._settle(video)
        except NotFound:
            log.info("video %s was deleted meanwhile", video_id)
        except SettledElsewhere:
            log.info("video %s was settled by another worker meanwhile", video_id)
        finally:
            file = self._settings.work_file(video_id)
            if not self._is_needed(file):
                file.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes downloads and uploads that no unsettled video needs any more."""
        for file in self._settings.work_dir.glob("*"):
            if time.time() - file.stat().st_mtime > ABANDONED_AFTER_S and not self._is_needed(file):
                file.unlink()

    def _settle(self, video: Video) -> None:
        try:
            self._ingest(video)
        except SourceError as error:
            if isinstance(error, SourceInterrupted) and not is_last_try():
                raise
            self._fail(video.id, error.code, str(error))
        except Exception:
            if is_last_try():
                self._fail(video.id, "internal", "sampling failed repeatedly; the log of `worker ingest` says why")
            raise

    def _ingest(self, video: Video) -> None:
        video = self._updated(video, status="fetching")
        path, sha256 = self._local_file(video)
        video = self._updated(video, sha256=sha256)
        original = self._store.same_content(video)
        if original is None:
            self._store.archive.claim_content(video)
            self._sample(video, path)
        elif original.status == "ready":
            self._updated(video, status="duplicate", duplicate_of=original.id)
            if self._store.hot.was_deleted(original.id):  # at this very moment: then this one is sampled
                self._store.hot.mark_unfinished(video.id)
                self._store.update_video(video)
        else:
            log.info("video %s waits for %s, which has the same content, to be sampled", video.id, original.id)

    def _local_file(self, video: Video) -> tuple[Path, str]:
        """Where the video's bytes lie on this machine, and their hash."""
        if video.kind == "path":
            path = allowed_file(video.location, self._settings.ingest.allowed_roots)
        elif video.kind == "upload":
            path = Path(video.location)
        else:
            path = self._settings.work_file(video.id)
            if not path.exists():
                settings = self._settings.ingest
                return path, fetch(video.location, path, settings, lambda: self._store.archive.video(video.id)).sha256
        return path, video.sha256 or sha256_of(path)

    def _sample(self, video: Video, path: Path) -> None:
        done = sum(self._store.counts(video.id).frames.values())
        source = VideoSource(path, self._settings.ingest)
        info = source.info
        expected = None if info.duration_s is None else max(round(info.duration_s * video.sample_fps), 1)
        video = self._updated(
            video,
            status="sampling",
            duration_s=info.duration_s,
            frames_expected=expected,
            width_px=info.width_px,
            height_px=info.height_px,
            source_fps=info.fps,
            codec=info.codec,
        )
        for batch in _batches(source.sample(video.sample_fps, mode=video.mode, start_index=done)):
            self._put(video, batch)
            done = batch[-1].index + 1
        truncated = source.truncated
        if done == 0:
            raise UnsupportedSource(f"{video.source} holds no picture that can be decoded" + _because(truncated))
        self._updated(video, status="ready", frames_sampled=done, truncated=truncated)
        self._reconciler.video(video.id)

    def _put(self, video: Video, batch: list[SampledFrame]) -> None:
        self._store.archive.video(video.id)  # NotFound once it was deleted: stop here
        quality = self._settings.ingest.jpeg_quality
        pictures = [encode_jpeg(frame.picture, quality) for frame in batch]
        self._store.put_frames(video.id, batch[0].index, pictures, [frame.timestamp_s for frame in batch])
        if (batch[-1].index + 1) % SEGMENT_FRAMES == 0:
            self._reconciler.video(video.id)

    def _updated(self, video: Video, **changes: object) -> Video:
        if self._store.archive.video(video.id).settled:
            raise SettledElsewhere(video.id)
        changed = video.model_copy(update=changes)
        if changed != video:  # a video that waits for another is looked at every few seconds
            self._store.update_video(changed)
        return changed

    def _fail(self, video_id: str, code: str, message: str) -> None:
        video = self._store.archive.video(video_id)
        log.error("video %s failed (%s): %s", video_id, code, message)
        sampled = sum(self._store.counts(video_id).frames.values())
        problem = Problem(code=code, message=message)
        self._updated(video, status="failed", problem=problem, frames_sampled=sampled)
        self._reconciler.video(video_id)

    def _is_needed(self, file: Path) -> bool:
        video_id = file.name.split(".")[0]
        try:
            return not (VIDEO_ID.fullmatch(video_id) and self._store.archive.video(video_id).settled)
        except NotFound:
            return False


def _batches(frames: Iterable[SampledFrame]) -> Iterator[list[SampledFrame]]:
    """Groups frames that lie in one segment, each group at most BATCH_INTERVAL_S in the making."""
    batch: list[SampledFrame] = []
    began = time.monotonic()
    for frame in frames:
        batch.append(frame)
        if (frame.index + 1) % SEGMENT_FRAMES == 0 or time.monotonic() - began > BATCH_INTERVAL_S:
            yield batch
            batch, began = [], time.monotonic()
    if batch:
        yield batch


def _because(reason: str | None) -> str:
    return f": {reason}" if reason else ""
