"""The requests that the API accepts."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.config import JsonDict

from api import examples
from api.moments import TEXT, Clock
from storage.documents import FusionMode, Retention
from storage.text import escape_controls

LEAST_TEMPERATURE = 0.01  # dividing logits by less overflows 16-bit floats
SamplingMode = Literal["exact", "keyframes"]


def _one_error(value: object, validate: ValidatorFunctionWrapHandler) -> float | str:
    """Gives one message for an invalid time, instead of one for each accepted type."""
    try:
        moment: float | str = validate(value)
    except ValidationError as error:
        raise ValueError("give seconds from the start (0 or more), or RFC 3339 as text") from error
    return moment


RequestMoment = Annotated[
    Annotated[float, Field(ge=0, allow_inf_nan=False)] | Annotated[str, Field(max_length=64)], WrapValidator(_one_error)
]


def _one_line(title: str) -> str:
    if escape_controls(title) != title:
        raise ValueError("leave out control characters: they cannot be shown")
    return title.strip()


def _not_empty(question: str) -> str:
    if not question.strip():
        raise ValueError("the question is empty")
    return question


Title = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_one_line)]


def shown(example: JsonDict) -> ConfigDict:
    """The configuration of a model with an example in its description."""
    return ConfigDict(json_schema_extra={"examples": [example]})


class Request(BaseModel):
    """A request body: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class UploadFields(Request):
    """A video file, sent as a form."""

    mode: SamplingMode | None = Field(None, description="Empty: as configured.")
    recorded_at: Clock | None = Field(None, description="The wall-clock time of the video's start.")
    title: Title | None = None


class VideoRequest(UploadFields):
    """A video to ingest: an address, or the path of a file below `ingest.allowed_roots`."""

    model_config = shown(examples.VIDEO_REQUEST)

    url: str | None = Field(None, max_length=4096, description="http or https.")
    path: str | None = Field(None, max_length=4096, description="A path on the ingest worker's machine.")

    @model_validator(mode="after")
    def _one_source(self) -> "VideoRequest":
        if (self.url is None) == (self.path is None):
            raise ValueError("give either url or path")
        return self


SampleFps = Annotated[float, Field(gt=0, le=60)]
Secret = Annotated[str, Field(max_length=1024)]


class StreamChange(Request):
    """Changes of a stream; fields that are left out stay as they are. Its `sample_fps` cannot change."""

    model_config = shown(examples.STREAM_CHANGE)

    url: str | None = Field(None, max_length=4096, description="rtsp, rtsps, http or https.")
    name: Title | None = None
    username: Secret | None = Field(None, description="Any characters; never shown again.")
    password: Secret | None = Field(None, description="Any characters; never shown again.")
    transport: Literal["tcp", "udp"] = Field("tcp", description="Of RTSP.")
    decode: SamplingMode | None = Field(None, description="Empty: as configured.")
    record: bool = Field(False, description="Whether the coded video is kept too.")
    retention: Retention = Retention()
    static_threshold: float = Field(
        0.0, ge=0, le=255, description="Frames whose mean difference to the last encoded one is less are not encoded."
    )


class StreamRequest(StreamChange):
    """A camera to capture: RTSP, or live MPEG-TS or MJPEG over HTTP."""

    model_config = shown(examples.STREAM_REQUEST)

    url: str = Field(max_length=4096, description="rtsp, rtsps, http or https.")
    sample_fps: SampleFps | None = Field(None, description="Frames kept a second. Empty: as configured.")


class QuestionRequest(Request):
    """A question about a stretch of a video."""

    model_config = shown(examples.QUESTION_REQUEST)

    question: Annotated[str, AfterValidator(_not_empty), Field(json_schema_extra={"minLength": 1})]
    start: RequestMoment | None = Field(None, description=f"{TEXT} Empty: from the start; see `last_s`.")
    end: RequestMoment | None = Field(None, description=f"{TEXT} Empty: to the end; of a stream, until now.")
    last_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Of a stream: the last seconds. Without any time: the last minute."
    )
    fusion: FusionMode | None = Field(None, description="Empty: as configured (focused).")
    partial: bool = Field(
        False, description="Wait only until the stretch's first segment is encoded; answer over what is encoded then."
    )
    temperature: float = Field(0.0, ge=0, le=2, description=f"0: greedy; else at least {LEAST_TEMPERATURE:g}.")
    top_p: float = Field(1.0, ge=0.01, le=1)
    max_tokens: int | None = Field(None, ge=1, le=4096)
    seed: int = Field(0, ge=0, lt=2**63)
    previous_question_id: str | None = Field(None, description="An answered question of the same video to follow up.")

    @model_validator(mode="after")
    def _sensible(self) -> "QuestionRequest":
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise ValueError(f"temperature must be 0 (greedy) or at least {LEAST_TEMPERATURE:g}")
        if self.last_s is not None and (self.start is not None or self.end is not None):
            raise ValueError("give either last_s, or start and end")
        return self
