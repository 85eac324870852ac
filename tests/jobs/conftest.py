"""Starts worker processes whose jobs write what they do into a folder."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.settings import Settings
from storage.documents import Video
from storage.store import Store
from tests.storage.making import make_frames, make_video

Spawn = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings that notice a dead worker sooner, because these tests often wait for that."""
    jobs = settings.jobs.model_copy(update={"worker_dead_after_s": 3, "heartbeat_interval_s": 0.3})
    return settings.model_copy(update={"jobs": jobs})


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """The folder into which the jobs write what they do."""
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest.fixture
def spawn(settings: Settings, notes: Path) -> Iterator[Spawn]:
    """Starts worker processes. Their logs (`log-0`, ...) lie beside the notes."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(threads: int = 1, chosen: Settings = settings, clock_off_s: float = 0.0) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "tests.jobs.worker_process",
            chosen.model_dump_json(),
            str(notes),
            str(threads),
            str(clock_off_s),
        ]
        with (notes / f"log-{len(processes)}").open("wb") as log:
            processes.append(subprocess.Popen(command, stderr=log))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def add_segments(store: Store, *segments: int) -> Video:
    """Adds a sampled video with these segments."""
    video = make_video(status="ready", frames_sampled=64 * len(segments))
    store.add_video(video)
    for segment in segments:
        store.create_segment(video.id, segment, make_frames(64))
    return video
