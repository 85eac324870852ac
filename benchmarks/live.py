"""How soon what a camera shows becomes a token, can be asked about, and becomes an event.

1, 4 and 16 cameras with 0, 1 and 10 watches each. The whole service runs on this machine with the bundled model; our
own RTSP server plays films of the generated world. A slot is *shown* at its time. Redis is looked at every 20 ms:
*captured* and *answerable* are when a slot's frame and its token are there. *Event* is when an event can be read,
counted from when the last slot of its window is shown.
"""

import argparse
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.report import write_json
from cli.client import Client
from configs.loading import load_settings
from demo.cameras.camera_server import CameraServer, running_cameras
from demo.cameras.clips import read_clip
from demo.service import running
from llava_mini.text_table import table
from storage.documents import Video
from storage.store import Store
from storage.timeline import slots_in
from training.files import write_video
from training.world import generate

CAMERAS, WATCHES = (1, 4, 16), (0, 1, 10)
FILM_S, FILM_FPS, GOP = 30, 15, 30
EVERY_S = 5  # of the watches
LOOK_S = 0.02
WARM_S = 12.0
TARGET_P95_S, TARGET_CAMERAS = 2.0, 4
COLOURS, SHAPES = ("red", "green", "blue", "yellow", "purple"), ("circle", "star")


@dataclass(frozen=True)
class Row:
    """The latencies of one setting, in seconds from when a slot is shown; of events, the last one of the window."""

    cameras: int
    watches: int
    captured_p50_s: float
    answerable_p50_s: float
    answerable_p95_s: float
    event_p50_s: float | None
    event_p95_s: float | None
    events: int
    lost: int  # slots of the time measured without a frame


def main() -> None:
    """Measures, prints and writes results/live.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="measured for each setting")
    seconds = parser.parse_args().seconds
    rows = []
    with tempfile.TemporaryDirectory(prefix="lwlive") as folder:
        film = write_video(generate(7, FILM_S), Path(folder) / "world.mp4", FILM_FPS, gop=GOP)
        for cameras in CAMERAS:
            for watches in WATCHES:
                rows.append(measure(Path(folder) / f"{cameras}-{watches}", film, cameras, watches, seconds))
                print(rows[-1], flush=True)
    names = ["cameras", "watches each", "captured p50", "answerable p50", "p95", "event p50", "p95", "events", "lost"]
    print(table(names, [_words(row) for row in rows]))
    worst = max(row.answerable_p95_s for row in rows if row.cameras == TARGET_CAMERAS)
    print(f"answerable p95 at {TARGET_CAMERAS} cameras: {worst:.2f} s (target {TARGET_P95_S:g} s)")
    write_json("live", {"seconds": seconds, "every_s": EVERY_S, "rows": [asdict(row) for row in rows]})


def measure(folder: Path, film: Path, cameras: int, watches: int, seconds: float) -> Row:
    clip = read_clip(film)
    server = CameraServer({f"camera{number}": clip for number in range(cameras)})
    with running_cameras(server), running(folder, keep=False) as (client, _):
        streams = [_add_stream(client, f"rtsp://{server.host}:{server.rtsp_port}/camera{n}") for n in range(cameras)]
        for stream in streams:
            for number in range(watches):
                _add_watch(client, stream, number)
        time.sleep(WARM_S + EVERY_S)
        settings = load_settings("tiny").model_copy(update={"data_dir": folder})
        return _observe(Store.open(settings), streams, watches, seconds)


def _observe(store: Store, streams: list[str], watches: int, seconds: float) -> Row:
    """Looks at Redis until `seconds` are over; each slot and event counts when it is first seen."""
    model = store.workers.read_model()
    videos = [store.read_stream(stream_id) for stream_id in streams]
    captured, encoded = dict[tuple[str, int], float](), dict[tuple[str, int], float]()
    for video in videos:  # what is there already is not measured
        _look(store, video, model, captured, encoded)
    old_captured, old_encoded, delays = set(captured), set(encoded), list[float]()
    newest = store.events.read_newest(None, 1)
    cursor, began = newest[0].id if newest else "", time.time()
    while time.time() - began < seconds:
        for video in videos:
            _look(store, video, model, captured, encoded)
        for event in store.events.read(cursor, 1000):
            cursor = event.id
            if event.watch_id is not None and event.end_at is not None:
                delays.append(time.time() - event.end_at.timestamp())
        time.sleep(LOOK_S)
    caught = [late for key, late in captured.items() if key not in old_captured]
    fresh = [late for key, late in encoded.items() if key not in old_encoded]
    return Row(
        cameras=len(streams),
        watches=watches,
        captured_p50_s=_percentile(caught, 50) or 0.0,
        answerable_p50_s=_percentile(fresh, 50) or 0.0,
        answerable_p95_s=_percentile(fresh, 95) or 0.0,
        event_p50_s=_percentile(delays, 50),
        event_p95_s=_percentile(delays, 95),
        events=len(delays),
        lost=max(len(streams) * (int(seconds) - 1) - len(caught), 0),
    )


def _look(
    store: Store,
    video: Video,
    model: str,
    captured: dict[tuple[str, int], float],
    encoded: dict[tuple[str, int], float],
) -> None:
    """Notes how late each slot of the last minute is that is seen for the first time."""
    now_s = video.grid.seconds(datetime.now(UTC))
    last = video.grid.slot_at(now_s)
    covered = store.coverage.read(video.id, range(max(last - 64, 0) // 64, last // 64 + 1), model)
    for seen, masks in ((captured, covered.sampled), (encoded, covered.encoded)):
        for slot in slots_in(masks):
            seen.setdefault((video.id, slot), now_s - video.grid.time_s(slot))


def _percentile(values: list[float], share: float) -> float | None:
    return round(float(np.percentile(values, share)), 3) if values else None


def _add_stream(client: Client, url: str) -> str:
    return str(client.call("POST", "/v1/streams", json={"url": url, "sample_fps": 1})["id"])


def _add_watch(client: Client, stream_id: str, number: int) -> None:
    question = f"is there a {COLOURS[number % 5]} {SHAPES[number // 5]} ?"
    body = {"question": question, "every_s": EVERY_S, "window_s": 2 * EVERY_S, "notify": "always"}
    client.call("POST", f"/v1/streams/{stream_id}/watches", json=body)


def _words(row: Row) -> list[str]:
    return [
        "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
        for value in asdict(row).values()
    ]


if __name__ == "__main__":
    main()
