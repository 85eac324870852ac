"""What was sampled from a video, over HTTP: segments, pictures, the original of an image."""

import httpx
import pytest

from storage.store import Store
from tests.api.conftest import JPEG, MODEL, Seed, a_frame, require_problem

CLOCK = "2026-11-21T14:00:00Z"


def test_segments_show_their_times_and_frames(http: httpx.Client, seed: Seed, store: Store) -> None:
    video = seed(frames=140, encoded=64, recorded_at=CLOCK)
    store.coverage.mark_failed(video.id, 1, (1 << 64) - 1, MODEL, "no memory:\x1b[2J buy some")
    copy = seed(frames=0, encoded=0, status="duplicate", duplicate_of=video.id)
    whole = {"start_s": 0.0, "end_s": 64.0, "frames": 64, "mask": "f" * 16, "encoded": True, "problem": None}
    failure = {"code": "not-encoded", "message": r"no memory:\x1b[2J buy some"}
    second = whole | {"start_s": 64.0, "end_s": 128.0, "encoded": False, "problem": failure}
    last = {"start_s": 128.0, "end_s": 140.0, "frames": 12, "mask": "0000000000000fff", "encoded": False}
    expected = [whole, second, last | {"problem": None}]
    for each, clock in ((video, True), (copy, False)):
        segments = http.get(f"/v1/videos/{each.id}/segments").json()["segments"]
        assert [segment.pop("segment") for segment in segments] == [0, 1, 2]
        times = [(segment.pop("start_at"), segment.pop("end_at")) for segment in segments]
        starts = [segment.pop("start") for segment in segments]
        assert starts == ([start for start, _ in times] if clock else [0.0, 64.0, 128.0])
        assert times[1] == (("2026-11-21T14:01:04Z", "2026-11-21T14:02:08Z") if clock else (None, None))
        assert segments == expected


@pytest.mark.parametrize(
    ("stretch", "found"),
    [
        ({"start": "64", "end": "100"}, [1]),
        ({"start": "70"}, [1, 2]),
        ({"end": "2026-11-21T14:01:00Z"}, [0]),
        ({"start": "2026-11-21T15:01:10+01:00", "end": "1e8"}, [1, 2]),
        ({"start": "2020-01-01T00:00:00Z"}, [0, 1, 2]),
        ({"start": "139"}, [2]),
        ({"start": "140"}, []),  # within the grid of the last segment, beyond its last frame
        ({"start": "500"}, []),
        ({"start": "600", "end": "700"}, []),
    ],
)
def test_a_stretch_selects_its_segments(
    http: httpx.Client, seed: Seed, stretch: dict[str, str], found: list[int]
) -> None:
    video = seed(frames=140, encoded=0, recorded_at=CLOCK)
    segments = http.get(f"/v1/videos/{video.id}/segments", params=stretch).json()["segments"]
    assert [segment["segment"] for segment in segments] == found


@pytest.mark.parametrize("wrong", ["-1", "nan", "inf", "x", "1e10", "2026-11-21T14:00:00", "", CLOCK])
def test_an_invalid_time_is_refused(http: httpx.Client, seed: Seed, wrong: str) -> None:
    video = seed(frames=1, encoded=0)  # without a wall clock
    for path in (f"segments?start={wrong}", f"segments?end={wrong}", f"frame?at={wrong}"):
        require_problem(http.get(f"/v1/videos/{video.id}/{path}"), 400, "bad-request")
    require_problem(http.get(f"/v1/videos/{video.id}/segments?start=9&end=9"), 400, "bad-request")


def test_a_picture_is_served_by_its_slot_and_cached_forever(http: httpx.Client, seed: Seed) -> None:
    video = seed()
    copy = seed(frames=0, encoded=0, status="duplicate", duplicate_of=video.id)
    for slot in (0, 63, 64, 69):
        path = f"/v1/videos/{copy.id}/frames/{slot}.jpg"
        for kind, response in ((b"view", http.get(path)), (b"model", http.get(path, params={"kind": "model"}))):
            assert (response.content, response.headers["content-type"]) == (JPEG % (kind, slot), "image/jpeg")
            assert "immutable" in response.headers["cache-control"]
            head = http.head(path, params={"kind": kind.decode()})
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(response.content))
            known = http.get(path, params={"kind": kind.decode()}, headers={"if-none-match": head.headers["etag"]})
            assert (known.status_code, known.content) == (304, b"")
            assert http.get(path, headers={"if-none-match": '"other"'}).status_code == 200
    for nowhere in (70, 128, 10**9):
        require_problem(http.get(f"/v1/videos/{video.id}/frames/{nowhere}.jpg"), 404, "not-found")
    for wrong in ("-1", "1.5", "x", 10**30):
        require_problem(http.get(f"/v1/videos/{video.id}/frames/{wrong}.jpg"), 422, "invalid")
    require_problem(http.get(f"/v1/videos/{video.id}/frames/1.jpg?kind=best"), 422, "invalid")


def test_without_a_picture_for_people_the_view_is_the_models(http: httpx.Client, seed: Seed, store: Store) -> None:
    video = seed(frames=0, encoded=0)
    store.create_segment(video.id, 0, [a_frame(0, view=None), a_frame(1, model=None)])
    pictures = f"/v1/videos/{video.id}/frames"
    assert http.get(f"{pictures}/0.jpg").content == JPEG % (b"model", 0)
    assert http.get(f"{pictures}/1.jpg").content == JPEG % (b"view", 1)
    require_problem(http.get(f"{pictures}/1.jpg?kind=model"), 404, "not-found")


@pytest.mark.parametrize(
    ("at", "slot"),
    [
        ("0", 0),
        ("0.99", 0),
        ("1", 1),
        ("66.5", 66),
        ("70", 69),  # the very end
        ("2026-11-21T14:00:05Z", 5),
        ("2026-11-21T15:00:05+01:00", 5),  # the plus arrives as a space
        ("2026-11-21T15%3A00%3A05%2B01%3A00", 5),
    ],
)
def test_a_time_redirects_to_its_picture(http: httpx.Client, seed: Seed, at: str, slot: int) -> None:
    video = seed(recorded_at=CLOCK)
    found = http.get(f"/v1/videos/{video.id}/frame?at={at}")
    assert (found.status_code, found.headers["location"]) == (307, f"/v1/videos/{video.id}/frames/{slot}.jpg")
    assert http.get(found.headers["location"]).content == JPEG % (b"view", slot)
    found = http.get(f"/v1/videos/{video.id}/frame?at={at}&kind=model")
    assert http.get(found.headers["location"]).content == JPEG % (b"model", slot)


@pytest.mark.parametrize("at", ["70.1", "1e8", "2026-11-21T13:59:59Z"])
def test_a_time_without_a_picture_is_not_found(http: httpx.Client, seed: Seed, at: str) -> None:
    video = seed(recorded_at=CLOCK)
    refused = require_problem(http.get(f"/v1/videos/{video.id}/frame?at={at}"), 404, "not-found")
    assert refused["detail"].endswith("s: the video has frames from 0 to 70 s")


def test_of_a_video_that_comes_in_the_length_so_far_is_told(http: httpx.Client, seed: Seed) -> None:
    coming = {"status": "sampling", "frames_sampled": None, "encoded": 0}
    for frames, words in ((0, "no frames so far"), (64, "frames from 0 to 64 s so far")):
        refused = http.get(f"/v1/videos/{seed(frames=frames, **coming).id}/frame?at=64.5")
        assert require_problem(refused, 404, "not-found")["detail"] == f"no frame at 64.5 s: the video has {words}"


@pytest.mark.parametrize(
    ("start", "kind"),
    [(b"\xff\xd8\xff\xe0", "image/jpeg"), (b"\x89PNG\r\n", "image/png"), (b"RIFF....WEBP", "image/webp")],
)
def test_the_original_of_an_image_is_kept(
    http: httpx.Client, seed: Seed, store: Store, start: bytes, kind: str
) -> None:
    image = seed(frames=1, encoded=1, media="image", in_archive=True)
    copy = seed(frames=0, encoded=0, media="image", status="duplicate", duplicate_of=image.id)
    store.archive.files.write(f"{image.id}/source", start + b" the rest")
    for each in (image, copy):
        source = http.get(f"/v1/videos/{each.id}/source")
        assert (source.content, source.headers["content-type"]) == (start + b" the rest", kind)
        assert source.headers["x-content-type-options"] == "nosniff"
        assert http.head(f"/v1/videos/{each.id}/source").headers["content-length"] == str(len(source.content))
    require_problem(http.get(f"/v1/videos/{seed(in_archive=True).id}/source"), 404, "not-found")
