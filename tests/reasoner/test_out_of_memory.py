"""The reasoner frees the memory of failed and finished work, and no question holds its stretch twice."""

import threading
import time
import weakref
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from reasoner.engine import Engine, Limits, Outcome, TokenSource
from reasoner.focus import Array
from reasoner.scheduler import ModelThread
from storage.documents import Options
from storage.records import Half
from tests.tiny import TINY

LIMITS = Limits(sample_frames=16, focus_frames=16, focus_baseline=False, max_tokens=12, prefix_cache_bytes=0)
FRAMES = 200


@pytest.fixture(scope="module")
def model() -> LlavaMini:
    return LlavaMini.from_pretrained(TINY, parts=("language",))


@pytest.fixture(scope="module")
def prompts() -> PromptBuilder:
    return PromptBuilder.from_pretrained(TINY, system="answer the question about the video .")


def make_stretch(model: LlavaMini, prompts: PromptBuilder, key: Hashable) -> TokenSource:
    tokens = np.random.default_rng(0).normal(size=(FRAMES, 1, model.config.hidden_size)).astype(np.float16)
    system = model.embed(prompts.build([("", None)]).before).float().numpy()
    return TokenSource(key, FRAMES, lambda: (system, tokens))


def ask(engine: Engine, model: LlavaMini, stretch: TokenSource) -> Iterator[str]:
    prompt = engine.build_prompt([("is there a red circle ?", None)])

    def fuse(_: Sequence[int]) -> Array:
        rows: Array = model.embed(prompt.after).float().numpy()
        return rows

    return engine.answer(stretch, prompt, "focused", Options(), fuse, Outcome())


def test_the_tensors_of_a_failed_turn_are_freed_while_its_error_is_handled() -> None:
    thread = ModelThread()
    made: list[weakref.ref[torch.Tensor]] = []

    def turn() -> None:
        activations = torch.zeros(1000)
        made.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory")

    try:
        thread.run(turn)
    except torch.OutOfMemoryError:
        assert made[0]() is None
    else:
        pytest.fail("nothing was raised")


def test_an_idle_thread_holds_neither_a_turn_nor_its_result() -> None:
    thread = ModelThread()
    result = weakref.ref(thread.run(lambda: torch.zeros(1000)))
    thread.run(lambda: None)
    assert result() is None
    cache = torch.zeros(1000)
    alive = weakref.ref(cache)
    thread.run(partial(torch.sum, cache))
    del cache
    deadline = time.monotonic() + 5
    while alive() is not None and time.monotonic() < deadline:
        time.sleep(0.01)  # the thread drops the turn just after it sets the result
    assert alive() is None


def test_a_question_that_runs_out_of_memory_halfway_still_gets_the_same_answer(
    model: LlavaMini, prompts: PromptBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stretch = make_stretch(model, prompts, "s")
    expected = "".join(ask(Engine(model, prompts, LIMITS), model, stretch))
    layer: Any = model.language.llm.model.layers[2].mlp
    plain, lengths = layer.forward, list[int]()

    def run_out(hidden: torch.Tensor) -> torch.Tensor:
        lengths.append(hidden.shape[1])
        if len(lengths) in (2, 4):  # the first look and the answer; pass 1 is the prefix, 3 and 5 are second tries
            raise torch.OutOfMemoryError("CUDA out of memory")
        result: torch.Tensor = plain(hidden)
        return result

    monkeypatch.setattr(layer, "forward", run_out)
    assert "".join(ask(Engine(model, prompts, LIMITS), model, stretch)) == expected
    assert lengths[1] == lengths[2] == lengths[3] == lengths[4]


def test_a_question_holds_its_stretch_once(
    model: LlavaMini, prompts: PromptBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, held = model.language.score, list[int]()
    known: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()

    def score(cache: Any, *args: Any) -> Any:
        known.update({id(part): part for layer in cache.layers for part in (layer.keys, layer.values)})
        result = plain(cache, *args)
        known.update({id(part): part for layer in cache.layers for part in (layer.keys, layer.values)})
        held.append(sum(part.nbytes for part in known.values()))
        return result

    monkeypatch.setattr(model.language, "score", score)
    assert "".join(ask(Engine(model, prompts, LIMITS), model, make_stretch(model, prompts, "s")))
    assert len(held) == 2
    assert max(held) <= model.language.count_cache_bytes(FRAMES + 40)  # 40: its text


def test_a_question_that_waits_for_encoders_does_not_delay_others(model: LlavaMini, prompts: PromptBuilder) -> None:
    engine, begun, encoded = Engine(model, prompts, LIMITS), threading.Event(), threading.Event()
    first, second = make_stretch(model, prompts, "first"), make_stretch(model, prompts, "second")

    def wait() -> tuple[Array, Half]:
        begun.set()
        assert encoded.wait(60)
        return first.load()

    waiting = threading.Thread(target=lambda: list(ask(engine, model, replace(first, load=wait))))
    waiting.start()
    assert begun.wait(30)
    answers = list[str]()
    other = threading.Thread(target=lambda: answers.extend(ask(engine, model, second)))
    other.start()
    other.join(20)
    answered = bool(answers)
    encoded.set()
    waiting.join()
    other.join()
    assert answered
