"""Videos over HTTP: submitted, listed, looked at, deleted; what cannot be is refused with a reason."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from configs.settings import Settings
from storage.ids import new_video_id
from storage.queues import ANSWER, INGEST
from storage.store import Store
from tests.api.conftest import JPEG, Seed, new_question, require_problem

FILE = b"not yet looked into " * 1000


def test_a_url_is_taken_in_and_queued_without_showing_its_secrets(http: httpx.Client, store: Store) -> None:
    url = "https://user:secret@example.org:8443/a.mp4?token=secret"
    response = http.post("/v1/videos", json={"url": url, "mode": "keyframes"})
    video = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/videos/{video['id']}"
    assert (video["source"], video["status"]) == ("https://example.org:8443/a.mp4", "queued")
    assert "secret" not in response.text
    assert "location" not in video
    kept = store.archive.video(video["id"])
    assert (kept.location, kept.mode) == (url, "keyframes")
    assert store.queues.is_live(INGEST, f"ingest-{kept.id}")
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
def test_what_cannot_be_a_source_is_refused(
    http: httpx.Client, store: Store, body: Any, status: int, code: str
) -> None:
    problem = require_problem(http.post("/v1/videos", json=body), status, code)
    if code == "invalid":
        assert problem["errors"][0]["at"].startswith("body")
    assert store.archive.video_ids() == []


def test_a_path_counts_where_it_really_leads(http: httpx.Client, tmp_path: Path) -> None:
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


def test_an_upload_is_kept_whole_for_ingest(http: httpx.Client, store: Store, settings: Settings) -> None:
    files = {"file": ("../holi\x07days [1].mp4", FILE)}
    response = http.post("/v1/videos", files=files, data={"mode": "keyframes"})
    assert response.status_code == 202, response.text
    kept = store.archive.video(response.json()["id"])
    assert Path(kept.location).read_bytes() == FILE
    assert Path(kept.location).parent == settings.work_dir
    assert (kept.kind, kept.mode) == ("upload", "keyframes")
    assert "/" not in kept.source
    assert kept.source.isprintable()
    assert kept.source.endswith("days [1].mp4")
    http.delete(f"/v1/videos/{kept.id}")
    assert list(settings.work_dir.iterdir()) == []


def test_the_same_bytes_again_lead_to_the_video_that_has_them(
    http: httpx.Client, store: Store, settings: Settings
) -> None:
    first = store.archive.video(http.post("/v1/videos", files={"file": ("a.mp4", FILE)}).json()["id"])
    store.archive.claim_content(first)
    again = http.post("/v1/videos", files={"file": ("b.mp4", FILE)})
    assert (again.status_code, again.json()["id"]) == (200, first.id)
    assert again.headers["location"] == f"/v1/videos/{first.id}"
    assert [path.name for path in settings.work_dir.iterdir()] == [Path(first.location).name]
    assert http.post("/v1/videos", files={"file": ("b.mp4", FILE + b".")}).status_code == 202


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
    assert store.archive.video_ids() == []
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


def test_one_damaged_file_hides_no_other_video(http: httpx.Client, seed: Seed, store: Store) -> None:
    holder, whole = seed(), seed()
    copy = seed(frames=0, encoded=0, status="duplicate", duplicate_of=holder.id)
    store.archive.files.write(f"{holder.id}/video.json", b"{}")
    videos = http.get("/v1/videos").json()["videos"]
    assert {video["id"]: video["progress"] is None for video in videos} == {copy.id: True, whole.id: False}
    require_problem(http.get(f"/v1/videos/{holder.id}"), 404, "not-found")


def test_a_video_shows_its_progress_and_segments(http: httpx.Client, seed: Seed) -> None:
    video = seed(frames=140, encoded=70, status="sampling", frames_sampled=None, frames_expected=200)
    progress = http.get(f"/v1/videos/{video.id}").json()["progress"]
    assert [progress[f"frames_{what}"] for what in ("sampled", "expected", "encoded")] == [140, 200, 70]
    assert (progress["complete"], progress["encoded_until_s"]) == (False, 70.0)

    path = f"/v1/videos/{video.id}/segments"
    segments = http.get(path).json()["segments"]
    assert [(s["segment"], s["start_s"], s["end_s"], s["frames_encoded"]) for s in segments] == [
        (0, 0.0, 64.0, 64),
        (1, 64.0, 128.0, 6),
        (2, 128.0, 140.0, 0),
    ]
    part = http.get(path, params={"start_s": 64, "end_s": 100}).json()["segments"]
    assert [s["segment"] for s in part] == [1]
    require_problem(http.get(path, params={"start_s": 9, "end_s": 9}), 400, "bad-request")
    for wrong in ("-1", "nan", "inf", "x"):
        require_problem(http.get(path, params={"start_s": wrong}), 422, "invalid")


def test_the_frame_nearest_to_a_second_is_served_and_cached(http: httpx.Client, seed: Seed) -> None:
    video = seed()
    copy = seed(frames=0, encoded=0, status="duplicate", duplicate_of=video.id)
    for t_s, index in (("0", 0), ("0.99", 0), ("1", 1), ("66.5", 66), ("70", 69)):
        response = http.get(f"/v1/videos/{copy.id}/frames/{t_s}.jpg")
        assert (response.content, response.headers["content-type"]) == (JPEG % index, "image/jpeg")
    unchanged = http.get(f"/v1/videos/{video.id}/frames/70.jpg", headers={"if-none-match": response.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    for nowhere in ("70.1", "-1", "nan", "inf"):
        require_problem(http.get(f"/v1/videos/{video.id}/frames/{nowhere}.jpg"), 404, "not-found")
    require_problem(http.get(f"/v1/videos/{video.id}/frames/x.jpg"), 422, "invalid")


def test_deleting_takes_everything_along(http: httpx.Client, seed: Seed, store: Store) -> None:
    video = seed()
    question = new_question(video)
    store.add_question(question)
    store.queues.ingest(video.id)
    copy = seed(frames=0, encoded=0, status="duplicate", duplicate_of=video.id)
    problem = require_problem(http.delete(f"/v1/videos/{video.id}"), 409, "conflict")
    assert copy.id in problem["detail"]
    for each in (copy, video):
        assert http.delete(f"/v1/videos/{each.id}").status_code == 204
        require_problem(http.delete(f"/v1/videos/{each.id}"), 404, "not-found")
    assert store.archive.video_ids() == []
    assert not store.queues.is_live(INGEST, f"ingest-{video.id}")
    assert not store.queues.is_live(ANSWER, f"answer-{question.id}")
    assert store.hot.unfinished() == []
    assert store.answers.cancelled(question.id)  # a reasoner that has it in hand stops


@pytest.mark.parametrize("video_id", [new_video_id(), "x", "%2e%2e", "..%2fcontents", "contents", "%00", "a" * 3000])
@pytest.mark.parametrize("rest", ["", "/segments", "/events", "/frames/1.jpg", "/questions"])
def test_an_id_that_is_none_is_not_found_whatever_it_spells(http: httpx.Client, video_id: str, rest: str) -> None:
    require_problem(http.get(f"/v1/videos/{video_id}{rest}"), 404, "not-found")
