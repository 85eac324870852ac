"""The documents of live video: a stream's present state, standing questions (watches), and events."""

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, Field, model_validator

from storage.documents import VERSION, Document, Evidence, Problem
from storage.text import escape_controls

StreamCondition = Literal["connecting", "online", "offline", "paused"]
EventType = Literal["match", "answer", "online", "offline", "gap", "frozen", "lag", "retention", "error"]
Notify = Literal["change", "always", "match"]
DeliveryStatus = Literal["pending", "delivered", "dead"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class StreamState(Document):
    """What the capturing host last said of a stream. Kept in Redis only; nobody says anything while no host has it."""

    state: StreamCondition
    since: datetime = Field(description="When that began.")
    problem: Problem | None = Field(None, description="Why it is offline.")
    next_try_at: datetime | None = None
    host: str = ""
    input_fps: float | None = None
    codec: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    has_audio: bool = False
    last_frame_at: datetime | None = None
    frames_sampled: int = Field(0, description="By this host since it captures the stream.")
    frames_static: int = Field(0, description="Of these, how many reuse the token of the frame before.")
    frames_lost: int = Field(0, description="Damaged or late frames that were not kept.")
    reconnects: int = 0
    lag_s: float = Field(0.0, description="How long the oldest frame that is not encoded has been waiting.")
    frozen_since: datetime | None = Field(None, description="The picture has not changed by a single bit since then.")


class Match(Document):
    """Which answers count. Exactly one of the three is given; case does not matter."""

    equals: str | None = Field(None, max_length=200)
    contains: str | None = Field(None, max_length=200)
    regex: str | None = Field(None, max_length=200)

    @model_validator(mode="after")
    def _one(self) -> "Match":
        if sum(value is not None for value in (self.equals, self.contains, self.regex)) != 1:
            raise ValueError("give exactly one of equals, contains and regex")
        return self


class Schedule(Document):
    """When a watch may notify. `start` after `end` means over midnight."""

    days: tuple[Day, ...] = Field(("mon", "tue", "wed", "thu", "fri", "sat", "sun"), min_length=1)
    start: str = Field("00:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    end: str = Field("24:00", pattern=r"^(([01]\d|2[0-3]):[0-5]\d|24:00)$")
    timezone: str = Field("UTC", max_length=64, description="An IANA name such as Europe/Berlin.")


class Webhook(Document):
    """Where events are posted to. `secret` signs them, and is never shown."""

    url: str = Field(max_length=4096)
    secret: str = Field("", max_length=256, repr=False)


class Watch(Document):
    """A standing question about a stream (`watches/{id}.json`)."""

    version: int = VERSION
    id: str
    stream_id: str
    question: str
    every_s: float = Field(10.0, description="How often it is evaluated.")
    window_s: float = Field(10.0, description="Over how much of the stream before each evaluation.")
    notify: Notify = "change"
    match: Match | None = None
    min_probability: float = Field(0.0, ge=0, le=1, description="Less probable answers are ignored.")
    cooldown_s: float = Field(0.0, ge=0, description="No event for this long after one.")
    hold: int = Field(1, ge=1, description="Evaluations in a row that must agree before an event.")
    schedule: Schedule | None = None
    webhook: Webhook | None = None
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Event(Document):
    """Something that happened to a stream, or an answer of a watch (`events/{day}/{id}.json`)."""

    version: int = VERSION
    id: str = Field(description="Ids sort in the order in which events are delivered.")
    type: EventType
    stream_id: str
    at: datetime = Field(description="When it happened; of a watch's answer, the end of its window.")
    message: str = Field("", description="For people.")
    start_at: datetime | None = Field(None, description="Of what it is about: a gap, a watch's window.")
    end_at: datetime | None = None
    watch_id: str | None = None
    question: str | None = None
    answer: str | None = None
    probability: float | None = None
    evidence: tuple[Evidence, ...] = ()
    picture: str | None = Field(None, description="Path of a picture in the API.")
    clip: str | None = Field(None, description="Path of a clip in the API.")
    key: str = Field("", description="What it is about, once: publishing the same key again changes nothing.")


class PublicEvent(BaseModel):
    """An event as the API and webhooks show it."""

    id: str = Field(description="Ids sort in the order in which events are delivered.")
    type: EventType
    stream_id: str
    at: datetime = Field(description="When it happened; of a watch's answer, the end of its window.")
    watch_id: str | None
    answer: str | None
    probability: float | None
    evidence: tuple[Evidence, ...]
    message: str
    start_at: datetime | None
    end_at: datetime | None
    picture: str | None
    clip: str | None


class Delivery(Document):
    """What became of an event that is posted to its watch's webhook (`events/{day}/{id}.delivery.json`)."""

    version: int = VERSION
    event_id: str
    stream_id: str
    watch_id: str
    status: DeliveryStatus = "pending"
    attempts: int = 0
    reason: str = Field("", description="Why the last attempt failed.")
    changed_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    next_try_at: datetime | None = Field(None, description="Of a pending one.")


def show_event(event: Event) -> PublicEvent:
    """The event without what is internal. Its message may quote a camera's server: control characters are escaped."""
    shown = event.model_dump(include=set(PublicEvent.model_fields))
    return PublicEvent.model_validate(shown | {"message": escape_controls(event.message)})
