"""The data that crosses processes and is kept in the archive as versioned JSON: videos, questions, answers."""

import json
from datetime import UTC, datetime
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.errors import DamagedFile, NewerDocument
from storage.timeline import Grid

VERSION = 1  # of the documents that this Longwatch writes; it refuses newer ones

FusionMode = Literal["focused", "sampled", "exact"]
VideoStatus = Literal["queued", "fetching", "sampling", "ready", "duplicate", "failed", "live"]
QuestionState = Literal["waiting", "queued", "running"]  # of an unsettled question; kept in Redis only
QuestionStatus = Literal["waiting", "queued", "running", "done", "failed", "cancelled"]


class Document(BaseModel):
    """A JSON file of Longwatch: immutable (change it with `model_copy(update=...)`); unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(Document):
    """Why something failed: `code` is stable, `message` says what to do."""

    code: str
    message: str


class Retention(Document):
    """How much of a stream is kept. Empty: no limit of its own; the global one still holds."""

    max_age_h: float | None = Field(None, gt=0, description="Frames, tokens and events older than this are removed.")
    max_gb: float | None = Field(None, gt=0, description="Frames and tokens above this size are removed, oldest first.")
    recordings_max_age_h: float | None = Field(None, gt=0)
    recordings_max_gb: float | None = Field(None, gt=0)


class Capture(Document):
    """How a stream is captured. Its address is the video's location, its password is in `credentials.json`."""

    transport: Literal["tcp", "udp"] = Field("tcp", description="Of RTSP.")
    record: bool = Field(False, description="Whether the coded video is kept too.")
    static_threshold: float = Field(
        0.0, ge=0, le=255, description="A frame whose mean difference to the last encoded one is less reuses its token."
    )
    retention: Retention = Retention()
    paused: bool = False
    declared: bool = Field(False, description="It comes from the operator's file of streams.")
    revision: int = Field(0, description="Counts changes that a running capture must learn of.")


class Credentials(Document):
    """A camera's user name and password (`credentials.json`). Never part of a document that is copied or shown."""

    version: int = VERSION
    username: str = ""
    password: str = Field("", repr=False)


class Video(Document):
    """A source and what became of it (`video.json`). A stream is a video that has not ended: kind "stream"."""

    version: int = VERSION
    id: str
    kind: Literal["url", "path", "upload", "stream"]
    media: Literal["video", "image"] = Field("video", description="An image is a video of one frame.")
    source: str = Field(description="What the user submitted, without credentials.")
    title: str | None = None
    location: str = Field(description="URL or absolute path; empty for uploads. Never shown: it may hold a password.")
    in_archive: bool = Field(False, description="Whether the archive holds the source's bytes.")
    status: VideoStatus = "queued"
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    recorded_at: datetime | None = Field(None, description="The wall-clock time of the start, if it is known.")
    sample_fps: float
    mode: Literal["exact", "keyframes"]
    frames_expected: int | None = Field(None, description="Known once the file is open.")
    frames_sampled: int | None = Field(None, description="Final; set when sampling has ended.")
    duration_s: float | None = None
    width_px: int | None = Field(None, description="As displayed: after rotation.")
    height_px: int | None = None
    source_fps: float | None = None
    codec: str | None = None
    sha256: str | None = None
    duplicate_of: str | None = Field(None, description="The video with the same content, which holds the frames.")
    truncated: str | None = Field(None, description="Where and why the source ended early; earlier frames are kept.")
    problem: Problem | None = None
    source_type: str | None = Field(None, description="The media type of a video's source, if the archive keeps it.")
    capture: Capture | None = Field(None, description="Of a stream only.")
    removed_until_s: float = Field(0.0, description="Retention removed the frames before this second.")
    recordings_removed_until_s: float = Field(0.0, description="Retention removed the recordings before this second.")

    @property
    def is_live(self) -> bool:
        """Whether it is a stream: it has no end, and slots without a frame are gaps."""
        return self.kind == "stream"

    @property
    def grid(self) -> Grid:
        """The video's slots."""
        return Grid(self.sample_fps, self.recorded_at)

    @property
    def content_key(self) -> str | None:
        """Identifies the content and how it is sampled; None until the content is known."""
        return self.sha256 and f"{self.sha256}-{self.sample_fps!r}-{self.mode}"

    @property
    def settled(self) -> bool:
        """Whether no ingest job is left to do; a stream has none."""
        return self.status in ("ready", "duplicate", "failed", "live")


class Progress(Document):
    """How far the work on a video is. `eta_s` counts seconds of work, `encoded_until_s` seconds of the video."""

    frames_sampled: int
    frames_expected: int | None
    frames_encoded: int
    frames_failed: int = Field(0, description="Frames of segments that could not be encoded; `retry` tries them again.")
    encoded_until_s: float = Field(description="Everything before this second of the video can be asked about.")
    eta_s: float | None = Field(None, description="Estimated seconds until all is encoded; empty while unknown.")
    complete: bool = Field(description="Nothing more will be sampled or encoded.")


class Options(Document):
    """How an answer is decoded."""

    temperature: float = Field(0.0, ge=0, le=2, description="0: greedy.")
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, description="Empty: the configured limit.")
    seed: int = Field(0, ge=0)


class Evidence(Document):
    """A frame that an answer is based on."""

    slot: int
    t_s: float
    at: datetime | None = Field(None, description="The wall-clock time, if the video has one.")
    score: float = Field(description="Share of the question's attention among all frames of the stretch.")
    picture: str = Field(description="Path of the picture in the API.")


class Tokens(Document):
    """How many positions in the LLM's context each part takes."""

    text: int
    vision: int
    answer: int


class Timings(Document):
    """Seconds each part of answering took; first_token_s and total_s count from when the question was asked."""

    queue_s: float
    fusion_s: float
    prefill_s: float
    first_token_s: float
    total_s: float


class Gap(Document):
    """A time in which a stream has no frames."""

    start: datetime
    end: datetime


class Answer(Document):
    """The answer, the frames it is based on, and how it was made."""

    text: str
    finish_reason: Literal["stop", "length", "cancelled"]
    start_s: float
    end_s: float
    start_at: datetime | None = None
    end_at: datetime | None = None
    frames: int = Field(description="Frames of the stretch, all of them in the LLM's context.")
    frames_missing: int = Field(0, description="Frames of the stretch that were not encoded (yet, or not at all).")
    gaps: tuple[Gap, ...] = Field((), description="Times of the stretch in which a stream has no frames.")
    seen: float = Field(1.0, description="Share of the stretch that has frames; less than 1 only for streams.")
    probability: float | None = Field(
        None, description="Of the answer's first token; of yes and no, against the other one."
    )
    fusion: FusionMode
    fusion_frames: int = Field(description="Frames over which the question's text was fused.")
    evidence: tuple[Evidence, ...] = ()
    encoded_until_s: float
    video_complete: bool = Field(description="False: answered while the video was still being encoded.")
    tokens: Tokens
    timings: Timings


class Question(Document):
    """A question about a stretch of a video, and its answer once there is one."""

    version: int = VERSION
    id: str
    video_id: str
    text: str
    start_s: float = 0.0
    end_s: float | None = None
    fusion: FusionMode
    partial: bool = Field(
        False, description="Wait only for the first segment of the stretch; answer over what is encoded then."
    )
    options: Options = Options()
    previous_question_id: str | None = None
    status: QuestionStatus = "queued"
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    answer: Answer | None = None
    problem: Problem | None = None

    @property
    def settled(self) -> bool:
        """Whether the status is final."""
        return self.status in ("done", "failed", "cancelled")


Kept = TypeVar("Kept", bound=Document)


def parse_document(kind: type[Kept], content: bytes, path: str) -> Kept:
    """The document in `content`, read from `path`; raises NewerDocument, DamagedFile."""
    try:
        version = json.loads(content).get("version", VERSION)
        if isinstance(version, int) and version > VERSION:
            raise NewerDocument(
                f"{path} was written by a newer Longwatch (version {version}, not {VERSION}): upgrade this one"
            )
        return kind.model_validate_json(content)
    except (ValidationError, ValueError, AttributeError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged: {error}; restore it from a backup, or delete the video") from error
