"""The system of record: videos, frames, records and answers as files. The only code that knows an archive path."""

import json
import logging
from collections.abc import Iterator, Sequence
from typing import TypeVar

from pydantic import ValidationError

from storage.errors import NotFound
from storage.files import Files
from storage.ids import QUESTION_ID, VIDEO_ID, check_video_id, video_of
from storage.models import Document, Question, Video
from storage.records import Record, from_bytes
from storage.segments import SEGMENT_FRAMES, locate

log = logging.getLogger(__name__)
Kept = TypeVar("Kept", bound=Document)


class Archive:
    """All that is kept. Every method raises ArchiveUnavailable where the store behind it fails."""

    def __init__(self, url: str) -> None:
        self.files = Files(url)

    # videos

    def put_video(self, video: Video) -> None:
        """Writes `video.json`."""
        self.files.write(_video_path(video.id), video.model_dump_json(indent=1).encode())

    def video(self, video_id: str) -> Video:
        """The video called `video_id`; raises NotFound (also where its file is damaged: the log says so)."""
        video = self._document(_video_path(check_video_id(video_id)), Video)
        if video is None:
            raise NotFound(f"no video {video_id}: `longwatch list` shows the ids")
        return video

    def video_ids(self) -> list[str]:
        """The ids of all videos, oldest first."""
        return [name for name in self.files.names() if VIDEO_ID.fullmatch(name)]

    def videos(self, newest_first_from: str | None = None) -> Iterator[Video]:
        """Videos, newest first; with an id, only those older than it. A damaged one is logged and left out."""
        for video_id in reversed(self.video_ids()):
            if newest_first_from is None or video_id < newest_first_from:
                video = self._document(_video_path(video_id), Video)
                if video is not None:
                    yield video

    def delete_video(self, video_id: str) -> None:
        """Removes the video with all that belongs to it; first what makes it visible."""
        video = self._document(_video_path(check_video_id(video_id)), Video)
        self.files.delete(_video_path(video_id))
        self.files.delete(video_id)
        if video is not None and video.sha256 and self.content_owner(video) == video_id:
            self.files.delete(_content_path(video))

    def holds(self, video_id: str) -> bool:
        """Whether there is anything of the video, be it damaged."""
        return bool(self.files.names(check_video_id(video_id)))

    def content_owner(self, video: Video) -> str | None:
        """The id of the video that claimed this content, sampled in this way; None where there is none."""
        content = self.files.read(_content_path(video))
        owner = content.decode(errors="replace") if content else ""
        return owner if VIDEO_ID.fullmatch(owner) else None

    def claim_content(self, video: Video) -> None:
        """Makes `video` the owner of its content: the one that later submissions of the same bytes refer to."""
        self.files.write(_content_path(video), video.id.encode())

    # frames

    def put_frames(
        self, video_id: str, first_index: int, pictures: Sequence[bytes], timestamps_s: Sequence[float]
    ) -> None:
        """Appends frames of one segment: JPEG pictures (336x336) and their times, from index `first_index` on.

        The times are written last: a frame counts once its time is there, so a killed ingest leaves no half frame.
        Raises NotFound once the video was deleted.
        """
        segment, place = locate(first_index)
        kept = self.timestamps_s(video_id, segment)[:place]
        if len(kept) != place or place + len(pictures) > SEGMENT_FRAMES:
            raise ValueError(f"frames must be appended in order: {len(kept)} are there, {first_index=}")
        for k, picture in enumerate(pictures, start=place):
            self.files.write(_frame_path(video_id, segment, k), picture)
        times = json.dumps({"timestamps_s": [*kept, *timestamps_s]})
        self.files.write(_times_path(video_id, segment), times.encode())
        self._require_kept(video_id)

    def timestamps_s(self, video_id: str, segment: int) -> list[float]:
        """The times of the segment's frames, perhaps none.

        A damaged file, or one that went missing from a video that is settled, is rebuilt from the pictures.
        """
        path = _times_path(video_id, segment)
        content = self.files.read(path)
        if content is None:
            lost = self.files.names(_frames_path(video_id, segment)) and self.video(video_id).settled
            return self._rebuilt_timestamps_s(video_id, segment) if lost else []
        try:
            return [float(t) for t in json.loads(content)["timestamps_s"]]
        except (ValueError, KeyError, TypeError) as error:
            log.error("%s is damaged (%s): rebuilding it from the pictures", self.files.full(path), error)
            return self._rebuilt_timestamps_s(video_id, segment)

    def frame(self, video_id: str, index: int) -> bytes:
        """The JPEG picture of the video's frame `index`; raises NotFound."""
        segment, place = locate(index)
        picture = self.files.read(_frame_path(check_video_id(video_id), segment, place))
        if picture is None:
            raise NotFound(f"video {video_id} has no frame {index}")
        return picture

    def frame_path(self, video_id: str, index: int) -> str:
        """Where the frame's picture lies, for messages."""
        return self.files.full(_frame_path(video_id, *locate(index)))

    def segments(self, video_id: str) -> list[int]:
        """The numbers of the segments that have frames, ascending."""
        return [int(name) for name in self.files.names(check_video_id(video_id)) if name.isdecimal()]

    # records

    def put_record(self, video_id: str, segment: int, record: Record) -> None:
        """Writes the segment's record; raises NotFound once the video was deleted."""
        self.files.write(_record_path(video_id, segment), record.to_bytes())
        self._require_kept(video_id)

    def record(self, video_id: str, segment: int, fingerprint: str | None) -> Record | None:
        """The segment's record, None where there is none.

        Raises DamagedRecord or (with `fingerprint`, another model's) ForeignRecord.
        """
        path = _record_path(video_id, segment)
        blob = self.files.read(path)
        return None if blob is None else from_bytes(blob, self.files.full(path), fingerprint)

    # questions

    def put_question(self, question: Question) -> None:
        """Writes the question with its answer, if there is one yet; raises NotFound once the video was deleted."""
        self.files.write(_question_path(question.id), question.model_dump_json(indent=1).encode())
        self._require_kept(video_of(question.id))

    def question(self, question_id: str) -> Question:
        """The question called `question_id`; raises NotFound."""
        question = self._document(_question_path(question_id), Question)
        if question is None:
            raise NotFound(f"no question {question_id}")
        return question

    def question_ids(self, video_id: str) -> list[str]:
        """The ids of the questions asked about the video, oldest first."""
        names = (name.removesuffix(".json") for name in self.files.names(_questions_path(video_id)))
        return [name for name in names if QUESTION_ID.fullmatch(name)]

    def questions(self, video_id: str, newest_first_from: str | None = None) -> Iterator[Question]:
        """Questions about the video, newest first; with an id, only those older than it. As `videos`."""
        for question_id in reversed(self.question_ids(video_id)):
            if newest_first_from is None or question_id < newest_first_from:
                question = self._document(_question_path(question_id), Question)
                if question is not None:
                    yield question

    def _require_kept(self, video_id: str) -> None:
        """Raises NotFound once the video was deleted, and removes again what has just been written.

        To be called after a write: `delete_video` takes `video.json` first, so that of a write and a deletion at the
        same time one or the other removes the file.
        """
        if self.files.read(_video_path(video_id)) is None:
            self.files.delete(video_id)
            raise NotFound(f"video {video_id} was deleted meanwhile")

    def _document(self, path: str, kind: type[Kept]) -> Kept | None:
        content = self.files.read(path)
        if content is None:
            return None
        try:
            return kind.model_validate_json(content)
        except ValidationError as error:
            log.error("%s is damaged and is left out: %s", self.files.full(path), error)
            return None

    def _rebuilt_timestamps_s(self, video_id: str, segment: int) -> list[float]:
        video = self.video(video_id)
        pictures = [name for name in self.files.names(_frames_path(video_id, segment)) if name.endswith(".jpg")]
        first = segment * SEGMENT_FRAMES
        times = [(first + k + 0.5) / video.sample_fps for k in range(len(pictures))]
        self.files.write(_times_path(video_id, segment), json.dumps({"timestamps_s": times}).encode())
        return times


def _video_path(video_id: str) -> str:
    return f"{video_id}/video.json"


def _content_path(video: Video) -> str:
    return f"contents/{video.sha256}-{video.sample_fps:g}-{video.mode}"


def _frames_path(video_id: str, segment: int) -> str:
    return f"{video_id}/{segment:06d}/frames"


def _frame_path(video_id: str, segment: int, place: int) -> str:
    return f"{_frames_path(video_id, segment)}/{place:02d}.jpg"


def _times_path(video_id: str, segment: int) -> str:
    return f"{video_id}/{segment:06d}/frames.json"


def _record_path(video_id: str, segment: int) -> str:
    return f"{video_id}/{segment:06d}/tokens.safetensors"


def _questions_path(video_id: str) -> str:
    return f"{check_video_id(video_id)}/questions"


def _question_path(question_id: str) -> str:
    return f"{_questions_path(video_of(question_id))}/{question_id}.json"
