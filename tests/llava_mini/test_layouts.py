"""Checkpoints with released layouts and real widths: each half alone, the prompt, end tokens, dtypes, devices."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from configs.loading import load_settings
from llava_mini.config import LlavaMiniConfig
from llava_mini.errors import CheckpointError
from llava_mini.language_half import LanguageHalf
from llava_mini.model import LlavaMini, Part
from llava_mini.next_token import next_token
from llava_mini.prompt import SYSTEM_TEXT, PromptBuilder
from llava_mini.shapes import llava_mini_7b, llava_mini_8b
from llava_mini.vision_half import VisionHalf
from tests.llava_mini.layouts import (
    LLAMA_31,
    TWO_LINES,
    VICUNA,
    write_checkpoint,
    write_llama_tokenizer,
    write_vicuna_tokenizer,
)

BEGIN, START, END, END_OF_TURN = 128000, 128006, 128007, 128009
QUESTION = "Is it red?"
# The public code's template for Vicuna v1 (conversation.py), as Jinja.
VICUNA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }} "
    "{% elif m.role == 'user' %}USER: {{ m.content }} "
    "{% else %}ASSISTANT: {{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 8B layout. After any text that ends in two line breaks, the answer is the end of the turn."""
    one = nn.functional.one_hot(torch.tensor(7), 4096).float()
    rows = {"model.embed_tokens.weight": {TWO_LINES: one}, "lm_head.weight": {END_OF_TURN: one}}
    folder = write_checkpoint(tmp_path_factory.mktemp("layout") / "8b", LLAMA_31, 4, rows)
    write_llama_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def vicuna(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("layout") / "7b", VICUNA, 3, {})
    write_vicuna_tokenizer(folder)
    return folder


class OneDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails at the first operation that takes or makes a tensor outside the meta device."""

    def __torch_dispatch__(
        self, function: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        devices = {t.device.type for t in tree_iter((args, kwargs, result)) if isinstance(t, Tensor)}
        assert devices <= {"meta"}, f"{function} on {devices}"
        return result


@contextmanager
def one_device() -> Iterator[None]:
    with torch.no_grad(), OneDevice():  # type: ignore[no-untyped-call]
        yield


def assert_types(module: nn.Module, dtype: torch.dtype) -> None:
    assert {parameter.dtype for parameter in module.parameters()} == {dtype}
    frequencies = [value for name, value in module.named_buffers() if name.endswith("inv_freq")]
    assert len(frequencies) > 0
    assert all(value.dtype == torch.float32 for value in frequencies)


def test_the_prompt_of_the_released_layout_token_by_token(llama: Path) -> None:
    prompts = PromptBuilder.from_pretrained(
        llama, generation_prompt=load_settings("llava-mini-8b").model.generation_prompt
    )
    prompt = prompts.build([(QUESTION, None)])
    tokenizer = Tokenizer.from_file(str(llama / "tokenizer.json"))

    def plain(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    head = [BEGIN, START, *plain("system"), END, TWO_LINES]
    assert prompt.before == [*head, *plain(SYSTEM_TEXT), END_OF_TURN, START, *plain("user"), END, TWO_LINES]
    answer_head = [START, *plain("assistant"), END, TWO_LINES]
    assert prompt.after == [*plain("\n"), *plain(QUESTION), END_OF_TURN, *answer_head]
    assert prompt.text.count(BEGIN) == 1  # the public inference has two, the public training one
    assert prompts.end_ids == {128001, 128008, 128009}


def test_the_vision_half_of_the_released_layout(llama: Path) -> None:
    model = LlavaMini.from_pretrained(llama, dtype="bfloat16", parts=("vision",))
    assert_types(model.vision, torch.bfloat16)
    expected = LlamaRotaryEmbedding(model.config.text).inv_freq
    assert torch.equal(model.vision.prefusion.rotary.inv_freq, expected)
    assert model.vision.tower.embeddings.position_ids.dtype == torch.int64
    ids = PromptBuilder.from_pretrained(llama).build([(QUESTION, None)]).text
    frame = np.random.default_rng(0).integers(0, 256, (1, 336, 336, 3), dtype=np.uint8)
    encoded = model.encode(model.preprocess(frame), [ids])
    assert encoded.tokens.shape == (1, 1, 4096)
    assert torch.equal(encoded.fused[0][0], model.embed(ids).float())  # no layer of this checkpoint changes anything


def test_the_language_half_of_the_released_layout_answers_and_stops(llama: Path) -> None:
    model = LlavaMini.from_pretrained(llama, dtype="bfloat16", parts=("language",))
    llm = model.language.llm
    assert_types(llm, torch.bfloat16)
    assert torch.equal(llm.model.rotary_emb.inv_freq, LlamaRotaryEmbedding(model.config.text).inv_freq)
    prompts = PromptBuilder.from_pretrained(llama)
    prompt = prompts.build([(QUESTION, None)])
    cache = model.language.prefill(torch.cat([model.embed(prompt.before), torch.zeros(3, 4096).bfloat16()]))
    layers: Any = cache.layers
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    assert held == model.language.count_cache_bytes(len(prompt.before) + 3)
    logits, _ = model.language.score(cache, model.embed(prompt.after), (len(prompt.before), len(prompt.before) + 3))
    assert logits.dtype == torch.float32
    assert next_token(logits, temperature=0, top_p=1, generator=None) in prompts.end_ids


def test_both_halves_of_the_released_layout_have_the_same_fingerprint(llama: Path) -> None:
    parts: list[Part] = ["vision", "language"]
    prints = {
        LlavaMini.from_pretrained(llama, dtype="bfloat16", device="meta", parts=(part,)).fingerprint for part in parts
    }
    assert len(prints) == 1


def test_a_checkpoint_without_a_template_takes_it_from_the_settings(vicuna: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.chat_template"):
        PromptBuilder.from_pretrained(vicuna)
    prompts = PromptBuilder.from_pretrained(vicuna, chat_template=VICUNA_TEMPLATE, system="Be kind.")
    prompt = prompts.build([("Who?", "Ann."), (QUESTION, None)])
    # The public code encodes the text before and after the image separately, and the tokenizer puts <s> before each.
    tokenizer = Tokenizer.from_file(str(vicuna / "tokenizer.json"))
    assert prompt.before == tokenizer.encode("Be kind. USER: ").ids
    after = f"\nWho? ASSISTANT: Ann.</s>USER: {QUESTION} ASSISTANT:"
    assert [1, *prompt.after] == tokenizer.encode(after).ids
    assert prompts.end_ids == {2}
    assert LlavaMini.from_pretrained(vicuna, device="meta", dtype="bfloat16").config.pad_images


@pytest.mark.parametrize("name", ["llama", "vicuna"])
def test_loaded_halves_never_mix_devices(name: str, request: pytest.FixtureRequest) -> None:
    model = LlavaMini.from_pretrained(request.getfixturevalue(name), dtype="bfloat16", device="meta")
    assert_one_device(model.config, model.vision, model.language)


@pytest.mark.parametrize("shape", [llava_mini_7b, llava_mini_8b])
def test_the_whole_models_never_mix_devices(shape: Callable[[], LlavaMiniConfig]) -> None:
    config = shape().with_attention("sdpa")
    with torch.device("meta"):
        vision, llm = VisionHalf(config).bfloat16(), LlamaForCausalLM(config.text).bfloat16()
    assert_one_device(config, vision, LanguageHalf(llm))


def assert_one_device(config: LlavaMiniConfig, vision: VisionHalf, language: LanguageHalf) -> None:
    D = config.hidden_size
    with one_device():
        pixels = torch.empty(2, 1, 3, 336, 336, device="meta", dtype=torch.bfloat16)
        texts = [torch.empty(length, D, device="meta", dtype=torch.bfloat16) for length in (5, 9)]
        stages = vision(pixels, texts)
        assert [tuple(rows.shape) for rows in stages.fused] == [(2, 5, D), (2, 9, D)]
        cache = language.prefill(torch.empty(3000, D, device="meta"))  # in more than one piece
        logits, attention = language.score(cache, torch.empty(6, D, device="meta"), (10, 90))
        assert (logits.shape, attention.shape) == ((config.vocab_size,), (80,))
        assert language.advance(cache, torch.empty(1, D, device="meta")).shape == (config.vocab_size,)
