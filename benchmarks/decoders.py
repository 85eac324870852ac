"""Samples one frame a second in one way, and reports the cost: `python -m benchmarks.decoders WAY FILE THUMBS`.

Runs in the project's environment or, for the peers, in theirs (benchmarks/sampling.py). That is why functions import.
Every way gives 336x336 RGB pictures, by nearest neighbour, of the frames on display at 0.5 s, 1.5 s, ...
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.footage import FPS, HEIGHT_PX, WIDTH_PX, number_of

SIDE_PX = 336
BATCH_FRAMES = 32  # full-size pictures that a peer returns at once: 88 MB
THUMB_STEP = 4  # every fourth pixel is kept, to compare the ways
ROWS = np.minimum(np.arange(SIDE_PX) * HEIGHT_PX // SIDE_PX, HEIGHT_PX - 1)[:, None]
COLUMNS = np.minimum(np.arange(SIDE_PX) * WIDTH_PX // SIDE_PX, WIDTH_PX - 1)

Picture = NDArray[np.uint8]


def longwatch(path: Path, mode: Literal["exact", "keyframes"], threads: int = 1, view_px: int = 0) -> Iterator[Picture]:
    """This project's sampler. Pictures for people are a separate way, because the peers make none."""
    from configs.settings import IngestSettings
    from ingest.files.source import VideoSource

    source = VideoSource(path, IngestSettings(decoder_threads=threads, view_long_side_px=view_px))
    for frame in source.sample_frames(1.0, mode=mode):
        if view_px:
            frame.encode()
        yield frame.model


def pyav(path: Path) -> Iterator[Picture]:
    """The reference: decodes every frame, with the same FFmpeg as the project's sampler."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for number, frame in enumerate(container.decode(stream)):
            if number % FPS == FPS // 2:
                yield np.asarray(frame.to_ndarray(format="rgb24")[ROWS, COLUMNS], np.uint8)


def ffmpeg(path: Path, choice: str) -> Iterator[Picture]:
    """The ffmpeg command with all its threads; `choice` is the filter that picks the frames."""
    scale = f"{choice},scale={SIDE_PX}:{SIDE_PX}:flags=neighbor"
    line = ["ffmpeg", "-loglevel", "error", "-i", str(path), "-vf", scale, "-fps_mode", "passthrough"]
    with subprocess.Popen([*line, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while picture := process.stdout.read(SIDE_PX * SIDE_PX * 3):
            yield np.frombuffer(picture, np.uint8).reshape(SIDE_PX, SIDE_PX, 3)


def opencv(path: Path) -> Iterator[Picture]:
    """Grabs every frame, and retrieves the wanted ones."""
    import cv2

    video, number = cv2.VideoCapture(str(path)), 0
    while video.grab():
        if number % FPS == FPS // 2:
            yield np.asarray(video.retrieve()[1][ROWS, COLUMNS, ::-1], np.uint8)
        number += 1


def decord(path: Path) -> Iterator[Picture]:
    """Reads the wanted frames by number."""
    from decord import VideoReader

    reader = VideoReader(str(path))
    for numbers in _batch_wanted(len(reader)):
        yield from reader.get_batch(numbers).asnumpy()[:, ROWS, COLUMNS]


def torchcodec(path: Path) -> Iterator[Picture]:
    """Reads the wanted frames by number."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), dimension_order="NHWC")
    for numbers in _batch_wanted(len(decoder)):
        yield from decoder.get_frames_at(numbers).data.numpy()[:, ROWS, COLUMNS]


WAYS: dict[str, Callable[[Path], Iterator[Picture]]] = {
    "longwatch exact": partial(longwatch, mode="exact"),
    "longwatch exact, 2 threads": partial(longwatch, mode="exact", threads=2),
    "longwatch exact, 960 px too, as JPEG": partial(longwatch, mode="exact", view_px=960),
    "longwatch keyframes": partial(longwatch, mode="keyframes"),
    "PyAV, all frames": pyav,
    "ffmpeg fps=1": partial(ffmpeg, choice="fps=1"),
    "ffmpeg select": partial(ffmpeg, choice=f"select=eq(mod(n\\,{FPS})\\,{FPS // 2})"),
    "OpenCV": opencv,
    "decord": decord,
    "torchcodec": torchcodec,
}


def main() -> None:
    """Prints a line of JSON, and writes the reduced pictures to THUMBS (.npy)."""
    way, path, thumbs = WAYS[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3])
    began, before = time.perf_counter(), _cpu_s()
    pictures = list[Picture]()
    numbers = list[int]()
    for picture in way(path):
        numbers.append(number_of(picture))
        pictures.append(picture[::THUMB_STEP, ::THUMB_STEP].copy())
    taken = {"wall_s": time.perf_counter() - began, "cpu_s": _cpu_s() - before, "max_rss_mb": _max_rss_mb()}
    np.save(thumbs, np.stack(pictures))
    print(json.dumps(taken | {"numbers": numbers}))


def _batch_wanted(count: int) -> Iterator[list[int]]:
    wanted = list(range(FPS // 2, count, FPS))
    for first in range(0, len(wanted), BATCH_FRAMES):
        yield wanted[first : first + BATCH_FRAMES]


def _cpu_s() -> float:
    """CPU seconds of this process and of the processes that it started and waited for."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _max_rss_mb() -> float:
    """The peak of this process or its largest child. RUSAGE_SELF would not do: it starts with the parent's peak."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    own_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    return max(own_kb, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


if __name__ == "__main__":
    main()
