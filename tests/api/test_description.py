"""The description of the API, and the page that shows it."""

import json
import re
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from api import examples, problems
from api.docs import FILES, FOLDER
from api.schemas import QuestionRequest, VideoRequest
from api.views import DeliveryView, EventView, QuestionView, VideoView


def test_the_description_shows_every_route_its_examples_and_problems(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()
    routes = {f"{method.upper()} {path}" for path, item in described["paths"].items() for method in item}
    assert routes == {
        "POST /v1/videos",
        "GET /v1/videos",
        "GET /v1/videos/{video_id}",
        "DELETE /v1/videos/{video_id}",
        "GET /v1/videos/{video_id}/segments",
        "POST /v1/videos/{video_id}/retry",
        "GET /v1/videos/{video_id}/frames/{slot}.jpg",
        "GET /v1/videos/{video_id}/frame",
        "GET /v1/videos/{video_id}/source",
        "GET /v1/videos/{video_id}/events",
        "POST /v1/videos/{video_id}/questions",
        "GET /v1/videos/{video_id}/questions",
        "POST /v1/streams",
        "GET /v1/streams",
        "GET /v1/streams/{stream_id}",
        "PATCH /v1/streams/{stream_id}",
        "DELETE /v1/streams/{stream_id}",
        "POST /v1/streams/{stream_id}/pause",
        "POST /v1/streams/{stream_id}/resume",
        "POST /v1/streams/{stream_id}/questions",
        "GET /v1/streams/{stream_id}/questions",
        "GET /v1/streams/{video_id}/segments",
        "GET /v1/streams/{video_id}/frames/{slot}.jpg",
        "GET /v1/streams/{video_id}/frame",
        *(
            f"GET /v1/{kind}/{{video_id}}/{file}"
            for kind in ("videos", "streams")
            for file in ("clip.mp4", "strip.jpg")
        ),
        "GET /v1/streams/{stream_id}/playlist.m3u8",
        "GET /v1/streams/{stream_id}/recordings",
        "GET /v1/streams/{stream_id}/recordings/{name}",
        "POST /v1/streams/{stream_id}/watches",
        "GET /v1/streams/{stream_id}/watches",
        "GET /v1/streams/{stream_id}/watches/{watch_id}",
        "PATCH /v1/streams/{stream_id}/watches/{watch_id}",
        "DELETE /v1/streams/{stream_id}/watches/{watch_id}",
        "GET /v1/streams/{stream_id}/watches/{watch_id}/history",
        "POST /v1/streams/{stream_id}/watches/{watch_id}/test",
        "GET /v1/streams/{stream_id}/watches/{watch_id}/tests/{test_id}",
        "GET /v1/questions/{question_id}",
        "DELETE /v1/questions/{question_id}",
        "GET /v1/events",
        "GET /v1/streams/{stream_id}/events",
        "GET /v1/streams/{stream_id}/deliveries",
        "POST /v1/deliveries/{delivery_id}/redeliver",
        "GET /healthz",
        "GET /readyz",
    }
    schemas = described["components"]["schemas"]
    assert schemas["VideoView"]["examples"] == [without_empty(examples.VIDEO)]
    assert schemas["QuestionView"]["examples"] == [without_empty(examples.QUESTION)]
    assert schemas["QuestionRequest"]["examples"] == [examples.QUESTION_REQUEST]
    posted = described["paths"]["/v1/videos"]["post"]["requestBody"]["content"]
    names = {kind: each["schema"]["$ref"].rsplit("/", 1)[-1] for kind, each in posted.items()}
    assert names == {"application/json": "VideoRequest", "multipart/form-data": "VideoUpload"}
    assert schemas["VideoRequest"]["examples"] == [examples.VIDEO_REQUEST]
    assert schemas["VideoUpload"]["properties"]["file"]["format"] == "binary"


def test_every_error_has_the_same_schema_and_says_when_to_retry(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()
    shared = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, item in described["paths"].items():
        for method, operation in item.items():
            failures = {code: r for code, r in operation["responses"].items() if code >= "400"}
            assert failures or path == "/healthz", (method, path)
            for code, response in failures.items():
                content = {kind: {"schema": each["schema"]} for kind, each in response["content"].items()}
                assert content == shared, (method, path, code)
                assert ("Retry-After" in response.get("headers", {})) == (code in ("429", "503", "507"))
    assert described["components"]["schemas"]["Problem"]["required"] == ["type", "title", "status", "detail"]


def test_the_routes_that_need_the_lists_say_that_these_may_be_rebuilding(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    for method, path in (
        ("get", "/v1/videos"),
        ("delete", "/v1/videos/{video_id}"),
        ("post", "/v1/videos/{video_id}/retry"),
        ("get", "/v1/videos/{video_id}/questions"),
        ("get", "/v1/events"),
        ("get", "/v1/streams/{stream_id}/events"),
        ("get", "/v1/streams/{stream_id}/deliveries"),
    ):
        examples = paths[path][method]["responses"]["503"]["content"][problems.MEDIA_TYPE]["examples"]
        assert "state-rebuilding" in examples, (method, path)


def test_every_reference_resolves(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()
    assert described["openapi"].startswith("3.1.")
    references = set(re.findall(r'"\$ref": ?"([^"]*)"', json.dumps(described)))
    assert len(references) > 10
    for reference in references:
        place = described
        for name in reference.removeprefix("#/").split("/"):
            place = place[name]


def test_a_stream_and_its_json_alternative_are_described_separately(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()
    paths, schemas = described["paths"], described["components"]["schemas"]
    asked = paths["/v1/videos/{video_id}/questions"]["post"]["responses"]
    for answer in (asked["200"], paths["/v1/questions/{question_id}"]["get"]["responses"]["200"]):
        kinds = {kind: each["schema"]["$ref"].rsplit("/", 1)[-1] for kind, each in answer["content"].items()}
        assert list(kinds.items()) == [("application/json", "QuestionView"), ("text/event-stream", "QuestionEvents")]
    assert {"Location", "Preference-Applied"} <= set(asked["202"]["headers"])
    progress = paths["/v1/videos/{video_id}/events"]["get"]["responses"]["200"]["content"]
    assert progress == {"text/event-stream": {"schema": {"$ref": "#/components/schemas/VideoEvents"}}}
    for path in ("/v1/events", "/v1/streams/{stream_id}/events"):
        content = paths[path]["get"]["responses"]["200"]["content"]
        kinds = {kind: each["schema"]["$ref"].rsplit("/", 1)[-1] for kind, each in content.items()}
        assert list(kinds.items()) == [("application/json", "EventPage"), ("text/event-stream", "LiveEvents")]
    assert (schemas["QuestionEvents"]["type"], schemas["VideoEvents"]["type"]) == ("string", "string")
    names = [event["properties"]["event"]["const"] for event in schemas["QuestionEvent"]["oneOf"]]
    assert names == ["question", "waiting", "text", "restart", "answer", "error", "problem"]


def test_the_page_needs_no_other_host(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "//" not in policy  # no other host is allowed, whatever the scripts contain
    parts = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {part.removeprefix("docs/") for part in parts} == {*FILES, "data:,"}
    for name, kind in FILES.items():
        part = http.get(f"/docs/{name}")
        assert part.content == (FOLDER / name).read_bytes()
        assert part.headers["content-type"].startswith(kind)
        assert http.head(f"/docs/{name}").status_code == 200
    assert "//" not in re.sub(r"^// .*$", "", http.get("/docs/start.js").text, flags=re.MULTILINE)
    assert "url(http" not in http.get("/docs/swagger-ui.css").text
    for nothing in ("LICENSE", "..%2f..%2fapp.py", "x"):
        assert http.get(f"/docs/{nothing}").status_code == 404


@pytest.mark.parametrize(
    ("schema", "example"),
    [
        (VideoRequest, examples.VIDEO_REQUEST),
        (QuestionRequest, examples.QUESTION_REQUEST),
        (VideoView, examples.VIDEO),
        (QuestionView, examples.QUESTION),
        (EventView, examples.EVENT),
        (DeliveryView, examples.DELIVERY),
    ],
)
def test_the_examples_match_their_schemas(schema: Any, example: dict[str, Any]) -> None:
    adapter = TypeAdapter(schema)
    shown = adapter.dump_json(adapter.validate_json(json.dumps(example)), by_alias=True, exclude_unset=True)
    assert json.loads(shown) == example


def without_empty(example: Any) -> Any:
    """The example as FastAPI shows it, without null fields."""
    if isinstance(example, dict):
        return {name: without_empty(value) for name, value in example.items() if value is not None}
    return [without_empty(item) for item in example] if isinstance(example, list) else example
