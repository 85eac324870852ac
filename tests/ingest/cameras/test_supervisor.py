"""The capture worker keeps every camera that it can reach, and says honestly which it cannot."""

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from configs.settings import Settings
from jobs.intake import Intake
from storage.deletion import delete_video
from storage.documents import Video
from storage.store import Store
from storage.timeline import FULL_MASK, slots_in
from tests.cameras.camera import Camera, camera
from tests.cameras.camera_files import write_camera_file
from tests.ingest.cameras.capturing import CaptureHost, add_camera_stream, capturing, list_spooled, read_state
from tests.media import number_of
from tests.waiting import wait_until

FPS = 15
FILM_S = 20


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_camera_file(tmp_path_factory.mktemp("film") / "film.mp4", FILM_S, fps=FPS, gop=15)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    cameras = settings.cameras.model_copy(
        update={"lease_s": 2.5, "stall_s": 2.0, "retry_least_s": 0.2, "retry_most_s": 1.0, "connect_timeout_s": 3.0}
    )
    ingest = settings.ingest.model_copy(update={"camera_networks": ("127.0.0.0/8",)})
    return settings.model_copy(update={"cameras": cameras, "ingest": ingest})


@pytest.fixture(autouse=True)
def ready(store: Store) -> None:
    """The state is not new: events can be published."""
    store.index.set_ready(store.index.read_generation())


def read_numbers(store: Store, stream: Video) -> dict[int, int]:
    """Slot -> the number in its picture, from the archive and from Redis."""
    covered = store.read_coverage(stream, range(64), "model")
    archived = store.archive.list_contents(stream.id).sampled
    numbers = {}
    for segment, mask in covered.sampled.items():
        frames = store.open_frames.read_pictures(stream.id, segment, FULL_MASK)
        if segment in archived:
            with store.archive.open_segment(stream.id, segment) as reader:
                frames |= {frame.place: frame for frame in reader.read_all()}
        for slot in slots_in({segment: mask}):
            picture = cv2.imdecode(np.frombuffer(frames[slot % 64].model or b"", np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
            numbers[slot] = number_of(np.asarray(picture, np.uint8))
    return numbers


def count_frames(store: Store, stream: Video) -> int:
    sampled = store.read_coverage(stream, range(64), "model").sampled
    return sum(mask.bit_count() for mask in sampled.values())


def expect_numbers(cam: Camera, stream: Video, numbers: dict[int, int]) -> None:
    """Each slot shows what was filmed at its time, give or take a second: delivery takes a while."""
    assert stream.recorded_at is not None
    offset_s = stream.recorded_at.timestamp() - (time.time() - time.monotonic()) - cam.started_at
    frames = FILM_S * FPS
    for slot, number in numbers.items():
        filmed = int((offset_s + (slot + 0.5) / stream.sample_fps) * FPS) % frames
        assert (filmed - number) % frames <= FPS, (slot, number, filmed)


def list_types(store: Store, stream: Video) -> list[str]:
    return [event.type for event in store.events.read("", 100, stream_id=stream.id)]


def test_frames_of_a_camera_arrive_in_their_slots(settings: Settings, store: Store, film: Path) -> None:
    with camera(film, user="viewer", password="p@ss:w/ö?&%# d") as cam, capturing(settings):
        stream = add_camera_stream(store, settings, cam)
        wait_until(lambda: count_frames(store, stream) >= 76, within_s=60)  # the first segment has ended
        wait_until(lambda: 0 in store.archive.list_contents(stream.id).sampled)
        numbers = read_numbers(store, stream)
        state = read_state(store, stream)
        assert (state.state, state.problem, state.codec, state.width_px) == ("online", None, "h264", 160)
        slots = sorted(numbers)
        assert slots == list(range(slots[0], slots[-1] + 1)), "no gap once it was online"
        expect_numbers(cam, stream, numbers)
    assert "p@ss" not in (store.archive.files.read(f"{stream.id}/video.json") or b"").decode()


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("password", "camera-unauthorized"),
        ("refused", "camera-refused"),
        ("host", "camera-unknown-host"),
        ("network", "camera-not-allowed"),
        ("silent", "camera-timeout"),
        ("mute", "camera-timeout"),
    ],
)
def test_a_camera_that_cannot_be_captured_says_why(
    settings: Settings, store: Store, film: Path, unused_port: int, kind: str, code: str
) -> None:
    pauses = settings.cameras.model_copy(update={"retry_least_s": 4.0, "retry_most_s": 8.0})
    with (
        camera(film, user="viewer", password="right") as cam,
        capturing(settings.model_copy(update={"cameras": pauses})),
    ):
        if kind == "silent":
            cam.fall_silent()
        if kind == "mute":
            cam.mute_after_handshake()
        cam.password = "wrong" if kind == "password" else cam.password
        urls = {
            "refused": f"rtsp://127.0.0.1:{unused_port}/x",
            "host": "rtsp://camera.invalid/x",
            "network": "rtsp://192.0.2.1/x",
        }
        stream = add_camera_stream(store, settings, urls.get(kind, cam))
        wait_until(lambda: read_state(store, stream).state == "offline", within_s=40)
        state = read_state(store, stream)
        assert state.problem is not None
        assert state.problem.code == code, state.problem
        wait_until(lambda: read_state(store, stream).next_try_at, step_s=0.02)
        assert "wrong" not in state.problem.message
        assert "right" not in state.problem.message


def test_a_camera_that_dies_comes_back_and_its_gap_is_reported(settings: Settings, store: Store, film: Path) -> None:
    with camera(film) as cam, capturing(settings):
        stream = add_camera_stream(store, settings, cam)
        wait_until(lambda: count_frames(store, stream) >= 4)
        cam.die()
        wait_until(lambda: read_state(store, stream).state == "offline")
        before = count_frames(store, stream)
        time.sleep(6)
        cam.restart()
        wait_until(lambda: read_state(store, stream).state == "online" and count_frames(store, stream) > before + 4)
        assert read_state(store, stream).reconnects >= 1
        wait_until(lambda: "gap" in list_types(store, stream))
    types = list_types(store, stream)
    assert (types[:2], types[-2:]) == (["online", "offline"], ["online", "gap"])


def test_a_stalled_camera_is_connected_again(settings: Settings, store: Store, film: Path) -> None:
    with camera(film) as cam, capturing(settings):
        stream = add_camera_stream(store, settings, cam)
        wait_until(lambda: count_frames(store, stream) >= 4)
        cam.stall()
        wait_until(lambda: read_state(store, stream).state == "offline")
        problem = read_state(store, stream).problem
        assert problem is not None
        assert problem.code == "camera-timeout"
        cam.resume()
        wait_until(lambda: read_state(store, stream).state == "online")


def test_one_bad_camera_delays_no_other(settings: Settings, store: Store, film: Path) -> None:
    with camera(film) as bad, camera(film) as good, capturing(settings):
        bad.fall_silent()
        streams = [add_camera_stream(store, settings, bad) for _ in range(3)]
        stream = add_camera_stream(store, settings, good)
        wait_until(lambda: count_frames(store, stream) >= 4)
        assert all(count_frames(store, each) == 0 for each in streams)


def test_a_paused_stream_is_not_captured(settings: Settings, store: Store, film: Path) -> None:
    intake = Intake(store, settings)
    with camera(film) as cam, capturing(settings):
        stream = add_camera_stream(store, settings, cam)
        wait_until(lambda: count_frames(store, stream) >= 2)
        intake.change_stream(stream.id, {"paused": True}, None)
        wait_until(lambda: cam.playing == 0)
        time.sleep(0.5)  # for frames on their way
        before = count_frames(store, stream)
        time.sleep(1)
        assert count_frames(store, stream) == before
        intake.change_stream(stream.id, {"paused": False}, None)
        wait_until(lambda: count_frames(store, stream) > before + 2)


def test_a_deleted_stream_leaves_nothing_behind(settings: Settings, store: Store, film: Path) -> None:
    with camera(film) as cam, capturing(settings):
        stream = add_camera_stream(store, settings, cam)
        wait_until(lambda: count_frames(store, stream) >= 2)
        delete_video(store, stream.id)
        wait_until(lambda: list_spooled(settings) == [] and not store.archive.files.names(stream.id), within_s=20)
    assert store.archive.files.names() == []


def test_another_host_takes_over_and_what_the_first_held_comes_back(
    settings: Settings, store: Store, film: Path, tmp_path: Path
) -> None:
    archive = settings.archive.model_copy(update={"url": settings.archive_url})
    elsewhere = settings.model_copy(update={"data_dir": tmp_path / "elsewhere", "archive": archive})
    with camera(film) as cam:
        first, second = CaptureHost(settings), CaptureHost(elsewhere)
        first.start()
        stream = add_camera_stream(store, settings, cam)
        wait_until(lambda: count_frames(store, stream) >= 8)
        first.stop()
        held = set(read_numbers(store, stream))
        store.cache.redis.flushall()  # so that only the first host's spool has its pictures
        second.start()
        try:
            wait_until(lambda: count_frames(store, stream) >= len(held) + 8, within_s=30)
            wait_until(lambda: 0 in store.archive.list_contents(stream.id).sampled, within_s=60)
            first.start()
            wait_until(lambda: list_spooled(settings) == [], within_s=30)
            first.stop()
        finally:
            second.stop()
        assert held <= set(read_numbers(store, stream))
        expect_numbers(cam, stream, read_numbers(store, stream))
