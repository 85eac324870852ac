"""The engine by itself: what questions share does not change their answers, and all settings take effect."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from llava_mini.errors import PromptTooLong
from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from reasoner.engine import NEUTRAL_QUESTION, Engine, Limits, Outcome, TokenSource
from reasoner.focus import Array
from reasoner.scheduler import TURN_POSITIONS
from storage.documents import FusionMode, Options
from storage.records import Half
from tests.waiting import wait_until
from tests.watched import WatchedLanguage, with_language

LIMITS = Limits(sample_frames=16, focus_frames=16, focus_baseline=False, max_tokens=12, prefix_cache_bytes=2**30)
RED, PLACE, NOW = "is there a red circle ?", "what place is this ?", "what is there now ?"
MANY = "how many things are there ?"


@pytest.fixture
def language(model: LlavaMini) -> WatchedLanguage:
    return WatchedLanguage(model)


@pytest.fixture
def engine(model: LlavaMini, prompts: PromptBuilder, language: WatchedLanguage) -> Engine:
    return Engine(with_language(model, language), prompts, LIMITS)


class Loads:
    """A stretch of random frames that counts how often it is loaded."""

    def __init__(self, model: LlavaMini, prompts: PromptBuilder, frames: int, seed: int = 0) -> None:
        self.count = 0
        tokens = np.random.default_rng(seed).normal(size=(frames, 1, model.config.hidden_size)).astype(np.float16)
        system = model.embed(prompts.build([("", None)]).before).numpy()

        def load() -> tuple[Array, Half]:
            self.count += 1
            return system, tokens

        self.stretch = TokenSource(f"{frames} frames, {seed}", frames, load)


@pytest.fixture
def loads(model: LlavaMini, prompts: PromptBuilder) -> Loads:
    return Loads(model, prompts, 40)


def ask(
    engine: Engine,
    model: LlavaMini,
    stretch: TokenSource,
    text: str,
    options: Options | None = None,
    mode: FusionMode = "focused",
) -> tuple[str, Outcome]:
    prompt, outcome = engine.build_prompt([(text, None)]), Outcome()

    def fuse(places: Sequence[int]) -> Array:
        """Returns different rows for each choice of frames, as a real fusion does."""
        return model.embed(prompt.after).numpy() * np.float32(1 + np.mean(places) / 1000)

    return "".join(engine.answer(stretch, prompt, mode, options or Options(), fuse, outcome)), outcome


def assert_same(one: tuple[str, Outcome], other: tuple[str, Outcome]) -> None:
    assert one[0] == other[0]
    np.testing.assert_array_equal(one[1].scores, other[1].scores)
    assert one[1].rows is not None
    np.testing.assert_array_equal(one[1].rows, other[1].rows)
    assert one[1].answer_tokens == other[1].answer_tokens


def test_the_second_question_over_a_stretch_makes_no_prefix(
    engine: Engine, model: LlavaMini, prompts: PromptBuilder, loads: Loads, language: WatchedLanguage
) -> None:
    forgetful = Engine(model, prompts, replace(LIMITS, prefix_cache_bytes=1))
    for number, text in enumerate((RED, PLACE, RED), 1):
        kept, fresh = ask(engine, model, loads.stretch, text), ask(forgetful, model, loads.stretch, text)
        assert_same(kept, fresh)
        assert language.count("prefill") == 1
        assert loads.count == 1 + number  # the forgetful engine loads it each time
    ask(engine, model, Loads(model, prompts, 40, seed=1).stretch, RED)
    assert language.count("prefill") == 2  # another stretch has its own prefix


def test_a_full_cache_gives_up_its_old_prefix_before_a_new_one_is_made(
    model: LlavaMini, prompts: PromptBuilder, loads: Loads, language: WatchedLanguage
) -> None:
    """Otherwise both would be in memory together."""
    system, tokens = loads.stretch.load()
    room_for_one = model.language.count_cache_bytes(len(system) + len(tokens))
    engine = Engine(with_language(model, language), prompts, replace(LIMITS, prefix_cache_bytes=room_for_one))
    ask(engine, model, loads.stretch, RED)
    assert engine._prefixes.find(loads.stretch.key) is not None
    language.calls.clear()
    kept_meanwhile: list[bool] = []

    def look(call: int) -> None:
        if language.calls[-1][0] == "prefill":
            kept_meanwhile.append(engine._prefixes.find(loads.stretch.key) is not None)

    language.before = look
    ask(engine, model, Loads(model, prompts, 40, seed=1).stretch, RED)
    assert kept_meanwhile == [False]


def test_concurrent_questions_get_the_same_answers_as_alone(
    model: LlavaMini, prompts: PromptBuilder, engine: Engine, language: WatchedLanguage
) -> None:
    stretches = [Loads(model, prompts, frames, seed).stretch for seed, frames in enumerate((40, 64, 40, 20))]
    texts = (RED, PLACE, NOW)
    asked = [(s, t, Options(temperature=1.0, seed=k)) for s in stretches for k, t in enumerate(texts)]
    alone = [ask(Engine(model, prompts, LIMITS), model, *each) for each in asked]
    with ThreadPoolExecutor(len(asked)) as threads:
        together = list(threads.map(lambda each: ask(engine, model, *each), asked))
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)
    assert language.count("prefill") == len(
        stretches
    )  # each prefix is made once, although three questions need it at once


def test_other_questions_get_turns_while_a_long_prefix_is_made(
    model: LlavaMini, prompts: PromptBuilder, engine: Engine, language: WatchedLanguage, loads: Loads
) -> None:
    ask(engine, model, loads.stretch, RED)
    language.calls.clear()
    long = Loads(model, prompts, 3 * TURN_POSITIONS)
    language.hold()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(ask, engine, model, long.stretch, PLACE)
        wait_until(lambda: language.calls)
        second = threads.submit(ask, engine, model, loads.stretch, RED)
        wait_until(engine._thread._turns.qsize)
        language.released.set()
        first.result(60)
        second.result(60)
    names = [name for name, _ in language.calls]
    assert names.count("prefill") == 4
    assert "score" in names[: len(names) - 1 - names[::-1].index("prefill")]


def test_a_question_that_waits_for_its_stretch_does_not_delay_others(
    model: LlavaMini, engine: Engine, loads: Loads
) -> None:
    arrived = threading.Event()

    def load() -> tuple[Array, Half]:
        assert arrived.wait(60)
        return loads.stretch.load()

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, engine, model, TokenSource("waits for an encoder", 40, load), RED)
        other = ask(engine, model, loads.stretch, RED)
        assert not waiting.done()
        arrived.set()
        assert_same(waiting.result(60), other)


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5])
def test_running_out_of_memory_once_costs_only_the_kept_prefixes(
    call: int, model: LlavaMini, prompts: PromptBuilder, loads: Loads, engine: Engine, language: WatchedLanguage
) -> None:
    """The failing turn (the prefix, one of the two looks, a token) is run once more from the same state."""
    kept = Loads(model, prompts, 20)
    ask(engine, model, kept.stretch, RED)
    wanted = ask(Engine(model, prompts, LIMITS), model, loads.stretch, NOW)
    assert wanted[1].answer_tokens >= 2
    language.calls.clear()

    def run_out(number: int) -> None:
        if number == call:
            raise torch.OutOfMemoryError("as CUDA raises it")

    language.before = run_out
    assert_same(ask(engine, model, loads.stretch, NOW), wanted)
    failed = language.calls[call - 1]
    assert [name for name, _ in language.calls[:3]].count("prefill") == (2 if call == 1 else 1)
    assert language.calls[call] == failed  # the same turn ran again
    prefixes = language.count("prefill")
    ask(engine, model, kept.stretch, RED)
    assert language.count("prefill") == prefixes + 1  # the prefix kept before is gone


def test_running_out_of_memory_twice_in_a_row_ends_the_question_but_not_the_engine(
    model: LlavaMini, loads: Loads, engine: Engine, language: WatchedLanguage
) -> None:
    def run_out(number: int) -> None:
        raise torch.OutOfMemoryError("as CUDA raises it")

    language.before = run_out
    with pytest.raises(torch.OutOfMemoryError):
        ask(engine, model, loads.stretch, RED)
    language.before = lambda number: None
    assert ask(engine, model, loads.stretch, RED)[1].answer_tokens


def test_a_question_with_known_rows_is_not_fused_again(model: LlavaMini, loads: Loads, engine: Engine) -> None:
    text, first = ask(engine, model, loads.stretch, RED)
    assert first.rows is not None
    outcome = Outcome()

    def fuse(places: Sequence[int]) -> Array:
        raise AssertionError("fused again")

    prompt = engine.build_prompt([(RED, None)])
    known = first.fusion_frames, first.rows.astype(np.float16).astype(np.float32)  # as the cache returns them
    pieces = engine.answer(loads.stretch, prompt, "focused", Options(), fuse, outcome, known)
    assert_same(("".join(pieces), outcome), (text, first))
    assert outcome.fusion_frames == first.fusion_frames > 16


def test_a_focused_question_averages_a_sample_and_the_frames_that_the_sample_attends_to(
    model: LlavaMini, loads: Loads, engine: Engine
) -> None:
    prompt, outcome = engine.build_prompt([(RED, None)]), Outcome()
    rows, fused = model.embed(prompt.after).numpy(), list[list[int]]()

    def fuse(places: Sequence[int]) -> Array:
        fused.append(list(places))
        return rows * np.float32(len(fused))

    list(engine.answer(loads.stretch, prompt, "focused", Options(), fuse, outcome))
    sample, focus = fused
    assert sample == [(2 * k + 1) * 40 // 32 for k in range(16)]
    system, tokens = loads.stretch.load()
    cache = model.language.prefill(torch.from_numpy(np.concatenate([system, tokens[:, 0]])))
    looked = model.language.score(cache, torch.from_numpy(rows), (len(system), len(system) + 40))[1].numpy()
    assert focus == sorted(np.argsort(-looked)[:5].tolist())  # an eighth of 40
    assert outcome.rows is not None
    np.testing.assert_allclose(outcome.rows, rows * 1.5, rtol=1e-3)
    assert outcome.fusion_frames == len({*sample, *focus})


def test_the_same_seed_gives_the_same_answer(model: LlavaMini, loads: Loads, engine: Engine) -> None:
    options = [Options(temperature=2.0, seed=seed, max_tokens=5) for seed in (1, 1, 2, 3, 4)]
    texts = [ask(engine, model, loads.stretch, NOW, each)[0] for each in options]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


def test_the_probability_is_that_of_the_first_token_whatever_the_temperature(
    model: LlavaMini, prompts: PromptBuilder, loads: Loads, engine: Engine
) -> None:
    (text, outcome), gauge = ask(engine, model, loads.stretch, MANY), prompts.gauge
    assert outcome.rows is not None
    system, tokens = loads.stretch.load()
    cache = model.language.prefill(torch.from_numpy(np.concatenate([system, tokens[:, 0]])))
    logits = model.language.advance(cache, torch.from_numpy(outcome.rows))
    by_text = {prompts.decode([token]): gauge.measure_probability(logits, token) for token in range(len(logits))}
    assert outcome.probability == pytest.approx(by_text[text.split()[0]], abs=1e-5)
    drawn = set[str]()
    for seed in range(12):
        text, outcome = ask(engine, model, loads.stretch, MANY, Options(temperature=2.0, seed=seed, max_tokens=1))
        if text:  # otherwise it drew the end of the answer
            assert outcome.probability == pytest.approx(by_text[text], abs=1e-5)
        drawn.add(text)
    assert len(drawn) > 2


def test_yes_is_measured_against_no(model: LlavaMini, prompts: PromptBuilder, loads: Loads, engine: Engine) -> None:
    text, outcome = ask(engine, model, loads.stretch, RED)
    assert text in ("yes", "no")
    assert outcome.probability is not None
    assert outcome.probability >= 0.5  # the greedy side
    for seed in range(5):
        said, drawn = ask(engine, model, loads.stretch, RED, Options(temperature=1.0, seed=seed))
        expected = outcome.probability if said == text else 1 - outcome.probability
        assert said not in ("yes", "no") or drawn.probability == pytest.approx(expected, abs=1e-5)


def test_an_answer_ends_at_its_limit_and_says_so(model: LlavaMini, loads: Loads, engine: Engine) -> None:
    text, outcome = ask(engine, model, loads.stretch, NOW)
    assert (outcome.finish_reason, outcome.answer_tokens > 1) == ("stop", True)
    cut, outcome = ask(engine, model, loads.stretch, NOW, Options(max_tokens=1))
    assert (outcome.answer_tokens, outcome.finish_reason) == (1, "length")
    assert text.startswith(cut)
    assert len(cut) < len(text)
    assert outcome.vision_tokens == len(outcome.scores) == 40


def test_the_neutral_question_scores_no_frame_above_its_own_baseline(
    model: LlavaMini, prompts: PromptBuilder, loads: Loads
) -> None:
    engine = Engine(model, prompts, replace(LIMITS, focus_baseline=True))
    prompt, looked_at = engine.build_prompt([(NEUTRAL_QUESTION, None)]), list[list[int]]()

    def fuse(places: Sequence[int]) -> Array:
        looked_at.append(list(places))
        return model.embed(prompt.after).numpy()

    list(engine.answer(loads.stretch, prompt, "focused", Options(), fuse, Outcome()))
    assert looked_at[1] == [0, 1, 2, 3, 4]  # all scores are equal: the first eighth of 40


def test_the_most_frames_are_those_that_just_fit(engine: Engine) -> None:
    shortest = engine.build_prompt([("?", None)])
    engine.require_fit(engine.max_frames, shortest, 1)
    with pytest.raises(PromptTooLong):
        engine.require_fit(engine.max_frames + 1, shortest, 1)
