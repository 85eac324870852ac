"""The engine by itself: what is shared between questions changes none of them, and all that is set is heeded."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from reasoner.context import Array
from reasoner.engine import NEUTRAL_QUESTION, Engine, Limits, Outcome, Stretch
from storage.models import Options
from tests.tiny import TINY

LIMITS = Limits(sample_frames=16, focus_frames=16, focus_baseline=False, max_tokens=12, prefix_cache_bytes=2**30)


@pytest.fixture(scope="module")
def model() -> LlavaMini:
    return LlavaMini.from_pretrained(TINY, parts=("language",))


@pytest.fixture(scope="module")
def prompts() -> PromptBuilder:
    return PromptBuilder.from_pretrained(TINY)


@pytest.fixture(scope="module")
def stretch(model: LlavaMini, prompts: PromptBuilder) -> Stretch:
    """40 frames of nothing in particular."""
    tokens = np.random.default_rng(0).normal(size=(40, 1, model.config.hidden_size)).astype(np.float32)
    return Stretch("a stretch", tokens, model.embed(prompts.build([("", None)]).before).numpy())


def answered(engine: Engine, model: LlavaMini, stretch: Stretch, text: str, options: Options) -> tuple[str, Outcome]:
    prompt, outcome = engine.prompt([(text, None)]), Outcome()

    def fuse(places: Sequence[int]) -> Array:
        return model.embed(prompt.text).numpy()

    return "".join(engine.answer(stretch, prompt, "focused", options, fuse, outcome)), outcome


def test_a_kept_prefix_changes_nothing(model: LlavaMini, prompts: PromptBuilder, stretch: Stretch) -> None:
    keeping, forgetful = (Engine(model, prompts, replace(LIMITS, prefix_cache_bytes=n)) for n in (2**30, 1))
    for text in ("is there a red circle ?", "what place is this ?", "is there a red circle ?"):
        kept, fresh = (answered(engine, model, stretch, text, Options()) for engine in (keeping, forgetful))
        assert kept[0] == fresh[0]
        np.testing.assert_array_equal(kept[1].scores, fresh[1].scores)


def test_the_same_seed_says_the_same(model: LlavaMini, prompts: PromptBuilder, stretch: Stretch) -> None:
    engine = Engine(model, prompts, LIMITS)
    options = [Options(temperature=2.0, seed=seed, max_tokens=5) for seed in (1, 1, 2, 3, 4)]
    texts = [answered(engine, model, stretch, "what is there now ?", each)[0] for each in options]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


def test_an_answer_ends_at_its_limit_and_says_so(model: LlavaMini, prompts: PromptBuilder, stretch: Stretch) -> None:
    engine = Engine(model, prompts, LIMITS)
    _, outcome = answered(engine, model, stretch, "what is there now ?", Options(max_tokens=1))
    assert (outcome.answer_tokens, outcome.finish_reason) in ((1, "length"), (0, "stop"))
    assert outcome.vision_tokens == len(outcome.scores) == 40


def test_relative_to_itself_the_neutral_question_looks_nowhere(
    model: LlavaMini, prompts: PromptBuilder, stretch: Stretch
) -> None:
    engine = Engine(model, prompts, replace(LIMITS, focus_baseline=True))
    prompt, looked_at = engine.prompt([(NEUTRAL_QUESTION, None)]), list[list[int]]()

    def fuse(places: Sequence[int]) -> Array:
        looked_at.append(list(places))
        return model.embed(prompt.text).numpy()

    list(engine.answer(stretch, prompt, "focused", Options(), fuse, Outcome()))
    assert looked_at[1] == [0, 1, 2, 3, 4]  # all scores are equal: the first eighth of 40
