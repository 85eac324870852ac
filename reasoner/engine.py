"""Answers one question over given tokens with the language half. Knows nothing of videos, queues or Redis."""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from llava_mini.language_half import fork
from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder, PromptIds, Turn
from llava_mini.sampling import next_token
from reasoner.context import Array, as_float, even_sample, focus_count, halved, top_places
from reasoner.prefix_cache import PrefixCache
from storage.models import FusionMode, Options

NEUTRAL_QUESTION = "what is this ?"  # what every question attends to alike is no evidence (`focus_baseline`)

Fuse = Callable[[Sequence[int]], Array]  # places of frames in the stretch -> mean of the prompt's fused text (L,D)


@dataclass(frozen=True)
class Stretch:
    """What is asked about: tokens (n,C,D), and the system prompt's mean over all n frames (L,D)."""

    key: Hashable  # the same for the same frames of the same video
    tokens: Array
    system: Array

    @property
    def positions(self) -> int:
        """How many of the LLM's positions the frames take: n*C."""
        return int(self.tokens.shape[0] * self.tokens.shape[1])


@dataclass
class Outcome:
    """What became of a question; grows while it is answered."""

    fusion_frames: int = 0
    scores: Array = field(default_factory=lambda: np.zeros(0, np.float32))  # (n,) attention per frame
    text_tokens: int = 0
    vision_tokens: int = 0
    answer_tokens: int = 0
    finish_reason: Literal["stop", "length"] = "length"
    fusion_s: float = 0.0
    prefill_s: float = 0.0  # both passes of a focused question included


@dataclass(frozen=True)
class Limits:
    """What bounds an answer (see `configs.settings.ReasonerSettings`)."""

    sample_frames: int
    focus_frames: int
    focus_baseline: bool
    max_tokens: int
    prefix_cache_bytes: int


class Engine:
    """The LLM with its prefix cache; one question at a time."""

    def __init__(self, model: LlavaMini, prompts: PromptBuilder, limits: Limits) -> None:
        self._model = model
        self._prompts = prompts
        self._limits = limits
        self._prefixes = PrefixCache(limits.prefix_cache_bytes)
        self.fingerprint = model.fingerprint

    def prompt(self, turns: Sequence[Turn]) -> PromptIds:
        """The token ids of a conversation whose last question is open."""
        return self._prompts.build(turns)

    def require_fit(self, frames: int, prompt: PromptIds, max_tokens: int) -> None:
        """Raises PromptTooLong, with the number of frames that would fit."""
        self._model.require_fit(frames, len(prompt.text), max_tokens)

    def first_look(self, mode: FusionMode, count: int) -> list[int]:
        """Which of a stretch's `count` frames the prompt is fused with first; `focused` then asks for more."""
        return even_sample(count, count if mode == "exact" else self._limits.sample_frames)

    def answer(
        self, stretch: Stretch, prompt: PromptIds, mode: FusionMode, options: Options, fuse: Fuse, outcome: Outcome
    ) -> Iterator[str]:
        """Yields the answer in pieces; `outcome` is complete once it ends. The caller may stop at any piece."""
        began, fused_s = time.monotonic(), outcome.fusion_s
        outcome.text_tokens, outcome.vision_tokens = len(prompt.text), stretch.positions
        cache = self._prefix(stretch)
        rows = self._question(stretch, prompt, mode, fuse, cache, outcome)
        logits, outcome.scores = self._scored(rows, cache, stretch)
        outcome.prefill_s = time.monotonic() - began - (outcome.fusion_s - fused_s)
        yield from self._decode(logits, cache, options, outcome)

    def _prefix(self, stretch: Stretch) -> DynamicCache:
        """[system prompt, tokens] as keys and values, shared by all questions over the stretch."""

        def make() -> DynamicCache:
            tokens = stretch.tokens.reshape(-1, stretch.tokens.shape[-1])
            return self._model.language.prefill(torch.from_numpy(np.concatenate([stretch.system, tokens])))

        positions = len(stretch.system) + stretch.positions
        return self._prefixes.get(stretch.key, self._model.language.count_cache_bytes(positions), make)

    def _question(
        self, stretch: Stretch, prompt: PromptIds, mode: FusionMode, fuse: Fuse, cache: DynamicCache, outcome: Outcome
    ) -> Tensor:
        """The question's rows as they go into the LLM (L,D): fused over all frames, a sample, or where it looks."""
        seen: set[int] = set()

        def after(places: Sequence[int]) -> Array:
            began = time.monotonic()
            rows = fuse(places)[len(prompt.before) :]
            outcome.fusion_s += time.monotonic() - began
            seen.update(places)
            outcome.fusion_frames = len(seen)
            return rows

        count = len(stretch.tokens)
        sample = after(self.first_look(mode, count))
        if mode != "focused":
            return torch.from_numpy(sample)
        scores = self._interest(torch.from_numpy(sample), cache, stretch)
        if self._limits.focus_baseline:
            neutral = self._model.embed(self._prompts.build([(NEUTRAL_QUESTION, None)]).after)
            scores = as_float(scores - self._interest(neutral, cache, stretch))
        focus = after(top_places(scores, focus_count(count, self._limits.focus_frames)))
        return torch.from_numpy(halved(sample, focus))

    def _interest(self, rows: Tensor, cache: DynamicCache, stretch: Stretch) -> Array:
        """Where the rows attend among the frames (n,), per row; the cache stays as it is."""
        return as_float(self._scored(rows, fork(cache), stretch)[1] / len(rows))

    def _scored(self, rows: Tensor, cache: DynamicCache, stretch: Stretch) -> tuple[Tensor, Array]:
        """Runs the rows (L,D) behind the prefix: the last one's logits (V,), and what all attend to, per frame (n,)."""
        start = len(stretch.system)
        logits, attention = self._model.language.score(cache, rows, (start, start + stretch.positions))
        per_frame = attention.cpu().view(stretch.tokens.shape[:2]).sum(1)  # (n*C,) -> (n,)
        return logits, as_float(per_frame.numpy())

    def _decode(self, logits: Tensor, cache: DynamicCache, options: Options, outcome: Outcome) -> Iterator[str]:
        generator = torch.Generator().manual_seed(options.seed)
        stream = self._prompts.start_stream()
        for _ in range(options.max_tokens or self._limits.max_tokens):
            token = next_token(logits, temperature=options.temperature, top_p=options.top_p, generator=generator)
            if token in self._prompts.end_ids:
                outcome.finish_reason = "stop"
                break
            outcome.answer_tokens += 1
            yield stream.push(token)
            logits = self._model.language.step(cache, token)
        yield stream.finish()
