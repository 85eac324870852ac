"""What the API accepts and returns of watches (standing questions)."""

from datetime import datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import regex
from pydantic import AfterValidator, BaseModel, Field

from api import examples
from api.moments import TEXT
from api.schemas import Request, RequestMoment, shown
from api.views import Failure
from storage.live_documents import Match, Notify, Schedule, Watch
from storage.watch_trials import TrialEvaluation, WatchTrial
from storage.watches import Evaluation


def _known_zone(schedule: Schedule) -> Schedule:
    try:
        ZoneInfo(schedule.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"timezone: {schedule.timezone!r} is not known: give an IANA name, or UTC") from error
    return schedule


def _valid_regex(match: Match) -> Match:
    if match.regex is not None:
        try:
            regex.compile(match.regex)
        except regex.error as error:
            raise ValueError(f"regex: {error}") from error
    return match


def _not_empty(question: str) -> str:
    if not question.strip():
        raise ValueError("the question is empty")
    return question.strip()


Question = Annotated[str, AfterValidator(_not_empty), Field(max_length=4000, json_schema_extra={"minLength": 1})]
Seconds = Annotated[float, Field(gt=0, le=86400)]


class WebhookRequest(Request):
    """Where events are posted to."""

    url: str = Field(max_length=4096, description="http or https.")
    secret: str = Field("", max_length=256, description="Signs the events; never shown again.")


class WatchChange(Request):
    """Changes of a watch; fields that are left out stay as they are. Its `question` and times cannot change."""

    model_config = shown(examples.WATCH_CHANGE)

    notify: Notify = Field("change", description="When there is an event: see docs/live.md.")
    match: Annotated[Match, AfterValidator(_valid_regex)] | None = None
    min_probability: float = Field(0.0, ge=0, le=1, description="Less probable answers are ignored.")
    cooldown_s: float = Field(0.0, ge=0, le=30 * 86400, description="No event for this long after one.")
    hold: int = Field(1, ge=1, le=1000, description="Evaluations in a row that must agree before an event.")
    schedule: Annotated[Schedule, AfterValidator(_known_zone)] | None = Field(None, description="Empty: always.")
    webhook: WebhookRequest | None = None


class WatchRequest(WatchChange):
    """A standing question about a stream."""

    model_config = shown(examples.WATCH_REQUEST)

    question: Question
    every_s: Seconds = Field(10.0, description="How often it is evaluated.")
    window_s: Seconds | None = Field(
        None, description="Over how much of the stream each time: a multiple of `every_s`. Empty: `every_s`."
    )


class TrialRequest(Request):
    """A past stretch to try a watch on."""

    start: RequestMoment | None = Field(None, description=TEXT)
    end: RequestMoment | None = Field(None, description=f"{TEXT} Empty: until now.")
    last_s: float | None = Field(None, gt=0, allow_inf_nan=False, description="Instead of a time: the last seconds.")


class TrialView(BaseModel):
    """What a watch would have answered and sent over a past stretch."""

    id: str
    watch_id: str
    status: Literal["queued", "running", "done", "failed"]
    evaluations: list[TrialEvaluation] = Field(description="In order; intervals without frames are left out.")
    problem: Failure | None


class WebhookView(BaseModel):
    """Where events are posted to."""

    url: str
    signed: bool = Field(description="Whether there is a secret.")


class WatchView(BaseModel):
    """A watch, and its last evaluation."""

    model_config = shown(examples.WATCH)

    id: str
    stream_id: str
    question: str
    every_s: float
    window_s: float
    notify: Notify
    match: Match | None
    min_probability: float
    cooldown_s: float
    hold: int
    schedule: Schedule | None
    webhook: WebhookView | None
    created_at: datetime
    last: Evaluation | None


class WatchList(BaseModel):
    """The watches of a stream, oldest first."""

    watches: list[WatchView]


class History(BaseModel):
    """The last evaluations of a watch, newest first. They are lost with the state; events are not."""

    evaluations: list[Evaluation]


def view_watch(watch: Watch, last: Evaluation | None) -> WatchView:
    """The view of a watch, without its secret."""
    webhook = watch.webhook and WebhookView(url=watch.webhook.url, signed=bool(watch.webhook.secret))
    fields = watch.model_dump(include=set(WatchView.model_fields) - {"webhook"})
    return WatchView.model_validate(fields | {"webhook": webhook, "last": last})


def view_trial(trial: WatchTrial) -> TrialView:
    """The view of a trial."""
    return TrialView.model_validate(trial.model_dump(include=set(TrialView.model_fields)))
