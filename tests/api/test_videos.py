"""Videos over HTTP: submitted, listed, read, deleted. Invalid requests are refused with a reason."""

import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from configs.settings import Settings
from jobs.intake import Intake
from jobs.names import ANSWER, FETCH, INGEST
from jobs.queues import Queues
from storage.archive import Archive
from storage.documents import Problem
from storage.ids import new_video_id
from storage.store import Store
from tests.api.conftest import MODEL, Seed, new_question, require_problem
from tests.durability import make_step, record_steps

FILE = b"not yet looked into " * 1000


def test_a_url_is_accepted_and_queued_without_showing_its_secrets(
    http: httpx.Client, store: Store, queues: Queues
) -> None:
    url = "https://user:secret@example.org:8443/a.mp4?token=secret"
    response = http.post("/v1/videos", json={"url": url, "mode": "keyframes"})
    video = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/videos/{video['id']}"
    assert (video["source"], video["status"]) == ("https://example.org:8443/a.mp4", "queued")
    assert "secret" not in response.text
    assert "location" not in video
    kept = store.archive.read_video(video["id"])
    assert (kept.location, kept.mode) == (url, "keyframes")
    assert queues.list_live(FETCH, [f"fetch-{kept.id}"])
    assert http.get(response.headers["location"]).json()["id"] == video["id"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"url": "ftp://example.org/a.mp4"}, 400, "bad-request"),
        ({"url": "file:///etc/passwd"}, 400, "bad-request"),
        ({"url": "https:///a.mp4"}, 400, "bad-request"),
        ({"url": "http://example.org:99999/"}, 400, "bad-request"),
        ({"url": "http://[::1/"}, 400, "bad-request"),
        ({"url": "http://example.org/\nhost: b"}, 400, "bad-request"),
        ({"path": "a.mp4"}, 400, "bad-request"),
        ({"path": "/\u0000"}, 400, "bad-request"),
        ({"path": "/etc/passwd"}, 403, "source-refused"),
        ({"url": "http://example.org/a.mp4", "path": "/a"}, 422, "invalid"),
        ({"url": "http://example.org/a.mp4", "fps": 2}, 422, "invalid"),
        ({"url": "http://example.org/a.mp4", "mode": "fast"}, 422, "invalid"),
        ({"url": 5}, 422, "invalid"),
        ({}, 422, "invalid"),
        ([], 422, "invalid"),
    ],
)
def test_invalid_sources_are_refused(http: httpx.Client, store: Store, body: Any, status: int, code: str) -> None:
    problem = require_problem(http.post("/v1/videos", json=body), status, code)
    if code == "invalid":
        assert problem["errors"][0]["at"].startswith("body")
    assert store.archive.list_video_ids() == []


def test_a_path_is_checked_after_its_symlinks_are_resolved(http: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "in.mp4").write_bytes(FILE)
    (tmp_path / "out.mp4").symlink_to("/etc/passwd")
    (tmp_path / "ring.mp4").symlink_to(tmp_path / "ring.mp4")
    video = http.post("/v1/videos", json={"path": f"{tmp_path}/in.mp4"}).json()
    assert (video["kind"], video["source"]) == ("path", "in.mp4")
    for outside in ("out.mp4", "../../../../../../../../etc/passwd"):
        problem = require_problem(
            http.post("/v1/videos", json={"path": f"{tmp_path}/{outside}"}), 403, "source-refused"
        )
        assert "ingest.allowed_roots" in problem["detail"]
    require_problem(http.post("/v1/videos", json={"path": f"{tmp_path}/ring.mp4"}), 400, "bad-request")


def test_a_video_can_be_given_a_title_and_its_wall_clock(http: httpx.Client) -> None:
    known = {"title": " The garden ", "recorded_at": "2026-11-21T14:02:00+01:00"}
    by_url = http.post("/v1/videos", json={"url": "https://example.org/a.mp4", **known})
    upload = http.post("/v1/videos", files={"file": ("a.mp4", FILE)}, data=known)
    for response in (by_url, upload):
        assert response.status_code == 202, response.text
        video = response.json()
        assert (video["title"], video["recorded_at"]) == ("The garden", "2026-11-21T13:02:00Z")
        assert (video["media"], video["progress"]["frames_sampled"]) == ("video", 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"title": "a\x1b[2J"},
        {"title": "x" * 201},
        {"title": ""},
        {"recorded_at": "2026-11-21T14:02:00"},  # in which time zone?
        {"recorded_at": "yesterday"},
        {"recorded_at": "9999-12-31T23:59:59Z"},
        {"recorded_at": "0001-01-01T00:00:00+23:59"},
    ],
)
def test_an_invalid_title_or_clock_is_refused(http: httpx.Client, store: Store, fields: dict[str, str]) -> None:
    require_problem(http.post("/v1/videos", json={"url": "https://example.org/a", **fields}), 422, "invalid")
    require_problem(http.post("/v1/videos", files={"file": ("a", FILE)}, data=fields), 422, "invalid")
    require_problem(http.post("/v1/videos", json={"url": "https://example.org/a", "recorded_at": 5}), 422, "invalid")
    assert store.archive.list_video_ids() == []


def test_an_upload_goes_into_the_archive_so_that_any_host_can_ingest_it(
    http: httpx.Client, store: Store, settings: Settings, queues: Queues, tmp_path: Path
) -> None:
    files = {"file": ("../holi\x07days [1].mp4", FILE)}
    response = http.post("/v1/videos", files=files, data={"mode": "keyframes"})
    assert response.status_code == 202, response.text
    kept = store.archive.read_video(response.json()["id"])
    assert store.archive.open_source(kept.id, tmp_path / "copy").read_bytes() == FILE
    assert queues.list_live(INGEST, [f"ingest-{kept.id}"])
    assert list(settings.work_dir.iterdir()) == []
    assert (kept.kind, kept.mode, kept.location, kept.in_archive) == ("upload", "keyframes", "", True)
    assert "/" not in kept.source
    assert kept.source.isprintable()
    assert kept.source.endswith("days [1].mp4")


def test_an_upload_is_synced_before_the_archive_takes_it(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, put = record_steps(monkeypatch), Archive.put_source
    synced: list[bool] = []

    def look(self: Archive, video_id: str, file: Path) -> None:
        synced.append(make_step("sync", file.stat()) in steps)
        put(self, video_id, file)

    monkeypatch.setattr(Archive, "put_source", look)
    assert http.post("/v1/videos", files={"file": ("a.mp4", b"in the buffer")}).status_code == 202
    assert synced == [True]


def test_uploading_the_same_bytes_again_returns_the_video_that_has_them(
    http: httpx.Client, store: Store, settings: Settings
) -> None:
    first = http.post("/v1/videos", files={"file": ("a.mp4", FILE)})  # not even ingested yet
    again = http.post("/v1/videos", files={"file": ("b.mp4", FILE)})
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["location"] == first.headers["location"]
    other = http.post("/v1/videos", files={"file": ("b.mp4", FILE + b".")})
    assert other.status_code == 202
    assert len(store.archive.list_video_ids()) == 2
    assert list(settings.work_dir.iterdir()) == []


def test_uploading_the_same_bytes_again_fills_in_a_settled_video(http: httpx.Client, seed: Seed, store: Store) -> None:
    def upload(**fields: str) -> dict[str, object]:
        again = http.post("/v1/videos", files={"file": ("b.mp4", FILE)}, data=fields)
        assert again.status_code == 200
        shown: dict[str, object] = again.json()
        return {name: shown[name] for name in ("id", "title", "recorded_at")}

    sha256 = hashlib.sha256(FILE).hexdigest()
    video = seed(kind="upload", sha256=sha256)
    store.claim_content(video)
    lacking = {"id": video.id, "title": None, "recorded_at": None}
    titled = lacking | {"title": "The garden"}
    assert upload() == lacking
    assert upload(title="The garden") == titled
    assert upload(title="Another", recorded_at="2026-11-21T14:00:00Z") == titled | {
        "recorded_at": "2026-11-21T14:00:00Z"
    }
    assert store.archive.read_video(video.id).title == "The garden"
    store.update_video(store.read_video(video.id).model_copy(update={"status": "sampling", "title": None}))
    assert upload(title="Another")["title"] is None  # until it is settled, only the worker writes its document


def test_an_upload_that_the_archive_cannot_store_leaves_nothing_behind(
    http: httpx.Client, store: Store, settings: Settings
) -> None:
    folder = store.archive.files.local_path("")
    assert folder is not None
    folder.mkdir(parents=True)
    folder.rename(folder.with_name("aside"))
    folder.write_text("a file where the folder should be")
    refused = http.post("/v1/videos", files={"file": ("a.mp4", FILE)})
    require_problem(refused, 503, "archive-unavailable")
    folder.unlink()
    assert list(settings.work_dir.iterdir()) == []
    accepted = http.post("/v1/videos", files={"file": ("a.mp4", FILE)})
    assert accepted.status_code == 202
    assert store.archive.list_video_ids() == [accepted.json()["id"]]


def test_videos_over_the_limit_are_told_to_retry(http: httpx.Client, settings: Settings) -> None:
    most = settings.api.max_unsettled_videos
    for number in range(most):
        assert http.post("/v1/videos", json={"url": f"https://example.org/{number}"}).status_code == 202
    for refused in (
        http.post("/v1/videos", json={"url": "https://example.org/a"}),
        http.post("/v1/videos", files={"file": ("a.mp4", FILE)}),
    ):
        assert "api.max_unsettled_videos" in require_problem(refused, 429, "too-many")["detail"]
        assert int(refused.headers["retry-after"]) > 0
    assert list(settings.work_dir.glob("*")) == []


def test_a_refused_upload_leaves_nothing_behind(http: httpx.Client, store: Store, settings: Settings) -> None:
    large = b"x" * (settings.api.max_upload_bytes + 1)
    too_large = http.post("/v1/videos", files={"file": ("a.mp4", large)})
    assert "api.max_upload_bytes" in require_problem(too_large, 413, "too-large")["detail"]
    huge = http.post("/v1/videos", files={"file": ("a.mp4", large * 2)})
    require_problem(huge, 413, "too-large")
    require_problem(http.post("/v1/videos", files={"movie": ("a.mp4", FILE)}), 400, "bad-request")
    require_problem(http.post("/v1/videos", files={"file": ("a.mp4", b"")}), 400, "bad-request")
    require_problem(http.post("/v1/videos", files={"file": ("a.mp4", FILE)}, data={"fps": "2"}), 422, "invalid")
    two = [("file", ("a.mp4", FILE)), ("file", ("b.mp4", FILE))]
    require_problem(http.post("/v1/videos", files=two), 400, "bad-request")
    cut = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
    for body, kind in ((cut, "multipart/form-data; boundary=x"), (b"abc", "multipart/form-data; boundary=x")):
        require_problem(http.post("/v1/videos", content=body, headers={"content-type": kind}), 400, "bad-request")
    bare = http.post("/v1/videos", content=cut, headers={"content-type": "multipart/form-data"})
    require_problem(bare, 400, "bad-request")
    assert store.archive.list_video_ids() == []
    assert list(settings.work_dir.glob("*")) == []


def test_an_upload_that_cannot_be_written_says_where(http: httpx.Client, settings: Settings) -> None:
    settings.data_dir.mkdir(exist_ok=True)
    settings.work_dir.write_text("a file where a folder should be")
    problem = require_problem(http.post("/v1/videos", files={"file": ("a", FILE)}), 503, "work-dir-unavailable")
    assert str(settings.work_dir) in problem["detail"]


def test_the_list_is_paged_newest_first(http: httpx.Client, seed: Seed) -> None:
    ids = sorted((seed(frames=0, encoded=0).id for _ in range(5)), reverse=True)
    seen, cursor = list[str](), None
    while True:
        page = http.get("/v1/videos", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [video["id"] for video in page["videos"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids
    for params in ({"limit": "0"}, {"limit": "201"}, {"limit": "x"}):
        require_problem(http.get("/v1/videos", params=params), 422, "invalid")
    require_problem(http.get("/v1/videos", params={"cursor": "../.."}), 400, "bad-request")


def test_a_prefix_finds_the_videos_whose_ids_begin_with_it(http: httpx.Client, seed: Seed) -> None:
    first, second = (seed(frames=0, encoded=0).id for _ in range(2))
    assert [each["id"] for each in http.get("/v1/videos", params={"prefix": first}).json()["videos"]] == [first]
    both = http.get("/v1/videos", params={"prefix": first[:8], "limit": 1}).json()
    rest = http.get("/v1/videos", params={"prefix": first[:8], "cursor": both["next_cursor"]}).json()
    assert [each["id"] for each in (*both["videos"], *rest["videos"])] == [second, first]
    assert http.get("/v1/videos", params={"prefix": "1"}).json()["videos"] == []
    for wrong in ("x", "\xff", "0" * 65):
        require_problem(http.get("/v1/videos", params={"prefix": wrong}), 422, "invalid")


def test_the_problem_with_an_unreadable_document_says_why(http: httpx.Client, seed: Seed, store: Store) -> None:
    damaged, newer = seed(frames=0, encoded=0), seed(frames=0, encoded=0)
    store.archive.files.write(f"{damaged.id}/video.json", b"{}")
    store.archive.files.write(f"{newer.id}/video.json", b'{"version": 9}')
    store.state.flushall()
    assert "video.json" in require_problem(http.get(f"/v1/videos/{damaged.id}"), 500, "file-damaged")["detail"]
    assert "newer" in require_problem(http.get(f"/v1/videos/{newer.id}"), 409, "newer-version")["detail"]


def test_a_video_shows_its_progress(http: httpx.Client, seed: Seed) -> None:
    video = seed(frames=140, encoded=128, status="sampling", frames_sampled=None, frames_expected=200)
    copy = seed(frames=0, encoded=0, status="duplicate", duplicate_of=video.id)
    for each in (video, copy):
        progress = http.get(f"/v1/videos/{each.id}").json()["progress"]
        assert [progress[f"frames_{what}"] for what in ("sampled", "expected", "encoded")] == [140, 200, 128]
        assert (progress["complete"], progress["encoded_until_s"]) == (False, 128.0)


def test_after_a_flush_progress_is_unknown_until_it_is_counted_again(
    http: httpx.Client, seed: Seed, store: Store
) -> None:
    video = seed()
    before = http.get(f"/v1/videos/{video.id}").json()
    store.state.flushall()
    assert http.get(f"/v1/videos/{video.id}").json() == before | {"progress": None}
    store.workers.announce_model(MODEL)
    store.count_video(video)
    assert http.get(f"/v1/videos/{video.id}").json()["progress"]["complete"]


def test_a_failed_video_can_be_retried(http: httpx.Client, seed: Seed, store: Store, queues: Queues) -> None:
    problem = Problem(code="source-unavailable", message="404: \x1b[2J")
    video = seed(frames=0, encoded=0, status="failed", frames_sampled=None, problem=problem)
    assert http.get(f"/v1/videos/{video.id}").json()["problem"]["message"] == r"404: \x1b[2J"
    again = http.post(f"/v1/videos/{video.id}/retry")
    assert (again.status_code, again.headers["location"]) == (202, f"/v1/videos/{video.id}")
    assert (again.json()["status"], again.json()["problem"]) == ("queued", None)
    assert queues.list_live(FETCH, [f"fetch-{video.id}"])
    require_problem(http.post(f"/v1/videos/{seed().id}/retry"), 409, "conflict")
    require_problem(http.post(f"/v1/videos/{new_video_id()}/retry"), 404, "not-found")


def test_segments_that_could_not_be_encoded_can_be_retried(
    http: httpx.Client, seed: Seed, store: Store, queues: Queues
) -> None:
    video = seed(frames=128, encoded=64)
    store.coverage.mark_failed(video.id, 1, (1 << 64) - 1, MODEL, "no memory")
    assert http.get(f"/v1/videos/{video.id}").json()["progress"]["frames_failed"] == 64
    again = http.post(f"/v1/videos/{video.id}/retry")
    assert (again.status_code, again.json()["progress"]["frames_failed"]) == (202, 0)
    assert queues.list_live("encode", [f"encode-{video.id}-1"])


def test_deleting_a_video_deletes_everything_that_belongs_to_it(
    http: httpx.Client, seed: Seed, store: Store, intake: Intake, queues: Queues
) -> None:
    video = seed()
    question = intake.add_question(new_question(video))
    copy = seed(frames=0, encoded=0, status="duplicate", duplicate_of=video.id)
    problem = require_problem(http.delete(f"/v1/videos/{video.id}"), 409, "conflict")
    assert copy.id in problem["detail"]
    assert queues.list_live(ANSWER, [f"answer-{question.id}"])
    for each in (copy, video):
        assert http.delete(f"/v1/videos/{each.id}").status_code == 204
        require_problem(http.delete(f"/v1/videos/{each.id}"), 404, "not-found")
    assert store.archive.list_video_ids() == []
    assert http.get("/v1/videos").json()["videos"] == []
    assert not store.answers.is_wanted(question.id)  # a reasoner that is answering it stops
    require_problem(http.get(f"/v1/questions/{question.id}"), 404, "not-found")


@pytest.mark.parametrize(
    "video_id", ["20261121-000000000-aaaaaa", "x", "%2e%2e", "..%2fcontents", "contents", "%00", "a" * 3000]
)
@pytest.mark.parametrize("rest", ["", "/segments", "/events", "/frames/1.jpg", "/frame?at=1", "/source", "/questions"])
def test_an_invalid_id_is_not_found_whatever_it_contains(http: httpx.Client, video_id: str, rest: str) -> None:
    require_problem(http.get(f"/v1/videos/{video_id}{rest}"), 404, "not-found")
