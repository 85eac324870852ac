"""A real model in both halves, a video of it encoded, and one that nobody encodes."""

import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from rq import Queue
from rq.exceptions import InvalidJobOperation
from rq.serializers import JSONSerializer

from configs.settings import ReasonerSettings, Settings
from encoder_worker.__main__ import load_encoder
from encoder_worker.encoder import Encoder
from encoder_worker.jobs import EncoderJobs
from ingest.files.pictures import encode_jpeg
from reasoner.__main__ import load_engine
from reasoner.engine import Engine
from reasoner.jobs import ReasonerJobs
from storage.models import Video
from storage.queues import ENCODE, FUSE
from storage.store import Store
from storage.worker import Handlers
from tests.reasoner.asking import FRAMES
from tests.storage.test_archive import new_video
from tests.tiny import with_tiny
from training.render import render
from training.world import generate


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    world = generate(4, FRAMES)
    return [encode_jpeg(render(world, k + 0.5, 336), 90) for k in range(FRAMES)]


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return load_encoder(with_tiny(Settings()))


@pytest.fixture(scope="session")
def engine() -> Engine:
    return load_engine(with_tiny(Settings()))


@pytest.fixture
def jobs(settings: Settings, store: Store, engine: Engine) -> ReasonerJobs:
    quick = ReasonerSettings(fusion_timeout_s=20, max_tokens=12)
    return ReasonerJobs(settings.model_copy(update={"reasoner": quick}), store, engine)


@pytest.fixture
def encoding(settings: Settings, store: Store, encoder: Encoder) -> Iterator[EncoderJobs]:
    """An encoder that works off the queues beside the test, as its worker would."""
    encoder_jobs = EncoderJobs(settings, store, encoder)
    handlers: Handlers = {"fuse_segment": encoder_jobs.fuse_segment, "encode_segment": encoder_jobs.encode_segment}
    queues = [Queue(name, connection=store.hot.redis, serializer=JSONSerializer) for name in (FUSE, ENCODE)]
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            for job in (job for queue in queues for job in queue.jobs):
                handlers[str(job.func_name)](*job.args)
                with suppress(InvalidJobOperation):  # a test flushed Redis meanwhile
                    job.delete()

    thread = threading.Thread(target=work)
    thread.start()
    yield encoder_jobs
    stop.set()
    thread.join()


@pytest.fixture
def video(store: Store, encoding: EncoderJobs, encoder: Encoder, pictures: list[bytes]) -> Video:
    store.hot.announce_model(encoder.fingerprint)
    video = new_video(status="ready", frames_sampled=FRAMES)
    store.add_video(video)
    for first in (0, 64):
        part = pictures[first : first + 64]
        store.put_frames(video.id, first, part, [first + k + 0.5 for k in range(len(part))])
        encoding.encode_segment(video.id, first // 64)
    return video


@pytest.fixture
def unencoded(store: Store, encoder: Encoder) -> Video:
    """One frame, and no encoder anywhere."""
    store.hot.announce_model(encoder.fingerprint)
    video = new_video(status="ready")
    store.add_video(video)
    store.put_frames(video.id, 0, [b"x"], [0.5])
    return video


@pytest.fixture
def patient(settings: Settings, store: Store, engine: Engine) -> ReasonerJobs:
    """Waits for longer than any test runs."""
    return ReasonerJobs(settings, store, engine)
