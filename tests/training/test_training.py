"""The training forward pass equals the model's, and pictures show what the world says."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.settings import IngestSettings
from ingest.files.source import VideoSource
from llava_mini.model import LlavaMini, pool
from llava_mini.prompt import PromptBuilder
from training.batches import answer_layout, assemble, draw
from training.export import export
from training.files import write_video
from training.model import TrainingModel, evidence_loss
from training.questions import KINDS, Stretch, ask, words
from training.render import RGB, render
from training.shape import PATCH_PX, SIDE_PX, tiny_config
from training.vocabulary import SYSTEM_PROMPT, Vocabulary
from training.world import Thing, World, generate


@pytest.fixture(scope="module")
def model() -> TrainingModel:
    """A random model, rounded to the precision that an export keeps."""
    torch.manual_seed(0)
    model = TrainingModel(tiny_config(len(Vocabulary())))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16).float())
    return model.eval()


@pytest.fixture(scope="module")
def folder(model: TrainingModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export(model, folder)
    return folder


def test_the_exported_checkpoint_gives_the_same_logits_and_attention_as_training(
    model: TrainingModel, folder: Path
) -> None:
    raw = next(raw for number in range(1000, 1099) if (raw := draw(number, 1, SIDE_PX))["weights"].shape[2] == 6)
    V, Q, T = raw["weights"].shape
    raw |= {
        "weights": np.full((V, Q, T), 1 / T, np.float32),
        "spread": np.tile(np.arange(T), (V, 1)),
        "plain": np.zeros(V, bool),
    }
    batch = assemble(raw, (SIDE_PX // PATCH_PX) ** 2)
    with torch.no_grad():
        trained, attention = model(batch)
    loaded = LlavaMini.from_pretrained(folder)
    for v, q in ((0, 0), (1, 3), (2, 5)):
        question = [i for i in batch.questions[v, q].tolist() if i]
        answer = [i for i in batch.answers[v, q].tolist() if i]
        before = batch.before.tolist()
        encoded = loaded.encode(batch.pictures[v * T : (v + 1) * T], [before + question])
        mean = pool(encoded.fused[0])
        tokens, said = encoded.tokens.flatten(0, 1), loaded.language.embed(answer)
        cache = loaded.language.prefill(torch.cat([mean[: len(before)], tokens]))
        first, looks = loaded.language.score(cache, mean[len(before) :], (len(before), len(before) + T))
        torch.testing.assert_close(looks, attention[v, q], atol=1e-4, rtol=1e-3)
        logits = [first]
        logits += [loaded.language.advance(cache, row[None]) for row in said[:-1]]
        torch.testing.assert_close(torch.stack(logits), trained[v, q, : len(answer)], atol=2e-4, rtol=1e-3)


def test_the_saved_tokenizer_encodes_as_training_does(folder: Path) -> None:
    prompts = PromptBuilder.from_pretrained(folder, system=SYSTEM_PROMPT)
    vocabulary = Vocabulary()
    built = prompts.build([("Is there a red circle?", None)])
    assert built.before == vocabulary.before
    assert built.after == vocabulary.question("is there a red circle ?")
    assert vocabulary.ids["</s>"] in prompts.end_ids
    stream = prompts.start_stream()
    said = vocabulary.answer("a red circle")[:-1]
    assert "".join(stream.push(i) for i in said) == "a red circle"


def test_the_vocabulary_has_every_word_of_every_question() -> None:
    vocabulary = Vocabulary()
    rng = np.random.default_rng(0)
    for seed in range(200):
        world = generate(seed, [1, 6, 16, 64][seed % 4])
        for kind in KINDS:
            question = ask(Stretch(world, 0, world.seconds), rng, kind)
            if question is not None:
                for text in (question.text, question.answer):
                    assert vocabulary.ids["<unk>"] not in vocabulary.encode(text), text
    assert set(words()) <= set(vocabulary.ids)


def test_a_seed_always_gives_the_same_world_and_things_do_not_overlap() -> None:
    for seed in range(50):
        world = generate(seed, 64)
        assert world == generate(seed, 64)
        for second in range(64):
            places = [at for thing in world.things if (at := thing.at(second + 0.5))]
            gaps = [np.hypot(a[0] - b[0], a[1] - b[1]) for a in places for b in places if a is not b]
            assert not gaps or min(gaps) > 0.2, (seed, second)


def test_pictures_show_what_the_world_says(tmp_path: Path) -> None:
    thing = Thing("red", "square", 0, "left", ((2, 4),))
    world = World("street", 6, (thing,))
    path = write_video(world, tmp_path / "world.mp4", fps=5)
    source = VideoSource(path, IngestSettings())
    seen = [frame.model for frame in source.sample_frames(1.0)]
    x, y = (int(336 * part) for part in thing.at(2.5) or (0, 0))
    reds = [np.abs(picture[y, x].astype(int) - RGB["red"]).max() < 40 for picture in seen]
    assert reds == [False, False, True, True, False, False]
    drawn = render(world, 2.5, 336)
    assert np.abs(drawn.astype(int) - seen[2]).mean() < 6


def test_the_loss_rises_if_attention_misses_the_frames_that_show_the_answer() -> None:
    raw = next(raw for number in range(1000, 1099) if (raw := draw(number, 1, SIDE_PX))["weights"].shape[2] == 16)
    batch = assemble(raw, (SIDE_PX // PATCH_PX) ** 2)
    assert batch.evidence.any(2).float().mean() > 0.5
    there = batch.evidence + 1e-3
    assert evidence_loss(there, batch) == 0
    assert evidence_loss(there * 7, batch) == 0  # a share, not an amount
    past = 1 - batch.evidence + 1e-3
    assert evidence_loss(past, batch) > evidence_loss(torch.ones_like(past), batch) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_names_the_seconds_that_show_its_answer(kind: str) -> None:
    rng = np.random.default_rng(0)
    asked = [(world, ask(Stretch(world, 0, 16), rng, kind)) for world in map(partial(generate, seconds=16), range(60))]
    found = [(world, question) for world, question in asked if question is not None]
    assert len(found) > 5
    for world, question in found:
        shown = {second for second in question.seconds for thing in world.things if thing.seconds(second, second + 1)}
        if kind == "room":
            assert not question.seconds
        elif kind == "now":
            assert question.seconds == (15,)
        else:
            assert shown == set(question.seconds), question
        for thing in world.things:
            if thing.name in question.text:
                assert set(thing.seconds(0, 16)) <= set(question.seconds), question


def test_the_answer_layout_hides_padding_and_other_questions() -> None:
    positions, bias = answer_layout(3, torch.tensor([[0, 4]]), torch.tensor([[2, 3]]))
    assert positions[0, :5].tolist() == [0, 1, 2, 3, 7]
    first, second = 5, 5 + (bias.shape[1] - 5) // 2
    assert positions[0, first : first + 2].tolist() == [8, 9]
    answer_row = first + (second - first) - 1
    seen = (bias[0, answer_row] == 0).nonzero().flatten().tolist()
    assert set(range(7)) <= set(seen)
    assert first + 2 not in seen  # padding of the question
    assert not any(second <= row for row in seen)
