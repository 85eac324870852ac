"""A whole child process against real cameras: what it spools is what was on display, and it says what happens."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from ingest.cameras.camera_child import run_camera
from ingest.cameras.camera_messages import (
    CameraPlan,
    Failed,
    FrameSpooled,
    Message,
    Noticed,
    Opened,
    PictureFrozen,
    PictureMoving,
    Recorded,
    SenderJumped,
    Statistics,
)
from ingest.cameras.spool import list_spooled_segments, read_frames, spool_path
from storage.decoding import decode_picture
from storage.timeline import SEGMENT_SLOTS
from tests.cameras.camera import Camera, camera
from tests.cameras.camera_files import write_camera_file
from tests.media import number_of

FPS, LOOP = 15.0, 300  # of every file here: 20 s
LATE_FRAMES = 8  # how many frames the picture of a slot may be behind what the camera films: latency and load
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["ingest.cameras.camera_child"])


class Child:
    """A running child, and what it has said."""

    def __init__(self, plan: CameraPlan) -> None:
        self.plan = plan
        self.said: list[Message] = []
        self.pipe, far = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=run_camera, args=(far, plan))
        self.process.start()
        far.close()

    def read_until(self, done: Callable[[list[Message]], object], within_s: float = 40) -> list[Message]:
        """Reads messages until `done` is true of those of this call; returns them."""
        heard: list[Message] = []
        ends_at = time.monotonic() + within_s
        while not done(heard):
            assert time.monotonic() < ends_at, self.said
            if self.pipe.poll(0.1):
                heard.append(self.pipe.recv())
                self.said.append(heard[-1])
        return heard

    def read_frames(self, count: int) -> list[Message]:
        return self.read_until(lambda heard: len(only(FrameSpooled, heard)) >= count)

    def leave(self) -> None:
        """Closes the connection, as a supervisor that dies."""
        self.pipe.close()
        self.process.join(15)
        assert self.process.exitcode == 0

    def spooled(self) -> list[tuple[int, int]]:
        """(slot, number shown in the model's picture) of each frame in the spool."""
        folder, found = Path(self.plan.spool_folder), []
        for segment in list_spooled_segments(folder):
            for frame in read_frames(spool_path(folder, segment))[0]:
                number = number_of(decode_picture(frame.model_jpeg))
                assert number == number_of(decode_picture(frame.view_jpeg))
                found.append((segment * SEGMENT_SLOTS + frame.place, number))
        return found


def only(kind: type[Any], messages: list[Message]) -> list[Any]:
    return [message for message in messages if isinstance(message, kind)]


def plan_for(url: str, folder: Path, **values: Any) -> CameraPlan:
    base = CameraPlan(
        url=url, username="", password="", transport="tcp", networks=("127.0.0.0/8",),
        start_epoch_s=float(int(time.time())), sample_fps=2.0, mode="exact", first_slot=0, spool_folder=str(folder),
        connect_timeout_s=10.0, silence_s=10.0,
    )  # fmt: skip
    return replace(base, **values)


@contextmanager
def child(url: str, folder: Path, **values: Any) -> Iterator[Child]:
    one = Child(plan_for(url, folder, **values))
    try:
        yield one
    finally:
        one.process.kill()
        one.process.join()
        one.pipe.close()


def check_slots(one: Child, server: Camera) -> list[int]:
    """Each slot is filled once, in order, with what the camera filmed then or shortly before; returns the slots."""
    now, at = time.time(), time.monotonic()
    spooled = one.spooled()
    slots = [slot for slot, _ in spooled]
    assert slots == sorted(set(slots))
    for slot, number in spooled:
        shown_at = one.plan.start_epoch_s + (slot + 0.5) / one.plan.sample_fps
        assert shown_at < now
        filmed = (shown_at - now + at - server.started_at) * FPS
        assert (filmed - number) % LOOP < LATE_FRAMES, (slot, number, filmed)
    return slots


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def film(folder: Path, name: str, **values: Any) -> Path:
    path = folder / name
    return path if path.exists() else write_camera_file(path, LOOP / FPS, **values)


CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "h264": ("h264.mp4", {}, "rtsp"),
    "h264 over udp": ("h264.mp4", {}, "udp"),
    "b-frames": ("b.mp4", {"b_frames": 2, "gop": 30}, "rtsp"),
    "h265": ("hevc.mp4", {"codec": "hevc", "b_frames": 2}, "rtsp"),
    "mjpeg": ("mjpeg.mkv", {"codec": "mjpeg"}, "rtsp"),
    "sound": ("sound.mp4", {"sound": True}, "rtsp"),
    "mpeg-ts": ("sound.mp4", {"sound": True}, "ts"),
    "mjpeg over http": ("mjpeg.mkv", {"codec": "mjpeg"}, "mjpeg"),
}


@pytest.mark.parametrize("case", list(CASES))
def test_each_slot_shows_what_was_filmed_and_all_is_recorded(case: str, folder: Path, tmp_path: Path) -> None:
    name, values, way = CASES[case]
    with camera(film(folder, name, **values)) as server:
        url = server.url if way in ("rtsp", "udp") else server.http_url(way)  # type: ignore[arg-type]
        with child(url, tmp_path, record=True, transport="udp" if way == "udp" else "tcp") as one:
            one.read_frames(10)
            one.leave()
            slots = check_slots(one, server)
            assert slots == list(range(slots[0], slots[0] + len(slots)))
            assert set(slots) >= {message.slot for message in only(FrameSpooled, one.said)}
    opened = only(Opened, one.said)[-1]
    assert opened.codec == values.get("codec", "h264")
    assert (opened.width_px, opened.height_px) == (160, 120)
    assert opened.audio_codec == ("aac" if "sound" in values else None)
    statistics = only(Statistics, one.said)[-1]
    assert statistics.input_fps == pytest.approx(FPS, abs=3)
    assert statistics.damaged == statistics.late == 0
    (recording,) = tmp_path.glob("*.mp4")
    with av.open(str(recording)) as container:
        assert len(container.streams.audio) == ("sound" in values)
        assert sum(1 for _ in container.decode(video=0)) > 50
    assert not list(tmp_path.glob("*.part"))


def test_keyframes_only(folder: Path, tmp_path: Path) -> None:
    with camera(film(folder, "h264.mp4")) as server, child(server.url, tmp_path, mode="keyframes") as one:
        one.read_frames(8)
        one.leave()
        spooled = one.spooled()
    assert all(number % 15 == 0 for _, number in spooled)
    assert only(Statistics, one.said)[-1].decoded <= len(spooled)


def test_a_wrong_password_ends_the_child_with_its_reason(folder: Path, tmp_path: Path) -> None:
    with (
        camera(film(folder, "h264.mp4"), user="u", password="p@:/?") as server,
        child(server.url, tmp_path, username="u", password="no") as one,
    ):
        (failed,) = one.read_until(bool)
        one.process.join(10)
    assert isinstance(failed, Failed)
    assert failed.code == "camera-unauthorized"
    assert one.process.exitcode == 0


@pytest.mark.parametrize("end", ["end_cleanly", "die"])
def test_the_end_of_the_stream_ends_the_child_and_keeps_the_recording(end: str, folder: Path, tmp_path: Path) -> None:
    with camera(film(folder, "h264.mp4")) as server, child(server.url, tmp_path, record=True) as one:
        one.read_frames(4)
        getattr(server, end)()
        heard = one.read_until(lambda heard: only(Failed, heard))
    assert only(Failed, heard)[0].code == "camera-ended"
    assert [(tmp_path / recorded.file).exists() for recorded in only(Recorded, heard)] == [True]


def test_a_silent_camera_is_given_up(folder: Path, tmp_path: Path) -> None:
    with camera(film(folder, "h264.mp4")) as server, child(server.url, tmp_path, silence_s=2.0) as one:
        one.read_frames(3)
        server.stall()
        heard = one.read_until(lambda heard: only(Failed, heard))
        check_slots(one, server)
    assert only(Failed, heard)[0].code == "camera-timeout"


def test_what_a_stall_held_back_fills_its_slots(folder: Path, tmp_path: Path) -> None:
    with camera(film(folder, "h264.mp4")) as server, child(server.url, tmp_path) as one:
        one.read_frames(4)
        server.stall(keep=True)
        time.sleep(3)
        server.resume()
        one.read_frames(10)
        slots = check_slots(one, server)
    assert slots == list(range(slots[0], slots[0] + len(slots)))


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_a_camera_whose_clock_jumps_is_reported_once_and_keeps_its_slots(
    seconds: float, folder: Path, tmp_path: Path
) -> None:
    with camera(film(folder, "h264.mp4")) as server, child(server.url, tmp_path, record=True) as one:
        one.read_frames(4)
        server.jump(seconds)
        one.read_frames(12)
        slots = check_slots(one, server)
        one.leave()
    assert slots == list(range(slots[0], slots[0] + len(slots)))
    (jumped,) = only(SenderJumped, one.said)
    assert (jumped.kind, jumped.seconds > 3500) == ("ahead" if seconds > 0 else "behind", True)
    assert len(list(tmp_path.glob("*.mp4"))) == 2  # a new file after the jump


def test_another_resolution_on_the_way_keeps_working(folder: Path, tmp_path: Path) -> None:
    with camera(film(folder, "h264.mp4")) as server, child(server.url, tmp_path, record=True) as one:
        one.read_frames(4)
        server.switch(film(folder, "large.mp4", size=(320, 240)))
        one.read_until(lambda heard: only(Opened, heard))
        one.read_frames(4)
        one.leave()
        slots = [slot for slot, _ in one.spooled()]
    assert slots == sorted(set(slots))
    assert (only(Opened, one.said)[-1].width_px, only(Opened, one.said)[-1].height_px) == (320, 240)
    sizes = set()
    for file in tmp_path.glob("*.mp4"):
        with av.open(str(file)) as container:
            sizes |= {(frame.width, frame.height) for frame in container.decode(video=0)}
            assert container.streams.video[0].width in (160, 320)
    assert sizes == {(160, 120), (320, 240)}


@pytest.mark.parametrize("fault", ["lose", "corrupt"])
def test_damage_leaves_gaps_and_no_wrong_pictures(fault: str, folder: Path, tmp_path: Path) -> None:
    with camera(film(folder, "h264.mp4")) as server, child(server.url, tmp_path) as one:
        one.read_frames(2)
        getattr(server, fault)(0.05)
        one.read_until(lambda heard: only(Statistics, heard) and only(Statistics, heard)[-1].unfilled > 3)
        server.recover()
        one.read_frames(6)
        slots = check_slots(one, server)
    assert len(slots) < slots[-1] - slots[0] + 1


def test_a_frozen_picture_is_reported_and_its_end(folder: Path, tmp_path: Path) -> None:
    still = folder / "still.mkv"
    with av.open(str(still), "w") as container:
        stream = container.add_stream("mjpeg", rate=15, options={"huffman": "default"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.full((120, 160, 3), 90, np.uint8), format="rgb24")
        for number in range(60):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with camera(still) as server, child(server.url, tmp_path, frozen_s=2.0, static_threshold=2.0) as one:
        heard = one.read_until(lambda heard: only(PictureFrozen, heard))
        assert [frame.static for frame in only(FrameSpooled, heard)][:3] == [False, True, True]
        server.switch(film(folder, "mjpeg.mkv", codec="mjpeg"))
        one.read_until(lambda heard: only(PictureMoving, heard))


def test_a_killed_childs_work_is_kept_by_the_next(folder: Path, tmp_path: Path) -> None:
    with camera(film(folder, "h264.mp4")) as server:
        with child(server.url, tmp_path, record=True) as first:
            first.read_frames(8)
            assert first.process.pid is not None
            os.kill(first.process.pid, signal.SIGKILL)
            first.process.join(10)
        last = first.spooled()[-1][0]
        values = {"record": True, "start_epoch_s": first.plan.start_epoch_s, "first_slot": last + 1}
        with child(server.url, tmp_path, **values) as second:
            second.read_frames(4)
            slots = check_slots(second, server)
            second.process.terminate()
            second.process.join(10)
            assert second.process.exitcode == 0
    assert {slot for slot, _ in first.spooled()} <= set(slots)
    assert isinstance(second.said[0], Recorded)
    assert len(list(tmp_path.glob("*.mp4"))) == 2


def test_slots_of_the_future_are_not_filled(folder: Path, tmp_path: Path) -> None:
    with camera(film(folder, "h264.mp4")) as server, child(server.url, tmp_path, first_slot=10_000) as one:
        one.read_until(lambda heard: only(Statistics, heard) and only(Statistics, heard)[-1].late > 10)
        assert one.spooled() == []


def test_no_password_appears_in_what_others_see(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "hunter2"
    with camera(film(folder, "h264.mp4"), user="u", password=secret) as server:
        with child(server.url, tmp_path, username="u", password=secret, record=True) as one:
            one.read_frames(2)
            seen = b"".join(Path(f"/proc/{one.process.pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
            server.end_cleanly()
            one.read_until(lambda heard: only(Failed, heard))
        assert secret not in repr(one.said) + repr(one.plan)
    assert secret.encode() not in seen
    printed = capfd.readouterr()
    assert secret not in printed.out + printed.err
    assert not [message for message in one.said if isinstance(message, Noticed)]


def test_a_child_loads_only_light_modules() -> None:
    code = (
        "import sys, ingest.cameras.camera_child\n"
        "print(sorted({'pydantic', 'redis', 'rq', 'fsspec', 'configs.settings', 'storage.store'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
