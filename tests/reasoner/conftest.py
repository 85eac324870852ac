"""Both halves of a real model, a video that it encoded, and an encoder that works beside the test."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from configs.settings import ReasonerSettings, Settings
from encoder_worker.__main__ import load_encoder
from encoder_worker.encoder import Encoder, decode_jpeg
from encoder_worker.jobs import EncoderJobs
from jobs.names import ENCODE, FUSE
from jobs.runner import Handler
from jobs.worker import Pool
from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from reasoner.engine import Engine
from reasoner.jobs import ReasonerJobs
from storage.documents import Video
from storage.records import Record
from storage.store import Store
from tests.reasoner.asking import FRAMES, make_engine
from tests.submitting import add_sampled, draw_pictures
from tests.tiny import TINY, with_tiny
from tests.working import WorkerThreads, working


@pytest.fixture(scope="session")
def model() -> LlavaMini:
    return LlavaMini.from_pretrained(TINY, parts=("language",))


@pytest.fixture(scope="session")
def prompts() -> PromptBuilder:
    return PromptBuilder.from_pretrained(TINY, system=with_tiny(Settings()).model.system_prompt)


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return load_encoder(with_tiny(Settings()))


@pytest.fixture(scope="session")
def pictures() -> tuple[bytes, ...]:
    return draw_pictures(FRAMES)


@pytest.fixture(scope="session")
def records(encoder: Encoder, pictures: tuple[bytes, ...]) -> list[Record]:
    """The records of the pictures' segments, as `encode_segment` makes them."""
    made = []
    for first in (0, 64):
        frames = [decode_jpeg(picture, "") for picture in pictures[first : first + 64]]
        encoded = encoder.encode_frames(frames, [(encoder.system_text, range(len(frames)))])
        halves = encoded.tokens.astype("f2"), encoded.means[0].astype("f2")
        made.append(Record(encoder.fingerprint, (1 << len(frames)) - 1, halves[0], encoder.system_id, halves[1]))
    return made


@pytest.fixture
def settings(settings: Settings) -> Settings:
    quick = ReasonerSettings(fusion_timeout_s=20, max_tokens=12, encoder_missing_after_s=1)
    return settings.model_copy(update={"reasoner": quick})


@pytest.fixture
def engine(model: LlavaMini, prompts: PromptBuilder, settings: Settings) -> Engine:
    return make_engine(model, prompts, settings)


@pytest.fixture
def jobs(settings: Settings, store: Store, engine: Engine) -> ReasonerJobs:
    store.workers.announce_model(engine.fingerprint)
    store.index.set_ready(store.index.read_generation())
    return ReasonerJobs(settings, store, engine)


class Encoding(NamedTuple):
    jobs: EncoderJobs
    worker: WorkerThreads


@pytest.fixture
def encoding(settings: Settings, store: Store, encoder: Encoder) -> Iterator[Encoding]:
    """A live encoder worker."""
    jobs = EncoderJobs(settings, store, encoder)
    handlers = {
        "fuse_question": Handler(jobs.fuse_question, jobs.give_up_fusions),
        "encode_segment": Handler(jobs.encode_segment, jobs.give_up_segment),
    }
    pools = [Pool((FUSE,), 1), Pool((FUSE, ENCODE), 1)]
    with working(settings, store, "encode", pools, handlers, encoder.fingerprint) as worker:
        yield Encoding(jobs, worker)


@pytest.fixture
def video(store: Store, pictures: tuple[bytes, ...], records: list[Record]) -> Video:
    """100 frames in two segments, encoded."""
    video = add_sampled(store, pictures)
    for segment, record in enumerate(records):
        store.create_record(video.id, segment, record)
    return video
