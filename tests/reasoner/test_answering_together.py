"""Questions that are answered together get the answers that they get alone, in fewer passes."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from llava_mini import language_half
from llava_mini.errors import PromptTooLong
from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder, PromptIds
from reasoner.engine import Engine, Limits, Outcome, TokenSource
from reasoner.focus import Array
from reasoner.packed_answers import Reply
from reasoner.scheduler import TURN_POSITIONS
from storage.documents import Options
from storage.records import Half
from tests.tiny import TINY
from tests.waiting import wait_until
from tests.watched import WatchedLanguage, with_language

LIMITS = Limits(sample_frames=16, focus_frames=16, focus_baseline=False, max_tokens=12, prefix_cache_bytes=2**30)
FRAMES, MAX_TOKENS = 40, 5
COLOURS, SHAPES = ("red", "green", "blue", "yellow", "purple"), ("circle", "square", "star")
TEXTS = [
    "what is there now ?",
    "how many things are there ?",
    *(f"is there a {colour} {shape} ?" for colour, shape in product(COLOURS, SHAPES)),
    *(f"what colour is the {shape} ?" for shape in SHAPES),
    *(f"did the {colour} star come before the red {shape} ?" for colour, shape in product(COLOURS, SHAPES)),
    *(f"describe the video . {colour} ?" for colour in COLOURS),
]
Asked = list[tuple[PromptIds, Array]]


@pytest.fixture
def language(model: LlavaMini) -> WatchedLanguage:
    return WatchedLanguage(model)


@pytest.fixture
def engine(model: LlavaMini, prompts: PromptBuilder, language: WatchedLanguage) -> Engine:
    return Engine(with_language(model, language), prompts, LIMITS)


@pytest.fixture(scope="module")
def stretch(model: LlavaMini, prompts: PromptBuilder) -> TokenSource:
    return make_stretch(model, prompts, FRAMES)


def make_stretch(model: LlavaMini, prompts: PromptBuilder, frames: int) -> TokenSource:
    tokens = np.random.default_rng(2).normal(size=(frames, 1, model.config.hidden_size)).astype(np.float16)
    system = model.embed(prompts.build([("", None)]).before).numpy()

    def load() -> tuple[Array, Half]:
        return system, tokens

    return TokenSource(f"{frames} frames", frames, load)


def make_questions(model: LlavaMini, prompts: PromptBuilder, texts: Sequence[str]) -> Asked:
    """Each with rows of its own, as a fusion makes them."""
    noise = np.random.default_rng(3)
    built = [prompts.build([(text, None)]) for text in texts]
    return [
        (prompt, rows + noise.normal(scale=0.3, size=rows.shape).astype(np.float32))
        for prompt in built
        for rows in [model.embed(prompt.after).numpy()]
    ]


@pytest.fixture(scope="module")
def asked(model: LlavaMini, prompts: PromptBuilder) -> Asked:
    return make_questions(model, prompts, TEXTS)


def ask_alone(
    engine: Engine, stretch: TokenSource, asked: Asked, max_tokens: int = MAX_TOKENS
) -> list[tuple[str, Outcome]]:
    answers = []
    for prompt, rows in asked:
        outcome = Outcome()
        options = Options(max_tokens=max_tokens)
        pieces = engine.answer(stretch, prompt, "focused", options, refuse_to_fuse, outcome, (1, rows))
        answers.append(("".join(pieces), outcome))
    return answers


def refuse_to_fuse(places: Sequence[int]) -> Array:
    raise AssertionError("the rows are known")


def list_tensors(cache: DynamicCache) -> list[Tensor]:
    layers: Any = cache.layers
    return [part for layer in layers for part in (layer.keys, layer.values)]


def assert_equal(together: Sequence[Reply], alone: Sequence[tuple[str, Outcome]]) -> None:
    assert [reply.text for reply in together] == [text for text, _ in alone]
    for reply, (_, outcome) in zip(together, alone, strict=True):
        assert reply.finish_reason == outcome.finish_reason
        assert reply.probability == pytest.approx(outcome.probability, abs=1e-5)
        np.testing.assert_allclose(reply.scores, outcome.scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_questions_asked_together_get_the_answers_that_they_get_alone(
    count: int, engine: Engine, stretch: TokenSource, asked: Asked, language: WatchedLanguage
) -> None:
    alone = ask_alone(engine, stretch, asked[:count])
    language.calls.clear()
    assert_equal(engine.answer_together(stretch, asked[:count], MAX_TOKENS), alone)
    rows = sum(len(each) for _, each in asked[:count])
    tokens = [outcome.answer_tokens for _, outcome in alone]
    assert language.calls == [
        *[("score_packed", min(TURN_POSITIONS, rows - first)) for first in range(0, rows, TURN_POSITIONS)],
        *[("advance_packed", going) for step in range(1, MAX_TOKENS) if (going := sum(n >= step for n in tokens))],
    ]
    if count == 40:
        assert rows < TURN_POSITIONS
        assert len({len(each) for _, each in asked}) == 3
        assert len(set(tokens)) > 1  # some end early
        assert {reply.finish_reason for reply in engine.answer_together(stretch, asked, 2)} == {"stop", "length"}


def test_the_kept_prefix_serves_everybody_afterwards(
    engine: Engine, stretch: TokenSource, asked: Asked, language: WatchedLanguage
) -> None:
    first = engine.answer_together(stretch, asked, MAX_TOKENS)
    kept = engine._prefixes.find(stretch.key)
    assert kept is not None
    before = [part.clone() for part in list_tensors(kept)]
    again = engine.answer_together(stretch, asked, MAX_TOKENS, at_once=7)
    assert_equal(again, ask_alone(engine, stretch, asked))
    assert [reply.text for reply in again] == [reply.text for reply in first]
    assert language.count("prefill") == 1
    assert all(torch.equal(*pair) for pair in zip(list_tensors(kept), before, strict=True))


def test_no_more_questions_are_packed_than_allowed(
    engine: Engine, stretch: TokenSource, asked: Asked, language: WatchedLanguage
) -> None:
    engine.answer_together(stretch, asked[:7], 1, at_once=3)
    lengths = [len(rows) for _, rows in asked[:7]]
    packs = [sum(lengths[:3]), sum(lengths[3:6]), lengths[6]]
    assert [call for call in language.calls if call[0] != "prefill"] == [("score_packed", rows) for rows in packs]


def test_without_masks_it_is_one_question_after_the_other(
    engine: Engine, stretch: TokenSource, asked: Asked, language: WatchedLanguage, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = ask_alone(engine, stretch, asked[:5])
    language.calls.clear()
    monkeypatch.setattr(language_half, "MASKED", ())
    assert_equal(engine.answer_together(stretch, asked[:5], MAX_TOKENS), alone)
    assert language.count("score_packed") == 5
    assert {rows for name, rows in language.calls if name == "advance_packed"} == {1}


def test_eager_attention_gives_the_same_answers(
    prompts: PromptBuilder, engine: Engine, stretch: TokenSource, asked: Asked
) -> None:
    eager = LlavaMini.from_pretrained(TINY, parts=("language",), attention="eager")
    assert_equal(
        Engine(eager, prompts, LIMITS).answer_together(stretch, asked, MAX_TOKENS), ask_alone(engine, stretch, asked)
    )


def test_nothing_asked_makes_no_prefix(engine: Engine, stretch: TokenSource, language: WatchedLanguage) -> None:
    assert engine.answer_together(stretch, [], MAX_TOKENS) == []
    assert not language.calls


def test_a_question_that_does_not_fit_is_refused_before_any_work(
    engine: Engine, stretch: TokenSource, asked: Asked, language: WatchedLanguage
) -> None:
    with pytest.raises(PromptTooLong):
        engine.answer_together(stretch, asked, 5000)
    assert not language.calls


def test_rows_beyond_a_turn_are_run_in_several_and_others_get_turns_in_between(
    model: LlavaMini,
    prompts: PromptBuilder,
    engine: Engine,
    stretch: TokenSource,
    asked: Asked,
    language: WatchedLanguage,
) -> None:
    many = make_questions(model, prompts, [f"{text} {'red ' * 30} ?" for text in TEXTS[:30]])
    alone = ask_alone(engine, stretch, many)
    (other,) = ask_alone(engine, stretch, asked[:1])
    language.calls.clear()
    language.hold()
    with ThreadPoolExecutor(2) as threads:
        together = threads.submit(engine.answer_together, stretch, many, MAX_TOKENS)
        wait_until(lambda: language.calls)
        single = threads.submit(ask_alone, engine, stretch, asked[:1])
        wait_until(engine._thread._turns.qsize)
        language.released.set()
        assert_equal(together.result(60), alone)
        assert single.result(60)[0][0] == other[0]
    names = [name for name, _ in language.calls]
    assert names.count("score_packed") == 3
    assert max(rows for name, rows in language.calls if name == "score_packed") == TURN_POSITIONS
    assert names.index("score") < max(place for place, name in enumerate(names) if name == "score_packed")


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_running_out_of_memory_once_costs_only_the_kept_prefixes(
    call: int, engine: Engine, stretch: TokenSource, asked: Asked, language: WatchedLanguage
) -> None:
    """The failing turn (the prefix, the questions, a token) is run once more from the same state."""
    alone = ask_alone(engine, stretch, asked[:7])
    engine._prefixes.clear()
    language.calls.clear()

    def run_out(number: int) -> None:
        if number == call:
            raise torch.OutOfMemoryError("as CUDA raises it")

    language.before = run_out
    assert_equal(engine.answer_together(stretch, asked[:7], MAX_TOKENS), alone)
    assert language.calls[call] == language.calls[call - 1]
    assert (engine._prefixes.find(stretch.key) is not None) == (call == 1)  # made again only if it was the first


def test_several_threads_may_ask_together(engine: Engine, stretch: TokenSource, asked: Asked) -> None:
    alone = ask_alone(engine, stretch, asked)
    with ThreadPoolExecutor(3) as threads:
        barrier = threading.Barrier(3)

        def ask(first: int) -> list[Reply]:
            barrier.wait(60)
            return engine.answer_together(stretch, asked[first : first + 12], MAX_TOKENS)

        for first, replies in zip((0, 12, 24), threads.map(ask, (0, 12, 24)), strict=True):
            assert_equal(replies, alone[first : first + 12])


def test_more_than_one_token_per_frame(
    model: LlavaMini, prompts: PromptBuilder, asked: Asked, language: WatchedLanguage
) -> None:
    """Scores are per frame, not per token."""
    config = replace(model.config, compressor_size=2)
    assert config.tokens_per_frame == 4
    wide = with_language(model, language)
    wide.config = config
    engine = Engine(wide, prompts, LIMITS)
    single = make_stretch(model, prompts, FRAMES)

    def load() -> tuple[Array, Half]:
        system, tokens = single.load()
        return system, tokens.reshape(FRAMES // 4, 4, -1)

    stretch = TokenSource("four tokens a frame", FRAMES // 4, load)
    together = engine.answer_together(stretch, asked[:7], MAX_TOKENS)
    assert_equal(together, ask_alone(engine, stretch, asked[:7]))
    assert together[0].scores.shape == (FRAMES // 4,)
