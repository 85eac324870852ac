"""A service in one process: two Redis servers as `longwatch up` runs them, an archive folder, job threads, videos.

Full-size pictures and records of one hour (0.1 GB) are written once. All other videos are hard links to them, so a
thousand videos of an hour take no more disk space than one. Redis holds the full marks of each video.
"""

import logging
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.serializers import JSONSerializer

from benchmarks.scale.meter import Meter
from benchmarks.scale.stub_model import FINGERPRINT, SYSTEM_ID, SYSTEM_ROWS, WIDTH, StubModel, StubPrompts
from cli.redis_server import ROLES, build_command, find_socket
from configs.settings import Settings
from encoder_worker.encoder import Encoder
from encoder_worker.jobs import EncoderJobs
from jobs.intake import Intake
from jobs.names import ANSWER, ENCODE, FUSE
from jobs.reconciler import Reconciler
from jobs.runner import Handler
from jobs.worker import JobThread, WorkerProcess
from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from reasoner.engine import Engine, Limits
from reasoner.jobs import ReasonerJobs
from storage import agenda as due
from storage.connection import Role
from storage.documents import Video
from storage.ids import new_video_id
from storage.records import Record
from storage.segments import SegmentFrame, pack_segment
from storage.store import Store
from storage.timeline import FULL_MASK, SEGMENT_SLOTS
from storage.workers import Worker

HOUR_FRAMES = 3600
HOUR_MASKS = {s: FULL_MASK if s < 56 else (1 << 16) - 1 for s in range(57)}
START_S = 20.0
SETTLE_S = 0.25  # for RQ's commands after a job


class Service:
    """All parts except the API and the video decoder, on one meter."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.settings = Settings(data_dir=folder)
        servers = {role: stack.enter_context(_run_server(self.settings, role)) for role in ROLES}
        self.meter = Meter(servers)
        self.store = self.open_store()
        self.intake = Intake(self.store, self.settings)
        self.reconciler = Reconciler(self.store, self.settings.jobs)
        self.ended: queue.SimpleQueue[str] = queue.SimpleQueue()  # names of jobs that returned
        self.store.index.set_ready(self.store.index.read_generation())
        self.store.workers.announce_model(FINGERPRINT)
        self._packed: dict[int, tuple[Path, Path]] = {}

    def open_store(self) -> Store:
        """Opens a separate store, as another process would."""
        store = Store.open(self.settings)
        self.meter.watch(store.state, "state")
        self.meter.watch(store.cache.redis, "cache")
        store.archive.files = self.meter.open_files(self.settings.archive_url)
        return store

    # workers

    def start_reasoner(self) -> None:
        """Starts a thread that answers, with the real engine on the stub."""
        chosen = self.settings.reasoner
        limits = Limits(
            chosen.sample_frames,
            chosen.focus_frames,
            chosen.focus_baseline,
            chosen.max_tokens,
            chosen.prefix_cache_mb * 1024**2,
        )
        store = self.open_store()
        jobs = ReasonerJobs(self.settings, store, Engine(_model(), _prompts(), limits))
        self._start("reason", (ANSWER,), {"answer_question": (jobs.answer_question, jobs.give_up_question)}, store)

    def start_encoder(self, queues: Sequence[str] = (FUSE, ENCODE)) -> None:
        """Starts a thread that encodes and fuses, with the real scheduler on the stub."""
        store = self.open_store()
        jobs = EncoderJobs(self.settings, store, Encoder(_model(), _prompts(), self.settings.encoder.batch_frames))
        functions = {
            "fuse_question": (jobs.fuse_question, jobs.give_up_fusions),
            "encode_segment": (jobs.encode_segment, jobs.give_up_segment),
        }
        self._start("encode", queues, functions, store)

    def wait_ended(self, *names: str) -> None:
        """Waits until as many jobs have returned and RQ has finished with them. Sends nothing to Redis."""
        for _ in names:
            self.ended.get(timeout=600)
        time.sleep(SETTLE_S)

    def _start(self, kind: str, queues: Sequence[str], functions: dict[str, Any], store: Store) -> None:
        handlers = {name: Handler(partial(self._run, name, run), give_up) for name, (run, give_up) in functions.items()}
        process = WorkerProcess(self.settings, store, kind, (), handlers, FINGERPRINT)
        self.meter.watch(process.redis, "state")
        store.workers.announce(Worker(kind, kind, "here", os.getpid(), tuple(queues), FINGERPRINT), 86400)

        def work() -> None:
            named = [Queue(name, connection=process.redis, serializer=JSONSerializer) for name in queues]
            JobThread(process, named, f"{kind}-1").work(logging_level="WARNING")

        process.start_heart()
        threading.Thread(target=work, name=kind, daemon=True).start()
        time.sleep(1.0)  # until it has connected

    def _run(self, name: str, run: Callable[..., None], *args: Any) -> None:
        try:
            run(*args)
        finally:
            self.ended.put(name)

    # videos

    def add_hour(self, **changes: Any) -> Video:
        """Adds a video of one hour, sampled and encoded."""
        video = self.add_segments(new_video(status="ready", frames_sampled=HOUR_FRAMES, **changes), list(HOUR_MASKS))
        self.store.coverage.mark_encoded(video.id, HOUR_MASKS, FINGERPRINT)
        self.store.agenda.remove(due.VIDEOS, video.id)
        return video

    def add_segments(self, video: Video, segments: Sequence[int], *, encoded: bool = True) -> Video:
        """Adds a video with these segments as links to those of the hour, whose last segment is shorter."""
        self.store.add_video(video)
        self.store.coverage.mark_sampled(video.id, {s: HOUR_MASKS[min(s, 56) if s == 56 else 0] for s in segments})
        for segment in segments:
            place = Path(self.store.archive.segment_path(video.id, segment)).parent
            place.mkdir()
            frames, record = self._make_files(HOUR_MASKS[56] if segment == 56 else FULL_MASK)
            os.link(frames, place / "frames.zip")
            if encoded:
                os.link(record, place / f"tokens-{FINGERPRINT}.safetensors")
        return video

    def warm_cache(self, video: Video, segments: Sequence[int]) -> None:
        """Puts the records into the cache, as if they had just been encoded."""
        for segment in segments:
            self.store.read_record(video.id, segment, FINGERPRINT)

    def _make_files(self, mask: int) -> tuple[Path, Path]:
        """A segment's two files; they are made once."""
        if mask not in self._packed:
            count = mask.bit_count()
            frames, record = self.folder / f"frames-{count}", self.folder / f"record-{count}"
            frames.write_bytes(pack_segment(pictures(count)))
            record.write_bytes(new_record(mask).to_bytes())
            self._packed[mask] = frames, record
        return self._packed[mask]


def new_video(**values: Any) -> Video:
    """The document of a video that was submitted by path."""
    base = {"id": new_video_id(), "kind": "path", "source": "a.mp4", "location": "/a.mp4", "sample_fps": 1.0}
    return Video.model_validate(base | {"mode": "exact", "frames_expected": HOUR_FRAMES} | values)


def new_record(mask: int) -> Record:
    """Tokens and system rows of the 8B shapes."""
    generator = np.random.default_rng(mask.bit_count())
    tokens = generator.standard_normal((mask.bit_count(), 1, WIDTH)).astype(np.float16)
    system = generator.standard_normal((SYSTEM_ROWS, WIDTH)).astype(np.float16)
    return Record(FINGERPRINT, mask, tokens, SYSTEM_ID, system)


def pictures(count: int = SEGMENT_SLOTS) -> list[SegmentFrame]:
    """Frames with a picture for the model and one for people, both of usual sizes."""
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    small, large = (
        cv2.imencode(".jpg", cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC))[1].tobytes()
        for size in ((336, 336), (960, 540))
    )
    return [SegmentFrame(place, place + 0.5, small, large) for place in range(count)]


@contextmanager
def running_service(folder: Path) -> Iterator[Service]:
    """Runs the service below `folder`, which must have a short path."""
    with ExitStack() as stack:
        service = Service(folder, stack)
        yield service
        logging.disable(logging.CRITICAL)  # the servers end before the job threads, which end with the process


@contextmanager
def _run_server(settings: Settings, role: Role) -> Iterator[Redis]:
    socket = find_socket(settings, role)
    socket.parent.mkdir(parents=True, exist_ok=True)
    server = subprocess.Popen(build_command(settings, role), stdout=subprocess.DEVNULL)
    try:
        redis = Redis.from_url(f"unix://{socket}")
        deadline = time.monotonic() + START_S
        while True:
            try:
                redis.ping()
                break
            except RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield redis
    finally:
        server.terminate()
        server.wait()


def _model() -> LlavaMini:
    return cast(LlavaMini, StubModel())


def _prompts() -> PromptBuilder:
    return cast(PromptBuilder, StubPrompts())
