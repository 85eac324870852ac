"""The OpenAPI description. What routes share is defined once, among the components."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from api.problems import KINDS, MEDIA_TYPE, problem_body, retry_header
from api.schemas import UploadFields, VideoRequest
from storage.live_documents import EventType

EVENT_STREAM = "text/event-stream"
Described = dict[str, Any]


class WrongField(BaseModel):
    """An invalid field of a request."""

    at: str
    message: str


class MissingPart(BaseModel):
    """A missing part of the service."""

    part: str
    message: str


class Problem(BaseModel):
    """An error (RFC 9457), of media type application/problem+json."""

    type: str = Field(description="Stable: programs should decide by it.")
    title: str
    status: int
    detail: str = Field(description="For people: what failed, where, and what to do.")
    errors: list[WrongField] | None = Field(None, description="Only with `invalid`: each wrong field.")
    missing: list[MissingPart] | None = Field(None, description="Only with `not-ready`: each missing part.")


LIVE_EVENTS: dict[EventType, str] = {
    "match": "A watch's answer matches.",
    "answer": "A watch's answer.",
    "online": "The camera sends again.",
    "offline": "The camera cannot be reached, or sends nothing.",
    "gap": "Frames are missing.",
    "frozen": "The picture does not change.",
    "lag": "The encoder is behind.",
    "retention": "Frames were removed earlier than configured.",
    "error": "Something else went wrong.",
}
# What each stream sends, by component: event -> (schema of its data, or None for plain text; description).
STREAMS: dict[str, dict[str, tuple[str | None, str]]] = {
    "QuestionEvents": {
        "question": ("QuestionView", "The question with its id; always the first event."),
        "waiting": ("QuestionView", "The waiting question, at each change: `waiting` says for what."),
        "text": (None, "The next characters of the answer, verbatim."),
        "restart": (None, "No data: another worker starts over; discard the text so far."),
        "answer": ("QuestionView", "The last event: the question, done or cancelled."),
        "error": ("QuestionView", "The last event: the failed question with its problem."),
        "problem": ("Problem", "The last event: the stream cannot continue."),
    },
    "VideoEvents": {
        "progress": ("VideoView", "The video, at each change."),
        "problem": ("Problem", "The last event: the stream cannot continue."),
    },
    "LiveEvents": {
        **{name: ("EventView", f"The event; its id is the field `id`. {what}") for name, what in LIVE_EVENTS.items()},
        "problem": ("Problem", "The last event: the stream cannot continue."),
    },
}
HEADERS: dict[str, Described] = {
    "Retry-After": {"description": "Seconds until it is worth trying again.", "schema": {"type": "integer"}},
    "Location": {"description": "Where the video or question is.", "schema": {"type": "string"}},
    "Preference-Applied": {"description": "The limit of the wait that was applied.", "schema": {"type": "string"}},
    "ETag": {"description": "For `If-None-Match`.", "schema": {"type": "string"}},
    "Longwatch-Source": {
        "description": "What a clip is made of.",
        "schema": {"type": "string", "enum": ["recording", "pictures"]},
    },
    "Longwatch-Start": {
        "description": "When its first picture was shown: RFC 3339, or seconds if the video has no wall clock.",
        "schema": {"type": "string"},
    },
    "Longwatch-End": {"description": "When it ends.", "schema": {"type": "string"}},
    "Allow": {"description": "The methods of this path.", "schema": {"type": "string"}},
}


def describe(app: FastAPI) -> None:
    """Completes the description of `app` with the components that its routes refer to."""
    plain = app.openapi

    def described() -> Described:
        if app.openapi_schema is None:
            components = plain()["components"]
            components["schemas"].update(_schemas())
            components["headers"] = HEADERS
        return plain()

    app.openapi = described  # type: ignore[method-assign]


def responses(*codes: str) -> dict[int | str, Described]:
    """The problems that a route can answer with, by code; `default` stands for those that any request can cause."""
    described: dict[int | str, Described] = {"default": {"description": "Any other error", **_problem_content()}}
    for code in (*codes, "internal"):
        status, title = KINDS[code]
        known = described.setdefault(status, {"description": title, **_problem_content()})
        known["content"][MEDIA_TYPE]["examples"][code] = {"value": problem_body(code, "what happened, and what to do")}
        if retry_header(status):
            known["headers"] = headers("Retry-After")
    del described["default"]["content"][MEDIA_TYPE]["examples"]
    return described


def headers(*names: str) -> dict[str, Described]:
    """The headers of a response, by name."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def event_stream(component: str, *, beside_json: bool = False) -> Described:
    """The content of a response that is a stream of events; generated clients use the first media type."""
    json: Described = {"application/json": {}} if beside_json else {}  # FastAPI adds the schema of the route's model
    return json | {EVENT_STREAM: {"schema": reference(component)}}


def reference(component: str) -> Described:
    """A reference to a schema among the components."""
    return {"$ref": f"#/components/schemas/{component}"}


def _problem_content() -> Described:
    return {"content": {MEDIA_TYPE: {"schema": reference("Problem"), "examples": {}}}}


def _schemas() -> dict[str, Described]:
    _, models = models_json_schema(
        [(Problem, "validation"), (VideoRequest, "validation"), (UploadFields, "validation")],
        ref_template="#/components/schemas/{model}",
    )
    schemas: dict[str, Described] = models["$defs"]
    upload = schemas.pop("UploadFields")
    upload["properties"] = {"file": {"type": "string", "format": "binary"}} | upload["properties"]
    schemas["VideoUpload"] = upload | {"title": "VideoUpload", "required": ["file"]}
    for component, events_sent in STREAMS.items():
        one = component.removesuffix("s")
        schemas[one] = {"title": one, "oneOf": [_event(one, name, *of) for name, of in events_sent.items()]}
        schemas[component] = {
            "title": component,
            "type": "string",
            "description": f"Server-sent events: {', '.join(f'`{name}`' for name in events_sent)}.",
            "contentMediaType": EVENT_STREAM,
            "contentSchema": {"type": "array", "items": reference(one)},
        }
    return schemas


def _event(kind: str, name: str, component: str | None, description: str) -> Described:
    data: Described = {"type": "string"}
    if component is not None:
        data |= {"contentMediaType": "application/json", "contentSchema": reference(component)}
    return {
        "title": f"{kind}{name.title()}",
        "type": "object",
        "description": description,
        "required": ["event", "data"],
        "properties": {"event": {"type": "string", "const": name}, "data": data},
    }
