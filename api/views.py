"""What the API returns, and how it is looked up."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeVar

from pydantic import BaseModel, Field

from api import examples
from api.schemas import SamplingMode, shown
from playback.playable import Verdict, judge_file
from storage.documents import Answer, FusionMode, Options, Progress, Question, QuestionStatus, Video, VideoStatus
from storage.live_documents import Delivery, DeliveryStatus, Event, PublicEvent, show_event
from storage.store import Store
from storage.stretch import find_stretch
from storage.text import escape_controls

Shown = TypeVar("Shown", Video, Question)


class Failure(BaseModel):
    """Why something failed: a stable code, and what to do."""

    code: str
    message: str


class VideoView(BaseModel):
    """A video as the API shows it, without the address it was fetched from, which may contain a password."""

    model_config = shown(examples.VIDEO)

    id: str
    kind: Literal["url", "path", "upload", "stream"]
    media: Literal["video", "image"]
    source: str
    title: str | None
    status: VideoStatus
    created_at: datetime
    recorded_at: datetime | None
    sample_fps: float
    mode: SamplingMode
    duration_s: float | None
    width_px: int | None
    height_px: int | None
    source_fps: float | None
    codec: str | None
    source_type: str | None = Field(description="The media type of the source, if it is kept.")
    playable: Verdict | None = Field(description="Whether browsers play the kept source; the pictures always play.")
    duplicate_of: str | None
    truncated: str | None
    problem: Failure | None
    progress: Progress | None = Field(description="Empty while it is being counted again.")


class VideoPage(BaseModel):
    """Videos, newest first; `next_cursor` leads to the next page."""

    videos: list[VideoView]
    next_cursor: str | None


class SegmentView(BaseModel):
    """Up to 64 frames of a video."""

    segment: int
    start: datetime | float = Field(description="The wall-clock time, or seconds if the video has no wall clock.")
    start_s: float
    end_s: float
    start_at: datetime | None
    end_at: datetime | None
    frames: int
    mask: str = Field(pattern="^[0-9a-f]{16}$", description="Bit i is set if slot i of the segment has a frame.")
    encoded: bool
    problem: Failure | None


class SegmentList(BaseModel):
    """Segments in order of time."""

    segments: list[SegmentView]


class Waiting(BaseModel):
    """What a question waits for."""

    awaited: Literal["frames", "encoder"] = Field(
        serialization_alias="for", description="frames: its stretch is not encoded yet. encoder: no encoder is alive."
    )
    frames_encoded: int
    frames_expected: int | None


class QuestionView(BaseModel):
    """A question, and its answer once there is one."""

    model_config = shown(examples.QUESTION)

    id: str
    video_id: str
    question: str
    start_s: float
    end_s: float | None
    start_at: datetime | None
    end_at: datetime | None
    fusion: FusionMode
    partial: bool
    options: Options
    status: QuestionStatus
    waiting: Waiting | None
    created_at: datetime
    previous_question_id: str | None
    answer: Answer | None
    problem: Failure | None


class QuestionPage(BaseModel):
    """Questions, newest first; `next_cursor` leads to the next page."""

    questions: list[QuestionView]
    next_cursor: str | None


class EventView(PublicEvent):
    """Something that happened to a stream, or an answer of a watch."""

    model_config = shown(examples.EVENT)


class EventPage(BaseModel):
    """Events, newest first; `next_cursor` leads to the next page, which may be empty while a filter finds nothing."""

    events: list[EventView]
    next_cursor: str | None


class DeliveryView(BaseModel):
    """What became of an event that goes to its watch's webhook."""

    model_config = shown(examples.DELIVERY)

    id: str = Field(description="The event's id.")
    stream_id: str
    watch_id: str
    status: DeliveryStatus
    attempts: int
    reason: str = Field(description="Why the last attempt failed.")
    changed_at: datetime
    next_try_at: datetime | None


class DeliveryPage(BaseModel):
    """Deliveries, those of the newest events first; `next_cursor` leads to the next page."""

    deliveries: list[DeliveryView]
    next_cursor: str | None


class Health(BaseModel):
    """The state of the service."""

    status: Literal["ok"] = "ok"
    workers: dict[str, int] = Field(default_factory=dict, description="Live workers of each kind.")
    notes: list[str] = Field(default_factory=list, description="What works but needs attention.")


def view_videos(store: Store, videos: Sequence[Video]) -> list[VideoView]:
    """The views of videos; reads the progress of all in one go."""
    shown_fields = set(VideoView.model_fields)
    return [
        VideoView.model_validate(
            _escape(video).model_dump(include=shown_fields) | {"progress": progress, "playable": _judge(video)}
        )
        for video, progress in zip(videos, store.read_progress(videos), strict=True)
    ]


def _judge(video: Video) -> Verdict | None:
    return None if video.source_type is None else judge_file(video.source_type, video.codec).verdict


def as_json(view: BaseModel) -> str:
    """The view as JSON."""
    return view.model_dump_json(by_alias=True)


def view_question(store: Store, question: Question, video: Video | None = None) -> QuestionView:
    """The view of a question about `video`, which is looked up unless it is given."""
    video = video or store.read_video(question.video_id)
    more = {
        "question": question.text,
        "start_at": video.grid.clock(question.start_s),
        "end_at": None if question.end_s is None else video.grid.clock(question.end_s),
        "waiting": _find_waiting(store, question) if question.status == "waiting" else None,
    }
    return QuestionView.model_validate(_escape(question).model_dump(include=set(QuestionView.model_fields)) | more)


def view_event(event: Event) -> EventView:
    """The view of an event."""
    return EventView.model_validate(show_event(event).model_dump())


def view_delivery(delivery: Delivery) -> DeliveryView:
    """The view of a delivery."""
    return DeliveryView.model_validate(delivery.model_dump(exclude={"version", "event_id"}) | {"id": delivery.event_id})


def _find_waiting(store: Store, question: Question) -> Waiting:
    holder = store.read_holder(question.video_id)
    stretch = find_stretch(store, question, holder, store.workers.read_model())
    encoded = sum(mask.bit_count() for mask in stretch.masks.values())
    ready = stretch.is_ready(partial=question.partial)
    return Waiting(
        awaited="encoder" if ready else "frames",
        frames_encoded=encoded,
        frames_expected=stretch.frames_expected,
    )


def _escape(document: Shown) -> Shown:
    """The document with control characters escaped in fields that may quote a server or a file."""
    changes: dict[str, object] = {}
    if document.problem is not None:
        message = escape_controls(document.problem.message)
        changes["problem"] = document.problem.model_copy(update={"message": message})
    if isinstance(document, Video) and document.truncated is not None:
        changes["truncated"] = escape_controls(document.truncated)
    return document.model_copy(update=changes)
