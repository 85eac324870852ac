"""The system of record: videos, segments, records and answers as files. The only code that knows an archive path."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from storage.documents import Credentials, Kept, Question, Video, parse_document
from storage.errors import DamagedFile, ForeignRecord, NewerDocument, NotFound
from storage.files import Files
from storage.ids import EVENT_ID, QUESTION_ID, VIDEO_ID, check_video_id, check_watch_id, event_number, video_of
from storage.live_documents import Delivery, Event, Watch
from storage.recordings import Recording, parse_name
from storage.records import Record, parse_record
from storage.segments import SegmentFrame, SegmentReader, pack_segment
from storage.timeline import FULL_MASK, mask_of

log = logging.getLogger(__name__)
VOID = b"void"  # instead of an event: its id was given up, and no event will ever have it
VIDEO_BLOCK_BYTES = 1024**2  # of large files that are read in parts
_DAY = re.compile(r"\d{8}")
_EVENT_FILE = re.compile(rf"({EVENT_ID.pattern})(\.delivery)?\.json")
_RECORD_FILE = re.compile(r"(\d{6,})/tokens-([0-9a-f]+)\.safetensors")
_RECORDING_FILE = re.compile(r"(\d{6,})/recording-(.*)")
_FRAMES_FILE = re.compile(r"(\d{6,})/(frames(?:-([0-9a-f]{16}))?\.zip)")


@dataclass(frozen=True)
class Contents:
    """What the archive holds for a video."""

    sampled: dict[int, int]  # segment -> mask of its frames, ascending; a file's last segment may be shorter
    encoded: dict[str, list[int]]  # fingerprint -> segments with a record
    question_ids: list[str]  # oldest first
    frames_bytes: dict[int, int] = field(default_factory=dict)  # segment -> bytes of its pictures
    records_bytes: dict[str, dict[int, int]] = field(default_factory=dict)  # fingerprint -> segment -> bytes
    recordings: list[Recording] = field(default_factory=list)  # of a stream


class EventDay(NamedTuple):
    """What the archive holds of a stream's events of one day."""

    event_ids: list[str]  # ascending
    delivery_ids: frozenset[str]  # those that go to a webhook


class Archive:
    """Videos as files. Every method raises ArchiveUnavailable if the filesystem behind it fails."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.files = Files(url, options)

    # videos

    def write_video(self, video: Video) -> None:
        """Writes `video.json`."""
        self.files.write(_video_path(video.id), video.model_dump_json(indent=1).encode())

    def read_video(self, video_id: str) -> Video:
        """The video's document; raises NotFound, DamagedFile, NewerDocument."""
        path = _video_path(check_video_id(video_id))
        content = self.files.read(path)
        if content is None:
            raise NotFound(f"no video {video_id}: `longwatch list` shows the ids")
        return parse_document(Video, content, self.files.full(path))

    def has_video(self, video_id: str) -> bool:
        """Whether the video's document exists. If not, the video was deleted."""
        return self.files.exists(_video_path(video_id))

    def list_video_ids(self) -> list[str]:
        """The ids of all video folders, oldest first; some may have no document."""
        return [name for name in self.files.names() if VIDEO_ID.fullmatch(name)]

    def delete_video(self, video_id: str) -> None:
        """Removes the video and all that belongs to it, the document first: without it the video no longer exists."""
        self.files.delete(_video_path(check_video_id(video_id)))
        self.files.delete(video_id)

    def list_contents(self, video_id: str) -> Contents:
        """What the archive holds for the video, from one listing of its folder."""
        found = Contents({}, {}, [])
        for path, size in self.files.tree(check_video_id(video_id)).items():
            if record := _RECORD_FILE.fullmatch(path):
                found.encoded.setdefault(record[2], []).append(int(record[1]))
                found.records_bytes.setdefault(record[2], {})[int(record[1])] = size
            elif frames := _FRAMES_FILE.fullmatch(path):
                segment, mask = int(frames[1]), _mask_in_name(frames)
                if mask.bit_count() > found.sampled.get(segment, 0).bit_count():
                    found.sampled[segment], found.frames_bytes[segment] = mask, size
            elif recorded := _RECORDING_FILE.fullmatch(path):
                if (recording := parse_name(f"{recorded[1]}-{recorded[2]}", size)) is not None:
                    found.recordings.append(recording)
            elif path.startswith("questions/") and QUESTION_ID.fullmatch(Path(path).stem):
                found.question_ids.append(Path(path).stem)
        return found

    # the source's bytes

    def put_source(self, video_id: str, file: Path) -> None:
        """Copies or moves the source into the archive, so that any host can ingest it."""
        self.files.put(_source_path(video_id), file)

    def open_source(self, video_id: str, work_file: Path) -> Path:
        """A file on this host with the source's bytes: the archive's own if that is local, else a copy in `work_file`.

        Raises NotFound.
        """
        path = self.files.local_path(_source_path(video_id))
        if path is not None and path.is_file():
            return path
        if path is None and (work_file.is_file() or self.files.get(_source_path(video_id), work_file)):
            return work_file
        raise NotFound(f"the archive does not hold the source of {video_id}; add the video again")

    def read_source(self, video_id: str) -> bytes:
        """The bytes of a small source (an image); raises NotFound."""
        content = self.files.read(_source_path(check_video_id(video_id)))
        if content is None:
            raise NotFound(f"the source of {video_id} is not kept")
        return content

    @contextmanager
    def open_kept_source(self, video_id: str) -> Iterator[BinaryIO]:
        """The source's bytes, to read parts of them; raises NotFound."""
        with self.files.open(_source_path(check_video_id(video_id)), VIDEO_BLOCK_BYTES) as file:
            if file is None:
                raise NotFound(f"the source of {video_id} is not kept")
            yield file

    def measure_source(self, video_id: str) -> int:
        """The bytes of the source; raises NotFound."""
        size = self.files.size(_source_path(check_video_id(video_id)))
        if size is None:
            raise NotFound(f"the source of {video_id} is not kept")
        return size

    def delete_source(self, video_id: str) -> None:
        """Removes the source's bytes, which are not needed once its frames are stored."""
        self.files.delete(_source_path(video_id))

    # segments

    def create_segment(self, video_id: str, segment: int, frames: Sequence[SegmentFrame]) -> int:
        """Writes a whole segment's pictures, unless the segment exists. Returns the mask of the stored segment.

        Raises NotFound if the video was deleted.
        """
        created = self.files.create(_frames_path(video_id, segment), pack_segment(frames))
        self._require_video(video_id)
        if created:
            return mask_of(frame.place for frame in frames)
        log.info("segment %d of %s exists already and stays as it is", segment, video_id)
        with self.open_segment(video_id, segment) as kept:
            return kept.mask

    def merge_segment(self, video_id: str, segment: int, frames: Sequence[SegmentFrame]) -> int:
        """Writes a segment of a stream, or adds frames to one that exists. Returns the mask of the stored segment.

        Several hosts can hold frames of one segment: one takes over from another, whose spool comes back later. The
        frames that a segment has stay as they are. Raises NotFound if the video was deleted.
        """
        wanted = mask_of(frame.place for frame in frames)
        while True:
            held = self._list_frames(video_id, segment)
            if len(held) == 1 and not wanted & ~held[0][0]:
                return held[0][0]
            kept = {frame.place: frame for frame in frames}
            for _, path in sorted(held, key=lambda each: each[0].bit_count()):
                kept |= {frame.place: frame for frame in self._read_frames(path)}
            mask = mask_of(kept)
            self.files.create(_live_frames_path(video_id, segment, mask), pack_segment([kept[k] for k in sorted(kept)]))
            self._require_video(video_id)
            for older, path in held:
                if older != mask:
                    self.files.delete(path)

    def _read_frames(self, path: str) -> list[SegmentFrame]:
        content = self.files.read(path)  # in one go: another writer may replace it by a larger one meanwhile
        return [] if content is None else SegmentReader(BytesIO(content), self.files.full(path)).read_all()

    def _list_frames(self, video_id: str, segment: int) -> list[tuple[int, str]]:
        """(mask, path) of the files with the segment's frames: more than one only while it is being merged."""
        folder = f"{check_video_id(video_id)}/{segment:06d}"
        found = (_FRAMES_FILE.fullmatch(f"{segment:06d}/{name}") for name in self.files.names(folder))
        return [(_mask_in_name(match), f"{folder}/{match[2]}") for match in found if match]

    @contextmanager
    def open_segment(self, video_id: str, segment: int) -> Iterator[SegmentReader]:
        """The segment's pictures; raises NotFound, DamagedFile."""
        path = _frames_path(check_video_id(video_id), segment)
        with self.files.open(path) as file:
            if file is not None:
                yield SegmentReader(file, self.files.full(path))
                return
        held = self._list_frames(video_id, segment)  # of a stream, with gaps
        if not held:
            raise NotFound(f"video {video_id} has no segment {segment}")
        _, path = max(held, key=lambda each: each[0].bit_count())
        with self.files.open(path) as file:
            if file is None:
                raise NotFound(f"video {video_id} has no segment {segment}: it was removed a moment ago")
            yield SegmentReader(file, self.files.full(path))

    def measure_frames(self, video_id: str, segment: int, mask: int) -> int:
        """The bytes of a segment's pictures; 0 if it was removed."""
        path = _live_frames_path(video_id, segment, mask)
        return self.files.size(path) or self.files.size(_frames_path(video_id, segment)) or 0

    def segment_path(self, video_id: str, segment: int) -> str:
        """The path of the segment's pictures, for messages."""
        return self.files.full(_frames_path(video_id, segment))

    # records

    def create_record(self, video_id: str, segment: int, record: Record) -> int:
        """Writes the segment's record, unless this model's exists; returns its bytes.

        Raises NotFound if the video was deleted.
        """
        content = record.to_bytes()
        self.files.create(_record_path(video_id, segment, record.fingerprint), content)
        self._require_video(video_id)
        return len(content)

    def read_record(self, video_id: str, segment: int, fingerprint: str) -> Record | None:
        """This model's record of the segment; None if there is none.

        A damaged record is logged by path and removed, so that a new one can take its place.
        """
        path = _record_path(video_id, segment, fingerprint)
        blob = self.files.read(path)
        if blob is None:
            return None
        try:
            return parse_record(blob, self.files.full(path), fingerprint)
        except (DamagedFile, ForeignRecord) as error:
            log.error("%s", error)
            self.files.delete(path)
            return None

    def delete_record(self, video_id: str, segment: int, fingerprint: str) -> None:
        """Removes a record that no longer covers all frames of its segment."""
        self.files.delete(_record_path(video_id, segment, fingerprint))

    def delete_frames(self, video_id: str, segment: int) -> None:
        """Removes a segment's pictures and records; recordings stay."""
        folder = f"{check_video_id(video_id)}/{segment:06d}"
        names = self.files.names(folder)
        if any(_RECORDING_FILE.fullmatch(f"{segment:06d}/{name}") for name in names):
            for name in names:
                if not _RECORDING_FILE.fullmatch(f"{segment:06d}/{name}"):
                    self.files.delete(f"{folder}/{name}")
        else:
            self.files.delete(folder)

    # recordings

    def put_recording(self, stream_id: str, recording: Recording, file: Path) -> None:
        """Copies or moves a recorded file into the archive; raises NotFound if the stream was deleted."""
        self.files.put(_recording_path(stream_id, recording), file)
        self._require_video(stream_id)

    def measure_recording(self, stream_id: str, recording: Recording) -> int:
        """The bytes of a recorded file; raises NotFound."""
        size = self.files.size(_recording_path(check_video_id(stream_id), recording))
        if size is None:
            raise NotFound(f"stream {stream_id} has no recording {recording.name}")
        return size

    @contextmanager
    def open_recording(self, stream_id: str, recording: Recording) -> Iterator[BinaryIO]:
        """The recorded file; raises NotFound."""
        path = _recording_path(check_video_id(stream_id), recording)
        with self.files.open(path, VIDEO_BLOCK_BYTES) as file:
            if file is None:
                raise NotFound(f"stream {stream_id} has no recording {recording.name}: it was removed")
            yield file

    def delete_recording(self, stream_id: str, recording: Recording) -> None:
        """Removes a recorded file."""
        self.files.delete(_recording_path(check_video_id(stream_id), recording))

    # credentials

    def write_credentials(self, video_id: str, credentials: Credentials) -> None:
        """Writes a camera's user name and password; raises NotFound if the video was deleted."""
        self.files.write(_credentials_path(video_id), credentials.model_dump_json().encode())

    def read_credentials(self, video_id: str) -> Credentials:
        """A camera's user name and password; empty if it has none. Raises DamagedFile, NewerDocument."""
        path = _credentials_path(check_video_id(video_id))
        content = self.files.read(path)
        return Credentials() if content is None else parse_document(Credentials, content, self.files.full(path))

    # questions

    def write_question(self, question: Question) -> None:
        """Writes the question with its answer, if there is one; raises NotFound if the video was deleted."""
        self.files.write(_question_path(question.id), question.model_dump_json(indent=1).encode())
        self._require_video(video_of(question.id))

    def read_question(self, question_id: str) -> Question:
        """The question's document; raises NotFound, DamagedFile, NewerDocument."""
        path = _question_path(question_id)
        content = self.files.read(path)
        if content is None:
            raise NotFound(f"no question {question_id}")
        return parse_document(Question, content, self.files.full(path))

    # watches

    def write_watch(self, watch: Watch) -> None:
        """Writes the watch; raises NotFound if its stream was deleted."""
        self.files.write(_watch_path(watch.stream_id, watch.id), watch.model_dump_json(indent=1).encode())
        self._require_video(watch.stream_id)

    def read_watch(self, stream_id: str, watch_id: str) -> Watch:
        """The watch's document; raises NotFound, DamagedFile, NewerDocument."""
        path = _watch_path(check_video_id(stream_id), check_watch_id(watch_id))
        content = self.files.read(path)
        if content is None:
            raise NotFound(f"no watch {watch_id}")
        return parse_document(Watch, content, self.files.full(path))

    def list_watch_ids(self, stream_id: str) -> list[str]:
        """The ids of the stream's watches, sorted."""
        names = self.files.names(f"{check_video_id(stream_id)}/watches")
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def delete_watch(self, stream_id: str, watch_id: str) -> None:
        """Removes the watch's document."""
        self.files.delete(_watch_path(check_video_id(stream_id), check_watch_id(watch_id)))

    # events

    def create_event(self, event: Event) -> Event | None:
        """Writes the event unless its id is taken. Returns what the id stands for: this event or an earlier attempt's.

        Returns None if the id was given up: the event needs another one. Raises NotFound if the stream was deleted.
        """
        created = self.files.create(_event_path(event.stream_id, event.id), event.model_dump_json(indent=1).encode())
        self._require_video(event.stream_id)
        return event if created else self._read_event(event.stream_id, event.id)

    def give_up_event(self, stream_id: str, event_id: str) -> Event | None:
        """Makes sure that nobody writes this event any more. Returns it if it was written already."""
        if self.files.create(_event_path(check_video_id(stream_id), event_id), VOID):
            self._require_video(stream_id)
            return None
        return self._read_event(stream_id, event_id)

    def void_event(self, event: Event) -> None:
        """Takes back an event that no reader has seen."""
        self.files.write(_event_path(event.stream_id, event.id), VOID)
        self._require_video(event.stream_id)

    def read_event(self, stream_id: str, event_id: str) -> Event:
        """The event's document; raises NotFound, DamagedFile, NewerDocument."""
        event_number(event_id)  # raises NotFound, so that foreign text never becomes a path
        event = self._read_event(check_video_id(stream_id), event_id)
        if event is None:
            raise NotFound(f"no event {event_id}")
        return event

    def _read_event(self, stream_id: str, event_id: str) -> Event | None:
        path = _event_path(stream_id, event_id)
        content = self.files.read(path)
        if content is None or content == VOID:
            return None
        return parse_document(Event, content, self.files.full(path))

    def list_event_days(self, stream_id: str) -> list[str]:
        """The days (YYYYMMDD) of which the archive holds events, ascending."""
        return [name for name in self.files.names(f"{check_video_id(stream_id)}/events") if _DAY.fullmatch(name)]

    def list_day(self, stream_id: str, day: str) -> EventDay:
        """The events of one day, from one listing."""
        names = self.files.names(f"{check_video_id(stream_id)}/events/{day}")
        matches = [match for name in names if (match := _EVENT_FILE.fullmatch(name))]
        return EventDay(
            [match[1] for match in matches if not match[2]], frozenset(match[1] for match in matches if match[2])
        )

    def read_events(self, stream_id: str, event_ids: Sequence[str]) -> tuple[list[Event], dict[str, str]]:
        """The events, and path -> why for those that cannot be read."""
        return self._read_documents(Event, [_event_path(stream_id, event_id) for event_id in event_ids])

    def delete_event_day(self, stream_id: str, day: str) -> None:
        """Removes a day's events."""
        self.files.delete(f"{check_video_id(stream_id)}/events/{day}")

    # deliveries of events to webhooks

    def write_delivery(self, delivery: Delivery) -> None:
        """Writes what became of a delivery; raises NotFound if its stream was deleted."""
        path = _delivery_path(delivery.stream_id, delivery.event_id)
        self.files.write(path, delivery.model_dump_json(indent=1).encode())
        self._require_video(delivery.stream_id)

    def read_deliveries(self, stream_id: str, event_ids: Sequence[str]) -> tuple[list[Delivery], dict[str, str]]:
        """What became of these events' deliveries, and path -> why for those that cannot be read."""
        paths = [_delivery_path(check_video_id(stream_id), event_id) for event_id in event_ids]
        return self._read_documents(Delivery, paths)

    def _read_documents(self, kind: type[Kept], paths: Sequence[str]) -> tuple[list[Kept], dict[str, str]]:
        documents, unreadable = list[Kept](), dict[str, str]()
        for path, content in self.files.read_many(paths).items():
            try:
                if content != VOID:
                    documents.append(parse_document(kind, content, self.files.full(path)))
            except (DamagedFile, NewerDocument) as error:
                unreadable[path] = str(error)
        return documents, unreadable

    def _require_video(self, video_id: str) -> None:
        """If the video was deleted, removes what has just been written and raises NotFound.

        Called after each write. `delete_video` removes `video.json` first: if a write and a deletion race, whichever
        finishes last removes the file.
        """
        if not self.has_video(video_id):
            self.files.delete(video_id)
            raise NotFound(f"video {video_id} was deleted meanwhile")


def _watch_path(stream_id: str, watch_id: str) -> str:
    return f"{stream_id}/watches/{watch_id}.json"


def _event_path(stream_id: str, event_id: str) -> str:
    return f"{stream_id}/events/{event_id[:8]}/{event_id}.json"


def _delivery_path(stream_id: str, event_id: str) -> str:
    return f"{stream_id}/events/{event_id[:8]}/{event_id}.delivery.json"


def _video_path(video_id: str) -> str:
    return f"{video_id}/video.json"


def _source_path(video_id: str) -> str:
    return f"{video_id}/source"


def _frames_path(video_id: str, segment: int) -> str:
    return f"{video_id}/{segment:06d}/frames.zip"


def _live_frames_path(video_id: str, segment: int, mask: int) -> str:
    """The name tells the mask, so that one listing of a stream's folder tells which of its slots have frames."""
    name = "frames.zip" if mask == FULL_MASK else f"frames-{mask:016x}.zip"
    return f"{video_id}/{segment:06d}/{name}"


def _mask_in_name(frames_file: re.Match[str]) -> int:
    return int(frames_file[3], 16) if frames_file[3] else FULL_MASK


def _recording_path(stream_id: str, recording: Recording) -> str:
    """The name without its segment, which is the folder's."""
    folder, _, rest = recording.name.partition("-")
    return f"{stream_id}/{folder}/recording-{rest}"


def _credentials_path(video_id: str) -> str:
    return f"{video_id}/credentials.json"


def _record_path(video_id: str, segment: int, fingerprint: str) -> str:
    return f"{video_id}/{segment:06d}/tokens-{fingerprint}.safetensors"


def _question_path(question_id: str) -> str:
    return f"{video_of(question_id)}/questions/{question_id}.json"
