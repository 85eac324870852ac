"""Runs the capture worker's threads in the test process, with real child processes, cameras and Redis servers."""

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from configs.settings import Settings
from ingest.cameras.publisher import Publisher
from ingest.cameras.recording_publisher import RecordingPublisher
from ingest.cameras.supervisor import Supervisor
from jobs.intake import Intake
from storage.documents import Capture, Credentials, Video
from storage.ids import new_video_id
from storage.live_documents import StreamState
from storage.store import Store
from tests.cameras.camera import Camera


class CaptureHost:
    """One host's threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store.open(settings)
        self.publisher = Publisher(settings, self.store)
        self.recordings = RecordingPublisher(settings, self.store, self.publisher.list_captured)
        self.supervisor = Supervisor(settings, self.store, self.publisher, f"host-{secrets.token_hex(2)}")
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._stop.clear()
        bodies = (
            self.supervisor.assign_forever,
            self.supervisor.watch_forever,
            self.publisher.run_forever,
            self.recordings.run_forever,
        )
        self._threads = [threading.Thread(target=body, args=(self._stop,), daemon=True) for body in bodies]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)
            assert not thread.is_alive()


@contextmanager
def capturing(settings: Settings) -> Iterator[CaptureHost]:
    host = CaptureHost(settings)
    host.start()
    try:
        yield host
    finally:
        host.stop()


def add_camera_stream(
    store: Store, settings: Settings, camera: Camera | str, sample_fps: float = 4.0, **values: Any
) -> Video:
    """Adds a stream as the API does; `values` are fields of its `capture`."""
    url = camera if isinstance(camera, str) else camera.url
    login = Credentials() if isinstance(camera, str) else Credentials(username=camera.user, password=camera.password)
    now = datetime.now(UTC).replace(microsecond=0)
    stream = Video(
        id=new_video_id(),
        kind="stream",
        status="live",
        source=url,
        location=url,
        created_at=now,
        recorded_at=now,
        sample_fps=sample_fps,
        mode=values.pop("mode", "exact"),
        capture=Capture(**values),
    )
    Intake(store, settings).add_stream(stream, login)
    return stream


def read_state(store: Store, stream: Video) -> StreamState:
    (state,) = store.stream_states.read([stream.id])
    return state or StreamState(state="connecting", since=stream.created_at)


def list_spooled(settings: Settings) -> list[Path]:
    return [path for path in settings.spool_dir.rglob("*") if path.is_file()]
