"""The bundled model's vision half, alone and as an encoder."""

from typing import cast

import pytest

from configs.settings import Settings
from encoder_worker.encoder import Encoder
from encoder_worker.jobs import EncoderJobs
from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from storage.store import Store
from tests.tiny import TINY
from tests.watched import WatchedModel

BATCH_FRAMES = 16


@pytest.fixture(scope="session")
def model() -> LlavaMini:
    return LlavaMini.from_pretrained(TINY, parts=("vision",))


@pytest.fixture(scope="session")
def prompts() -> PromptBuilder:
    return PromptBuilder.from_pretrained(TINY, system="answer the question about the video .")


@pytest.fixture
def watched(model: LlavaMini) -> WatchedModel:
    return WatchedModel(model)


@pytest.fixture
def encoder(watched: WatchedModel, prompts: PromptBuilder) -> Encoder:
    return Encoder(cast(LlavaMini, watched), prompts, BATCH_FRAMES)


@pytest.fixture
def jobs(settings: Settings, store: Store, encoder: Encoder) -> EncoderJobs:
    store.workers.announce_model(encoder.fingerprint)
    return EncoderJobs(settings, store, encoder)
