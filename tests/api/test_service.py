"""What holds for every route: health, limits, problems, the description."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from api import examples, problems
from api.app import create_app
from configs.settings import ArchiveSettings, RedisSettings, Settings
from storage import errors
from storage.errors import LongwatchError
from storage.store import Store
from tests.api.conftest import Seed, announce, keep, new_question, require_problem, serving
from tests.storage.making import make_stream

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["url", "path", "mode", "title", "recorded_at", "question", "start", "end", "fusion", "partial", "seed"]


def test_the_process_is_alive_and_ready_once_every_part_is(http: httpx.Client, store: Store) -> None:
    assert http.get("/healthz").json()["status"] == "ok"
    missing = require_problem(http.get("/readyz"), 503, "not-ready")["missing"]
    assert [part["part"] for part in missing] == ["ingest", "encode", "reason"]
    assert "longwatch worker reason" in missing[2]["message"]
    for kind in ("ingest", "encode"):
        announce(store, kind)
    missing = require_problem(http.get("/readyz"), 503, "not-ready")["missing"]
    assert [part["part"] for part in missing] == ["reason"]
    announce(store, "reason")
    ready = http.get("/readyz")
    workers = {"ingest": 1, "encode": 1, "reason": 1, "capture": 0}
    assert (ready.status_code, ready.json()["workers"]) == (200, workers)
    assert ready.json()["notes"] == []
    store.add_video(make_stream())
    missing = require_problem(http.get("/readyz"), 503, "not-ready")["missing"]
    assert [part["part"] for part in missing] == ["capture"]
    announce(store, "capture")
    assert http.get("/readyz").status_code == 200


def test_what_works_but_needs_attention_is_noted(http: httpx.Client, store: Store) -> None:
    announce(store, "ingest", trouble="cannot use the archive at /x: \x1b[2J full")
    announce(store, "encode", fingerprint="aaaa")
    announce(store, "reason", fingerprint="bbbb")
    store.index.report_unreadable("/x/video.json", "written by a newer Longwatch")
    notes = http.get("/readyz").json()["notes"]
    assert [note for note in notes if "archive" in note] == [
        r"ingest worker on here: cannot use the archive at /x: \x1b[2J full"
    ]
    assert [note for note in notes if "aaaa, bbbb" in note]
    assert [note for note in notes if "newer" in note]
    store.index.forget_unreadable()
    store.state.delete("lw:state:ready")
    assert require_problem(http.get("/readyz"), 503, "not-ready")["missing"][0]["part"] == "state"


def test_one_server_in_both_roles_is_noted(settings: Settings, store: Store) -> None:
    one = RedisSettings(state_url=settings.state_url, cache_url=settings.state_url)
    for kind in ("ingest", "encode", "reason"):
        announce(store, kind)
    with serving(create_app(settings.model_copy(update={"redis": one}), store), settings.api) as http:
        (note,) = http.get("/readyz").json()["notes"]
    assert "must not evict" in note


def test_missing_parts_are_named_with_what_to_do(settings: Settings) -> None:
    (settings.data_dir.parent / "file").touch()
    nowhere = "redis://127.0.0.1:1/0"
    redis = RedisSettings(state_url=nowhere, cache_url=nowhere, retries=0, connect_timeout_s=0.5)
    archive = ArchiveSettings(url=f"{settings.data_dir.parent}/file/archive")
    absent = settings.model_copy(update={"redis": redis, "archive": archive})
    with serving(create_app(absent, Store.open(absent)), absent.api) as http:
        ready = require_problem(http.get("/readyz"), 503, "not-ready")
        assert [part["part"] for part in ready["missing"]] == ["state", "cache", "archive"]
        assert "archive.url" in ready["detail"]
        assert "redis.state_url" in ready["detail"]
        unavailable = http.post("/v1/videos", json=examples.VIDEO_REQUEST)
        require_problem(unavailable, 503, "redis-unavailable")
        assert int(unavailable.headers["retry-after"]) > 0
        assert http.get("/healthz").status_code == 200


def test_a_request_that_no_route_answers_gets_a_problem_too(http: httpx.Client, seed: Seed) -> None:
    require_problem(http.get("/nowhere"), 404, "not-found")
    assert require_problem(http.put("/v1/videos"), 405, "method-not-allowed")["detail"].startswith("PUT /v1/videos")
    assert http.put("/v1/videos").headers["allow"] == "GET, HEAD, POST"
    assert http.post("/v1/videos/x").headers["allow"] == "DELETE, GET, HEAD"
    assert http.get("/v1/videos/x/retry").headers["allow"] == "POST"
    assert http.delete("/v1/videos/x/frames/1.jpg").headers["allow"] == "GET, HEAD"
    assert http.head("/v1/videos/x/retry").status_code == 405
    form = {"content-type": "multipart/form-data; boundary=x"}  # uploads are for one route only
    path = f"/v1/videos/{seed().id}/questions"
    require_problem(http.post(path, content=b"x" * 3000, headers=form), 413, "too-large")


def test_head_answers_like_get_without_the_body_on_every_route(http: httpx.Client, seed: Seed, store: Store) -> None:
    image = seed(frames=1, encoded=1, media="image", in_archive=True)
    store.archive.files.write(f"{image.id}/source", b"\xff\xd8\xff the rest")
    question = keep(store, new_question(image, status="done"))
    given = {
        "video_id": image.id,
        "question_id": question.id,
        "slot": "0",
        "stream_id": image.id,
        "watch_id": "none",
        "test_id": "none",
        "name": "none",
    }
    paths = [path for path, item in http.get("/openapi.json").json()["paths"].items() if "get" in item]
    for template in [*paths, "/docs", "/openapi.json", "/v1/videos/none"]:
        path = template.format_map(given)
        get, head = (http.request(method, path, params={"at": "0"}) for method in ("GET", "HEAD"))
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert lasting(head.headers) == lasting(get.headers), path
    assert len(paths) > 10


def lasting(headers: httpx.Headers) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "date"}


def test_head_of_an_open_stream_ends_at_once(http: httpx.Client, seed: Seed) -> None:
    coming = seed(frames=64, encoded=0, status="sampling", frames_sampled=None)
    head = http.head(f"/v1/videos/{coming.id}/events")
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


def test_an_unexpected_error_is_a_problem_without_details(settings: Settings, store: Store) -> None:
    app = create_app(settings, store)

    @app.get("/broken")
    def broken() -> None:
        raise KeyError("a secret")

    with serving(app, settings.api) as http:
        response = http.get("/broken")
    require_problem(response, 500, "internal")
    assert "secret" not in response.text


def test_every_error_has_a_kind_of_problem_or_never_leaves_a_worker() -> None:
    assert {problems.KINDS[code][0] for code in problems.HTTP_CODES.values()} == set(problems.HTTP_CODES)
    in_workers = {errors.Surroundings, errors.ForeignRecord, errors.GivenAway, errors.JobNotAllowed}
    for module in (errors, problems):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, LongwatchError) and kind not in in_workers:
                assert kind.code in problems.KINDS, kind
    assert problems.problem_body(LongwatchError.code, "?")["status"] == 500
    assert problems.problem_body("record-foreign", "?")["status"] == 500


def test_control_characters_are_escaped_in_problems(http: httpx.Client) -> None:
    refused = http.get("/v1/videos/%1b%5b2J%e2%80%ae")
    assert r"\x1b[2J\u202e" in require_problem(refused, 404, "not-found")["detail"]


def test_the_docs_list_every_problem_with_its_status() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "api.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d{3}) \|", text, re.MULTILINE)
    assert rows == [(code, str(status)) for code, (status, _) in problems.KINDS.items()]


def test_a_body_of_another_media_type_is_refused(http: httpx.Client, seed: Seed) -> None:
    questions = f"/v1/videos/{seed().id}/questions"
    for path, kinds in (("/v1/videos", [None, "text/plain"]), (questions, [None, "text/plain", "multipart/form-data"])):
        for kind in kinds:
            headers = {"content-type": kind} if kind else {}
            refused = http.post(path, content=b'{"question": "?"}', headers=headers)
            assert "application/json" in require_problem(refused, 415, "unsupported-media-type")["detail"]


@effort(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(st.sampled_from(FIELDS) | st.text(), JSON, max_size=4), where=st.booleans())
def test_no_body_causes_an_internal_error(http: httpx.Client, seed: Seed, body: Any, where: bool) -> None:
    path = "/v1/videos" if where else f"/v1/videos/{seed(frames=1, encoded=1).id}/questions"
    content = json.dumps(body).encode()
    response = http.post(path, content=content, headers={"content-type": "application/json"})
    assert response.status_code in (202, 400, 403, 413, 422, 429), response.text
    if response.is_error:
        assert response.headers["content-type"] == problems.MEDIA_TYPE
