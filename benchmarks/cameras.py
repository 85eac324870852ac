"""What one live camera costs: the capture process against ffmpeg, which samples a frame a second, and Frigate's way.

Our own RTSP server plays a moving film (H.264, 15 fps, a keyframe every two seconds). All ways run in turn, each for
some seconds. CPU and memory (PSS) are read from /proc.
"""

import argparse
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from benchmarks.report import write_json
from demo.cameras.camera_server import CameraServer, running_cameras
from demo.cameras.clips import read_clip
from ingest.cameras.camera_child import run_camera
from ingest.cameras.camera_messages import CameraPlan
from llava_mini.text_table import table

FPS, FILM_S, GOP = 15, 20, 30
SIZES = ((640, 360), (1280, 720))
SETTLE_S = 6.0  # connecting and the first frames are not measured
NEVER = 10**9  # a slot that is never reached: nothing is sampled
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Row:
    """The cost of one camera, captured in one way."""

    size: str
    way: str
    cpu_s_per_minute: float
    pss_mb: float


def main() -> None:
    """Measures, prints and writes results/cameras.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for size in SIZES for row in measure_size(Path(folder), size, seconds)]
    print(table(["size", "way", "CPU s/minute", "PSS MB"], [_words(row) for row in rows]))
    for size in sorted({row.size for row in rows}):
        print(describe(size, {row.way: row for row in rows if row.size == size}))
    write_json("cameras", {"seconds": seconds, "fps": FPS, "gop": GOP, "rows": [asdict(row) for row in rows]})


def measure_size(folder: Path, size: tuple[int, int], seconds: float) -> Iterator[Row]:
    film = write_film(folder / f"{size[1]}.mp4", size)
    server = CameraServer({"film": read_clip(film)})
    with running_cameras(server):
        url = f"rtsp://{server.host}:{server.rtsp_port}/film"
        for way, start in list_ways(folder, url, size).items():
            with start() as pids:
                time.sleep(SETTLE_S)
                before, began = sum(map(read_cpu_s, pids)), time.monotonic()
                time.sleep(seconds)
                used = sum(map(read_cpu_s, pids)) - before
                memory = sum(map(read_pss_mb, pids)) / len(pids)
                elapsed_s = time.monotonic() - began
            row = Row(f"{size[0]}x{size[1]}", way, used / elapsed_s * 60 / len(pids), memory)
            print(*_words(row), flush=True)
            yield row


Start = Callable[[], Any]  # -> a context manager that yields the pids


def list_ways(folder: Path, url: str, size: tuple[int, int]) -> dict[str, Start]:
    exact = CameraPlan(
        url=url,
        username="",
        password="",
        transport="tcp",
        networks=("127.0.0.0/8",),
        start_epoch_s=float(int(time.time())),
        sample_fps=1.0,
        mode="exact",
        first_slot=0,
        spool_folder=str(folder / "spool"),
    )
    nothing = replace(exact, first_slot=NEVER, mode="keyframes")
    ways: dict[str, Start] = {
        "longwatch exact": lambda: capture([exact]),
        "longwatch exact, 4 cameras": lambda: capture([exact] * 4),
        "longwatch exact, no views": lambda: capture([replace(exact, view_long_side_px=0)]),
        "longwatch keyframes": lambda: capture([replace(exact, mode="keyframes")]),
        "longwatch keyframes, no views": lambda: capture([replace(exact, mode="keyframes", view_long_side_px=0)]),
        "longwatch recording only": lambda: capture([replace(nothing, record=True)]),
        "longwatch neither": lambda: capture([nothing]),
        "PyAV, all frames": lambda: run_python(decode_all, url),
    }
    if shutil.which("ffmpeg"):
        width, height = size
        base = ["ffmpeg", "-y", "-loglevel", "error", "-rtsp_transport", "tcp", "-i", url, "-an"]
        jpeg = [*base, "-vf", "fps=1", "-q:v", "3", "-f", "image2", "-update", "1", str(folder / "frame.jpg")]
        raw = [
            *base,
            "-r",
            "5",
            "-vf",
            f"fps=5,scale={width}:{height}",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "yuv420p",
            "pipe:",
        ]
        one = [*base, "-vf", "fps=1", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:"]
        ways |= {
            "ffmpeg fps=1, raw": lambda: run_command(one),
            "ffmpeg fps=1, JPEG": lambda: run_command(jpeg),
            "ffmpeg 5 fps raw (Frigate's way)": lambda: run_command(raw),
        }
    return ways


@contextmanager
def capture(plans: list[CameraPlan]) -> Iterator[list[int]]:
    """Runs a child for each plan, as the supervisor does."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([run_camera.__module__])
    running: list[tuple[Any, Connection[Any, Any]]] = []
    for number, plan in enumerate(plans):
        ours, theirs = context.Pipe()
        folder = f"{plan.spool_folder}-{time.monotonic_ns()}-{number}"
        process = context.Process(target=run_camera, args=(theirs, replace(plan, spool_folder=folder)), daemon=True)
        process.start()
        theirs.close()
        threading.Thread(target=_drain, args=(ours,), daemon=True).start()
        running.append((process, ours))
    try:
        yield [process.pid for process, _ in running]
    finally:
        for process, ours in running:
            process.kill()
            process.join()
            ours.close()


@contextmanager
def run_python(body: Callable[[str], None], url: str) -> Iterator[list[int]]:
    """Runs a function in a process of its own."""
    process = multiprocessing.get_context("forkserver").Process(target=body, args=(url,), daemon=True)
    process.start()
    try:
        yield [process.pid or 0]
    finally:
        process.kill()
        process.join()


@contextmanager
def run_command(line: list[str]) -> Iterator[list[int]]:
    """Runs a command, and reads what it writes as a consumer would."""
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    threading.Thread(target=_read_all, args=(process.stdout,), daemon=True).start()
    try:
        yield [process.pid]
    finally:
        process.kill()
        process.wait()


def decode_all(url: str) -> None:
    """Decodes every frame, and converts one a second to RGB; makes no JPEG."""
    with av.open(url, options={"rtsp_transport": "tcp", "fpsprobesize": "0"}) as container:
        video: VideoStream = container.streams.video[0]
        video.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(video)):
            if number % FPS == 0:
                frame.to_ndarray(format="rgb24")


def write_film(path: Path, size: tuple[int, int]) -> Path:
    """Writes a film that moves, with the noise of a sensor."""
    rng, (width, height) = np.random.default_rng(0), size
    rough = rng.integers(0, 255, (height // 8, width // 4, 3), dtype=np.uint8)
    room = cv2.GaussianBlur(cv2.resize(rough, (2 * width, height), interpolation=cv2.INTER_CUBIC), (0, 0), 3)
    options = {"g": str(GOP), "bf": "0", "preset": "veryfast", "sc_threshold": "0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(FPS * FILM_S):
            picture = draw_frame(np.asarray(room[:, :width], np.uint8), number / (FPS * FILM_S), rng)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def draw_frame(room: NDArray[np.uint8], part: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    picture, at = room.astype(np.int16), int(part * room.shape[1])
    picture[room.shape[0] // 3 : room.shape[0] // 2, max(0, at - 60) : at + 60] = (200, 80, 30)
    return np.asarray(np.clip(picture + rng.integers(-3, 4, picture.shape), 0, 255), np.uint8)


def read_cpu_s(pid: int) -> float:
    """The CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def read_pss_mb(pid: int) -> float:
    """The memory of a process; what it shares counts in parts."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def describe(size: str, rows: dict[str, Row]) -> str:
    """The ratios that the targets are about."""
    exact = rows["longwatch exact"].cpu_s_per_minute
    peers = {way: row.cpu_s_per_minute for way, row in rows.items() if not way.startswith("longwatch")}
    best = min(peers, key=lambda way: peers[way])
    ratios = ", ".join(f"{exact / cost:.2f}x {way}" for way, cost in peers.items())
    share = rows["longwatch keyframes"].cpu_s_per_minute / exact
    recording = (rows["longwatch recording only"].cpu_s_per_minute - rows["longwatch neither"].cpu_s_per_minute) / 0.6
    return (
        f"{size}: one core captures {60 / exact:.0f} cameras; exact is {ratios} (the best peer: {best}); keyframes "
        f"{share:.2f}x of exact; recording adds {recording:.1f} % of a core"
    )


def _drain(connection: "Connection[Any, Any]") -> None:
    try:
        while True:
            connection.recv()
    except (EOFError, OSError):
        return


def _read_all(file: Any) -> None:
    while file.read(1 << 20):
        pass


def _words(row: Row) -> list[str]:
    return [row.size, row.way, f"{row.cpu_s_per_minute:.2f}", f"{row.pss_mb:.0f}"]


if __name__ == "__main__":
    main()
