"""What goes into and comes out of the API."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from api import examples
from storage.models import Answer, FusionMode, Options, Progress, Question, QuestionStatus, Video, VideoStatus

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
LEAST_TEMPERATURE = 0.01  # logits divided by less overflow 16-bit floats
SamplingMode = Literal["exact", "keyframes"]


def _shown(example: JsonDict) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [example]})


class Request(BaseModel):
    """A request body: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class VideoRequest(Request):
    """A video to watch: an address, or a file that this machine has below `ingest.allowed_roots`."""

    model_config = _shown(examples.VIDEO_REQUEST)

    url: str | None = Field(None, max_length=4096, description="http or https.")
    path: str | None = Field(None, max_length=4096, description="A path on the machine of the ingest worker.")
    mode: SamplingMode | None = Field(None, description="Empty: as configured.")

    @model_validator(mode="after")
    def _one_source(self) -> "VideoRequest":
        if (self.url is None) == (self.path is None):
            raise ValueError("give either url or path")
        return self


class UploadFields(Request):
    """A file to watch, sent as a form."""

    mode: SamplingMode | None = Field(None, description="Empty: as configured.")


class QuestionRequest(Request):
    """A question about a stretch of a video."""

    model_config = _shown(examples.QUESTION_REQUEST)

    question: str = Field(min_length=1)
    start_s: Seconds = 0.0
    end_s: Seconds | None = Field(None, description="Empty: to the end.")
    fusion: FusionMode | None = Field(None, description="Empty: as configured (focused).")
    temperature: float = Field(0.0, ge=0, le=2, description=f"0: greedy; else at least {LEAST_TEMPERATURE:g}.")
    top_p: float = Field(1.0, ge=0.01, le=1)
    max_tokens: int | None = Field(None, ge=1, le=4096)
    seed: int = Field(0, ge=0, lt=2**63)
    previous_question_id: str | None = Field(None, description="An answered question of the same video to follow up.")

    @model_validator(mode="after")
    def _forward(self) -> "QuestionRequest":
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError(f"end_s ({self.end_s:g}) must be greater than start_s ({self.start_s:g})")
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise ValueError(f"temperature must be 0 (greedy) or at least {LEAST_TEMPERATURE:g}")
        if not self.question.strip():
            raise ValueError("the question is empty")
        return self


class Failure(BaseModel):
    """Why a video or question failed: a stable code, and what to do."""

    code: str
    message: str


class VideoView(BaseModel):
    """A video as the API shows it: without where it was fetched from, which may hold a password."""

    model_config = _shown(examples.VIDEO)

    id: str
    kind: Literal["url", "path", "upload"]
    source: str
    status: VideoStatus
    created_at: datetime
    sample_fps: float
    mode: SamplingMode
    duration_s: float | None
    width_px: int | None
    height_px: int | None
    source_fps: float | None
    codec: str | None
    duplicate_of: str | None
    truncated: str | None
    problem: Failure | None
    progress: Progress | None = Field(description="Empty only where the archive is damaged.")

    @classmethod
    def of(cls, video: Video, progress: Progress | None) -> "VideoView":
        """The view of a video."""
        return cls.model_validate(video.model_dump(include=set(cls.model_fields)) | {"progress": progress})


class VideoPage(BaseModel):
    """Videos, newest first; `next_cursor` leads to the next page."""

    videos: list[VideoView]
    next_cursor: str | None


class SegmentView(BaseModel):
    """64 frames of a video, the last segment perhaps fewer."""

    segment: int
    start_s: float
    end_s: float
    frames: int
    frames_encoded: int


class SegmentList(BaseModel):
    """Segments in the order of time."""

    segments: list[SegmentView]


class QuestionView(BaseModel):
    """A question, and its answer once there is one."""

    model_config = _shown(examples.QUESTION)

    id: str
    video_id: str
    question: str
    start_s: float
    end_s: float | None
    fusion: FusionMode
    options: Options
    status: QuestionStatus
    created_at: datetime
    previous_question_id: str | None
    answer: Answer | None
    problem: Failure | None

    @classmethod
    def of(cls, question: Question) -> "QuestionView":
        """The view of a question."""
        shown = question.model_dump(include=set(cls.model_fields))
        return cls.model_validate(shown | {"question": question.text})


class QuestionPage(BaseModel):
    """Questions, newest first; `next_cursor` leads to the next page."""

    questions: list[QuestionView]
    next_cursor: str | None


class Health(BaseModel):
    """What works."""

    status: Literal["ok"] = "ok"
    workers: dict[str, int] = Field(default_factory=dict, description="Live workers per queue.")
