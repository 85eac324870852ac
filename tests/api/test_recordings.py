"""What was recorded by a real camera, over HTTP: clips, playlists, files, contact sheets; also after Redis lost all."""

import io
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import httpx
import numpy as np
import pytest

from api.app import create_app
from configs.settings import ArchiveSettings, RedisSettings, Settings
from storage.documents import Video
from storage.store import Store
from tests.api.conftest import Seed, require_problem, serving
from tests.cameras.camera import Camera, camera
from tests.cameras.camera_files import write_camera_file
from tests.conftest import running_redis
from tests.ingest.cameras.capturing import add_camera_stream, capturing
from tests.media import number_of, numbered
from tests.waiting import wait_until

FPS, FILM_S, SAMPLE_FPS = 15, 20, 16.0  # segments of 4 s
SMALL, LARGE = (160, 120), (320, 240)
Shown = list[tuple[int, float, tuple[int, int]]]


@dataclass(frozen=True)
class Captured:
    """Two streams in an archive: one with a reconnect and a change of resolution, one in H.265."""

    archive_url: str
    stream: Video
    hevc: Video
    offset_s: float  # stream's second 0 is so long after the camera's first frame
    answers: dict[str, Any]  # what the service said before Redis was flushed


def fast(settings: Settings) -> Settings:
    cameras = settings.cameras.model_copy(update={"retry_least_s": 0.2, "retry_most_s": 1.0})
    ingest = settings.ingest.model_copy(update={"camera_networks": ("127.0.0.0/8",)})
    return settings.model_copy(update={"cameras": cameras, "ingest": ingest})


def list_recordings(store: Store, stream: Video) -> list[Any]:
    return store.list_recordings(stream, 0.0, 1e6)


def capture(store: Store, settings: Settings, cam: Camera, large: Path) -> tuple[Video, Video]:
    first, second = cam.list_urls()
    stream = add_camera_stream(store, settings, first, SAMPLE_FPS, record=True)
    hevc = add_camera_stream(store, settings, second, SAMPLE_FPS, record=True)
    with capturing(settings):
        wait_until(lambda: len(list_recordings(store, stream)) >= 3 and len(list_recordings(store, hevc)) >= 2)
        cam.end_cleanly()
        wait_until(lambda: len(list_recordings(store, stream)) >= 5)
        cam.switch(large)
        wait_until(lambda: len({each.form for each in list_recordings(store, stream)}) == 2)
        wait_until(lambda: store.coverage.count_sampled(stream.id) > 0)
    return stream, hevc


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Captured]:
    folder = tmp_path_factory.mktemp("captured")
    film = write_camera_file(folder / "film.mp4", FILM_S, fps=FPS, gop=15, size=SMALL)
    large = write_camera_file(folder / "large.mp4", FILM_S, fps=FPS, gop=15, size=LARGE)
    hevc = write_camera_file(folder / "hevc.mp4", FILM_S, fps=FPS, gop=15, size=SMALL, codec="hevc")
    with running_redis() as state, running_redis() as cache, camera(film, hevc) as cam:
        settings = fast(Settings(data_dir=folder / "data", redis=RedisSettings(state_url=state, cache_url=cache)))
        store = Store.open(settings)
        store.index.set_ready(store.index.read_generation())
        store.workers.announce_model("abc123")
        stream, other = capture(store, settings, cam, large)
        assert stream.recorded_at is not None
        offset_s = stream.recorded_at.timestamp() - (time.time() - time.monotonic()) - cam.started_at
        with serving(create_app(settings, store), settings.api) as client:
            answers = {path: client.get(path).content for path in list_paths(stream, other)}
        yield Captured(settings.archive_url, stream, other, offset_s, answers)


def list_paths(stream: Video, other: Video) -> list[str]:
    base, end = f"/v1/streams/{stream.id}", clock(stream, 300)
    return [
        f"{base}/recordings?start=0&end={end}",
        f"{base}/playlist.m3u8?start=0&end={end}",
        f"{base}/clip.mp4?start=0&end={end}",
        f"{base}/clip.mp4?start=5&end=7&source=pictures",
        f"{base}/strip.jpg?start=0&end=8",
        f"/v1/streams/{other.id}/clip.mp4?start=0&end=8",
    ]


def clock(stream: Video, t_s: float) -> str:
    at = stream.grid.clock(t_s)
    assert at is not None
    return at.isoformat().replace("+00:00", "Z")


@pytest.fixture
def settings(settings: Settings, captured: Captured) -> Settings:
    """The same archive, and Redis servers that know nothing of it."""
    return settings.model_copy(update={"archive": ArchiveSettings(url=captured.archive_url)})


def get(http: httpx.Client, stream: Video, path: str, **params: Any) -> httpx.Response:
    headers = params.pop("headers", None)
    return http.get(f"/v1/streams/{stream.id}/{path}", params=params, headers=headers)


def read_shown(source: bytes | str) -> Shown:
    """(number, seconds, size) of each picture that a player shows."""
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else source, "r") as container:
        return [
            (
                number_of(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)),
                frame.time or 0.0,
                (frame.width, frame.height),
            )
            for frame in container.decode(video=0)
        ]


def expect_filmed(captured: Captured, shown: Shown, start_s: float, within_s: float = 1.0) -> None:
    """Each picture is what was filmed at its time, give or take the delivery; neighbours are a frame apart."""
    assert shown
    frames = FILM_S * FPS
    for number, t_s, size in shown:
        if size == LARGE:
            continue  # that film began when the camera was set to it
        filmed = int((captured.offset_s + start_s + t_s) * FPS)
        assert (filmed - number) % frames <= within_s * FPS, (number, t_s, filmed)
    for (one, at_s, size), (other, later_s, later_size) in pairwise(shown):
        assert later_s > at_s
        assert size != later_size or abs((other - one) % frames / FPS - (later_s - at_s)) < 0.3


def read_start_s(stream: Video, response: httpx.Response, name: str = "longwatch-start") -> float:
    return stream.grid.seconds(datetime.fromisoformat(response.headers[name]))


def list_files(http: httpx.Client, stream: Video) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get(http, stream, "recordings", start="0", end="300").json()["recordings"]
    return found


def find_run(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first files, up to the first gap."""
    ends = (at for at, (one, other) in enumerate(pairwise(files), 1) if other["start_s"] - one["end_s"] > 0.3)
    run = files[: next(ends)]
    assert len(run) >= 3
    return run


def test_a_flush_changes_no_answer(captured: Captured, http: httpx.Client, store: Store) -> None:
    for path, before in captured.answers.items():
        assert http.get(path).content == before, path
    shown = http.get(f"/v1/streams/{captured.stream.id}").json()
    assert shown["recordings_bytes"] == sum(each["bytes"] for each in list_files(http, captured.stream))
    tree = store.archive.files.tree(captured.stream.id)
    assert shown["frames_bytes"] == sum(size for path, size in tree.items() if path.endswith(".zip"))


def test_recordings_are_listed_one_per_segment_and_connection(captured: Captured, http: httpx.Client) -> None:
    files = list_files(http, captured.stream)
    assert {(each["codec"], each["playable"], each["hint"]) for each in files} == {("h264", "yes", None)}
    whole = [each for each in files if each["end_s"] - each["start_s"] > 3.0]
    assert len(whole) >= 2
    for one, other in pairwise(files):
        assert one["end_s"] <= other["start_s"] + 0.1
    assert files[0]["start"] == clock(captured.stream, files[0]["start_s"]).replace("+00:00", "Z")
    (verdict,) = {(each["playable"], each["hint"]) for each in list_files(http, captured.hevc)}
    assert verdict[0] == "depends"
    assert "clip.mp4?source=pictures" in verdict[1]
    some = get(http, captured.stream, "recordings", start="5", end="6").json()["recordings"]
    assert [each["name"] for each in some] == [
        each["name"] for each in files if each["end_s"] > 5 and each["start_s"] < 6
    ]


def test_a_clip_shows_what_was_filmed_across_segments_reconnects_and_sizes(
    captured: Captured, http: httpx.Client
) -> None:
    files = list_files(http, captured.stream)
    whole = get(http, captured.stream, "clip.mp4", start="0", end="300")
    assert whole.headers["longwatch-source"] == "recording"
    shown = read_shown(whole.content)
    start_s = read_start_s(captured.stream, whole)
    assert start_s == pytest.approx(files[0]["start_s"], abs=0.002)
    assert read_start_s(captured.stream, whole, "longwatch-end") == pytest.approx(files[-1]["end_s"], abs=0.002)
    expect_filmed(captured, shown, start_s)
    assert {size for _, _, size in shown} == {SMALL, LARGE}
    gaps = [later - earlier for (_, earlier, _), (_, later, _) in pairwise(shown) if later - earlier > 0.5]
    assert len(gaps) <= 2  # the reconnect, and perhaps the switch
    two = find_run(files)[:2]
    between = get(
        http, captured.stream, "clip.mp4", start=f"{two[1]['start_s'] - 1.5}", end=f"{two[1]['start_s'] + 1.5}"
    )
    expect_filmed(captured, read_shown(between.content), read_start_s(captured.stream, between))
    assert two[1]["start_s"] - 2.6 <= read_start_s(captured.stream, between) <= two[1]["start_s"] - 1.5
    assert re.fullmatch(r'inline; filename="[\w-]+\.mp4"', between.headers["content-disposition"])


def test_a_clip_in_h265_and_its_pictures(captured: Captured, http: httpx.Client) -> None:
    clip = get(http, captured.hevc, "clip.mp4", start="1", end="6")
    with av.open(io.BytesIO(clip.content)) as container:
        assert container.streams.video[0].codec_context.name == "hevc"
    expect_filmed(captured, read_shown(clip.content), read_start_s(captured.hevc, clip), within_s=1.5)
    film = get(http, captured.hevc, "clip.mp4", start="1", end="6", source="pictures")
    assert film.headers["longwatch-source"] == "pictures"
    with av.open(io.BytesIO(film.content)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
    shown = read_shown(film.content)
    start_s = read_start_s(captured.hevc, film)
    assert 0.9 < start_s < 1.2 or start_s == pytest.approx(list_files(http, captured.hevc)[0]["start_s"], abs=1)
    steps = [later - earlier for (_, earlier, _), (_, later, _) in pairwise(shown)]
    assert steps == pytest.approx([1 / SAMPLE_FPS] * len(steps), abs=0.001)
    expect_filmed(captured, shown, start_s, within_s=1.5)


def test_any_part_of_a_clip_can_be_read(captured: Captured, http: httpx.Client) -> None:
    stretch = {"start": "1", "end": "9"}
    whole = get(http, captured.stream, "clip.mp4", **stretch)
    size, etag = len(whole.content), whole.headers["etag"]
    assert (whole.status_code, whole.headers["content-length"], whole.headers["accept-ranges"]) == (
        200,
        f"{size}",
        "bytes",
    )
    part = get(http, captured.stream, "clip.mp4", **stretch, headers={"range": "bytes=1000-8000", "if-range": etag})
    assert (part.status_code, part.content) == (206, whole.content[1000:8001])
    assert part.headers["content-range"] == f"bytes 1000-8000/{size}"
    head = http.head(f"/v1/streams/{captured.stream.id}/clip.mp4", params=stretch)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, f"{size}", b"")


def test_recorded_files_are_served_in_parts(captured: Captured, http: httpx.Client) -> None:
    file = list_files(http, captured.stream)[0]
    whole = http.get(file["path"])
    size = file["bytes"]
    assert (whole.status_code, len(whole.content), whole.headers["content-type"]) == (200, size, "video/mp4")
    etag = whole.headers["etag"]
    for wanted, first, last in (
        ("bytes=0-0", 0, 0),
        ("bytes=10-", 10, size - 1),
        ("bytes=-100", size - 100, size - 1),
        (f"bytes=5-{size * 2}", 5, size - 1),
        ("bytes=0-", 0, size - 1),
        (f"bytes=-{size * 2}", 0, size - 1),
    ):
        for more in ({}, {"if-range": etag}):
            part = http.get(file["path"], headers={"range": wanted, **more})
            assert (part.status_code, part.headers["content-range"]) == (206, f"bytes {first}-{last}/{size}")
            assert part.content == whole.content[first : last + 1]
    for ignored in ({"range": "bytes=0-1,5-6"}, {"range": "pages=1-2"}, {"range": "bytes=9-3"}, {"range": "bytes=-"}):
        assert http.get(file["path"], headers=ignored).status_code == 200
    changed = http.get(file["path"], headers={"range": "bytes=0-9", "if-range": '"another"'})
    assert (changed.status_code, changed.content) == (200, whole.content)
    for beyond in (f"bytes={size}-", "bytes=-0"):
        refused = http.get(file["path"], headers={"range": beyond})
        require_problem(refused, 416, "range-not-satisfiable")
        assert refused.headers["content-range"] == f"bytes */{size}"
    head = http.head(file["path"])
    assert (head.status_code, head.headers["content-length"], head.content) == (200, f"{size}", b"")


def test_what_is_not_there_is_not_found(captured: Captured, http: httpx.Client) -> None:
    name = list_files(http, captured.stream)[0]["name"]
    for path in (
        "recordings/video.json",
        "recordings/..%2F..%2Fvideo.json",
        f"recordings/{name.replace('h264', 'hevc')}",
    ):
        require_problem(get(http, captured.stream, path), 404, "not-found")
    require_problem(http.get(f"/v1/streams/20260101-000000000-000000/recordings/{name}"), 404, "not-found")
    for path in ("clip.mp4", "playlist.m3u8", "strip.jpg"):
        require_problem(get(http, captured.stream, path, start="1000", end="1010"), 404, "not-found")
    require_problem(get(http, captured.stream, "clip.mp4", start="0", end="3601"), 400, "bad-request")
    require_problem(get(http, captured.stream, "strip.jpg", start="0", end="9", columns="13"), 422, "invalid")


def test_a_player_reads_the_playlist_over_http(captured: Captured, http: httpx.Client) -> None:
    files = list_files(http, captured.stream)
    run = find_run(files)
    query = f"start={run[0]['start_s'] + 0.1}&end={run[-1]['end_s'] - 0.1}"
    shown = read_shown(f"{http.base_url}/v1/streams/{captured.stream.id}/playlist.m3u8?{query}")
    assert len(shown) == pytest.approx((run[-1]["end_s"] - run[0]["start_s"]) * FPS, abs=3)
    first_s = shown[0][1]
    from_zero = [(number, t_s - first_s, size) for number, t_s, size in shown]
    expect_filmed(captured, from_zero, run[0]["start_s"])


def test_the_playlist_names_gaps_and_changes(captured: Captured, http: httpx.Client) -> None:
    files = list_files(http, captured.stream)
    text = get(http, captured.stream, "playlist.m3u8", start="0", end="300").text
    lines = text.splitlines()
    assert lines[0] == "#EXTM3U"
    uris = [line for line in lines if not line.startswith("#")]
    assert uris == [f"recordings/{each['name']}" for each in files]
    durations = [float(line[8:-1]) for line in lines if line.startswith("#EXTINF:")]
    assert durations == pytest.approx([each["end_s"] - each["start_s"] for each in files], abs=0.001)
    (target,) = re.findall(r"#EXT-X-TARGETDURATION:(\d+)", text)
    assert all(duration <= int(target) for duration in durations)
    times = [line.split(":", 1)[1] for line in lines if line.startswith("#EXT-X-PROGRAM-DATE-TIME:")]
    assert [datetime.fromisoformat(at) for at in times] == [datetime.fromisoformat(each["start"]) for each in files]
    forms = [each["name"].rsplit("-", 1)[1] for each in files]
    breaks = sum(
        form != later_form or later["start_s"] - one["end_s"] > 0.5
        for (one, form), (later, later_form) in pairwise(zip(files, forms, strict=True))
    )
    assert text.count("#EXT-X-DISCONTINUITY\n") == breaks
    assert 1 <= breaks < len(files) - 1
    assert text.count("#EXT-X-MAP:") == 1 + sum(one != other for one, other in pairwise(forms))
    for uri, span in zip(uris, re.findall(r"#EXT-X-BYTERANGE:(\d+)@(\d+)", text), strict=True):
        size, offset = map(int, span)
        part = get(http, captured.stream, uri, headers={"range": f"bytes={offset}-{offset + size - 1}"})
        assert part.content[4:8] == b"moof"
        assert part.headers["content-range"].endswith(f"/{offset + size}")


def test_a_live_playlist_has_a_fixed_beginning_and_no_end(captured: Captured, http: httpx.Client) -> None:
    live = get(http, captured.stream, "playlist.m3u8", start="0").text
    assert "#EXT-X-ENDLIST" not in live
    assert "#EXT-X-PLAYLIST-TYPE:EVENT" in live
    ended = get(http, captured.stream, "playlist.m3u8", start="0", end="7").text
    assert ended.endswith("#EXT-X-ENDLIST\n")
    entry = get(http, captured.stream, "playlist.m3u8", last_s="600").text
    uri = entry.splitlines()[-1]
    assert "#EXT-X-STREAM-INF" in entry
    assert get(http, captured.stream, uri).status_code in (200, 404)
    assert uri.startswith("playlist.m3u8?start=")


def test_a_contact_sheet_shows_the_stretch_in_order(captured: Captured, http: httpx.Client) -> None:
    sheet = get(http, captured.stream, "strip.jpg", start="1", end="9", columns="4")
    assert sheet.headers["content-type"] == "image/jpeg"
    picture = cv2.imdecode(np.frombuffer(sheet.content, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (12 * 244 - 4, 4 * 324 - 4, 3)
    numbers = [
        number_of(np.asarray(picture[row * 244 : row * 244 + 200, column * 324 : column * 324 + 320], np.uint8))
        for row in range(3)
        for column in range(4)
    ]
    assert len(set(numbers)) == 12


def test_a_video_has_clips_of_its_pictures_and_contact_sheets(http: httpx.Client, store: Store, seed: Seed) -> None:
    def jpeg(number: int, size: tuple[int, int] = (64, 48)) -> bytes:
        ok, data = cv2.imencode(".jpg", numbered(number, *size))
        assert ok
        return data.tobytes()

    video = seed(frames=0, encoded=0, status="ready", frames_sampled=70, sample_fps=2.0, title="My film/1")
    from tests.api.conftest import a_frame

    frames = [a_frame(slot, view=jpeg(slot)) for slot in range(70)]
    frames[3] = a_frame(3, view=b"damaged")
    frames[5] = a_frame(5, view=jpeg(5, (96, 48)))
    store.create_segment(video.id, 0, frames[:64])
    store.create_segment(video.id, 1, frames[64:])
    clip = http.get(f"/v1/videos/{video.id}/clip.mp4")
    assert clip.headers["longwatch-source"] == "pictures"
    assert clip.headers["content-disposition"] == 'inline; filename="My-film-1-0.mp4"'
    shown = read_shown(clip.content)
    assert [number for number, _, _ in shown] == [*range(3), 4, *range(5, 70)]
    assert [t_s for _, t_s, _ in shown] == pytest.approx([float(slot) for slot in range(70) if slot != 3], abs=0.001)
    assert {size for _, _, size in shown} == {(64, 48)}
    sheet = http.get(f"/v1/videos/{video.id}/strip.jpg", params={"start": "0", "end": "2", "columns": "9"})
    assert sheet.status_code == 200
    require_problem(http.get(f"/v1/videos/{video.id}/clip.mp4?source=recording"), 404, "not-found")
    require_problem(http.get(f"/v1/videos/{video.id}/clip.mp4?start=500"), 404, "not-found")
    empty = seed(frames=0, encoded=0)
    for path in ("clip.mp4", "strip.jpg"):
        require_problem(http.get(f"/v1/videos/{empty.id}/{path}"), 404, "not-found")
    assert http.get(f"/v1/videos/{video.id}/playlist.m3u8").status_code == 404


def test_a_kept_source_is_served_in_parts(http: httpx.Client, store: Store, seed: Seed, tmp_path: Path) -> None:
    file = write_camera_file(tmp_path / "film.mp4", 1.0)
    content = file.read_bytes()
    video = seed(frames=2, encoded=0, codec="h264", in_archive=True, source_type="video/mp4")
    store.archive.put_source(video.id, file)
    copy = seed(frames=0, encoded=0, status="duplicate", duplicate_of=video.id)
    assert http.get(f"/v1/videos/{video.id}").json()["playable"] == "yes"
    for each in (video, copy):
        whole = http.get(f"/v1/videos/{each.id}/source")
        assert (whole.content, whole.headers["content-type"]) == (content, "video/mp4")
        part = http.get(f"/v1/videos/{each.id}/source", headers={"range": "bytes=-10"})
        assert (part.status_code, part.content) == (206, content[-10:])
    other = seed(frames=2, encoded=0)
    require_problem(http.get(f"/v1/videos/{other.id}/source"), 404, "not-found")
    assert http.get(f"/v1/videos/{other.id}").json()["playable"] is None
