"""The whole service with LLaVA-Mini-HD's layout: four sub-images, 64 tokens per frame, pictures of 672 px."""

import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.recipe import random_tensor, with_config, write_checkpoint
from configs.settings import IngestSettings, ModelSettings, Settings
from encoder_worker.__main__ import load_encoder
from encoder_worker.encoder import decode_jpeg
from encoder_worker.jobs import EncoderJobs
from ingest.jobs import IngestJobs
from jobs.intake import Intake
from jobs.names import ANSWER, ENCODE, FUSE
from jobs.runner import Handler
from jobs.worker import Pool
from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from reasoner.__main__ import load_engine
from reasoner.jobs import ReasonerJobs
from storage.documents import Options, Question, Video
from storage.store import Store
from tests.media import numbered, steady, write_video
from tests.submitting import new_question, new_video
from tests.tiny import TINY
from tests.tolerance import HALF
from tests.waiting import wait_until
from tests.working import working

SHAPE = Path(__file__).parent.parent.parent / "benchmarks" / "shapes" / "mid"
WORDS = 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of that layout: random weights, two layers, the vocabulary of the bundled model."""
    folder = tmp_path_factory.mktemp("hd")
    shape = with_config(
        SHAPE,
        folder / "shape",
        resolution_ratio=2,
        compressor_size=8,
        num_hidden_layers=2,
        prefusion_layer_num=2,
        vocab_size=91,
    )
    positions = random_tensor("positions", (64, 256), 3, 0.5)
    write_checkpoint(shape, folder / "made", seed=3, std=0.05, positions=positions)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(TINY / name, folder / "made" / name)
    return folder / "made"


@pytest.fixture
def settings(settings: Settings, checkpoint: Path, tmp_path: Path) -> Settings:
    ingest = IngestSettings(model_side_px=672, allowed_roots=(tmp_path,))
    model = ModelSettings(checkpoint=str(checkpoint), device="cpu")
    return settings.model_copy(update={"ingest": ingest, "model": model})


def answer(settings: Settings, store: Store, video: Video, **values: Any) -> tuple[Video, Question]:
    """Submits the video together with a question, and lets real workers do the rest."""
    encoder, engine = load_encoder(settings), load_engine(settings)
    encoding, reasoning = EncoderJobs(settings, store, encoder), ReasonerJobs(settings, store, engine)
    encodes = {
        "fuse_question": Handler(encoding.fuse_question, encoding.give_up_fusions),
        "encode_segment": Handler(encoding.encode_segment, encoding.give_up_segment),
    }
    answers = {"answer_question": Handler(reasoning.answer_question, reasoning.give_up_question)}
    intake, fingerprint = Intake(store, settings), encoder.fingerprint
    store.index.set_ready(store.index.read_generation())
    with (
        working(settings, store, "encode", [Pool((FUSE, ENCODE), 2)], encodes, fingerprint),
        working(settings, store, "reason", [Pool((ANSWER,), 1)], answers, fingerprint),
    ):
        intake.add_video(video)
        question = intake.add_question(new_question(video, options=Options(max_tokens=WORDS), **values))
        assert question.status == "waiting"
        IngestJobs(settings, store).ingest_video(video.id)
        wait_until(lambda: store.read_question(question.id).settled)
    return store.read_video(video.id), store.read_question(question.id)


def say(checkpoint: Path, settings: Settings, model: LlavaMini, pixels: torch.Tensor, text: str) -> str:
    """Returns the answer of the model itself about these frames."""
    prompts = PromptBuilder.from_pretrained(checkpoint, system=settings.model.system_prompt)
    trace = model.trace(pixels, torch.tensor([prompts.build([(text, None)]).ids]), WORDS)
    ids = trace["generated_ids"].tolist()
    ended = next((k for k, i in enumerate(ids) if i in prompts.end_ids), len(ids))
    stream = prompts.start_stream()
    return "".join(stream.push(i) for i in ids[:ended]) + stream.finish()


def test_a_video_goes_through_the_whole_service_at_high_resolution(
    settings: Settings, store: Store, checkpoint: Path, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "video.mp4", steady(3, fps=5), size=(1280, 720))
    video, question = answer(settings, store, new_video(kind="path", location=str(path)), fusion="exact")
    with store.archive.open_segment(video.id, 0) as pictures:
        frames = np.stack([decode_jpeg(pictures.read_picture("model", place), "") for place in range(3)])
    assert frames.shape == (3, 672, 672, 3)
    model = LlavaMini.from_pretrained(checkpoint)
    pixels = model.preprocess(frames)
    assert pixels.shape[:2] == (3, 5)  # four sub-images and the whole picture
    record = store.archive.read_record(video.id, 0, model.fingerprint)
    assert record is not None
    assert record.tokens.shape == (3, 64, 512)
    np.testing.assert_allclose(record.tokens, model.encode(pixels).tokens.numpy(), **HALF)
    assert question.answer is not None
    assert (question.answer.frames, question.answer.tokens.vision) == (3, 3 * 64)
    assert question.answer.text == say(checkpoint, settings, model, pixels, question.text)
    assert {evidence.slot for evidence in question.answer.evidence} <= set(range(3))


def test_an_image_goes_through_the_whole_service_at_high_resolution(
    settings: Settings, store: Store, checkpoint: Path, tmp_path: Path
) -> None:
    file = BytesIO()
    Image.fromarray(numbered(1234, 1000, 700)).save(file, "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(file.getvalue())
    video, question = answer(settings, store, new_video(kind="path", location=str(path)))
    assert (video.media, video.frames_sampled) == ("image", 1)
    model = LlavaMini.from_pretrained(checkpoint)
    pixels = model.preprocess_image(numbered(1234, 1000, 700))
    record = store.archive.read_record(video.id, 0, model.fingerprint)
    assert record is not None
    assert record.tokens.shape == (1, 64, 512)
    np.testing.assert_allclose(record.tokens, model.encode(pixels).tokens.numpy(), **HALF)
    assert question.answer is not None
    assert (question.answer.frames, question.answer.tokens.vision) == (1, 64)
    assert question.answer.text == say(checkpoint, settings, model, pixels, question.text)
