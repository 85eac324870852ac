"""Answers one question over given tokens with the language half. Knows nothing of videos, queues or Redis."""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from llava_mini.language_half import fork, length
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


@dataclass
class Outcome:
    """What became of a question; grows while it is answered."""

    fusion_frames: int = 0
    scores: Array = field(default_factory=lambda: np.zeros(0, np.float32))  # (n,) attention per frame
    text_tokens: int = 0
    answer_tokens: int = 0
    finish_reason: str = "length"
    fusion_s: float = 0.0
    prefill_s: float = 0.0
    first_token_s: float | None = None  # from the beginning of `answer`


class Engine:
    """The LLM with its prefix cache; one question at a time."""

    def __init__(self, model: LlavaMini, prompts: PromptBuilder, limits: "Limits") -> None:
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

    def answer(
        self, stretch: Stretch, prompt: PromptIds, mode: FusionMode, options: Options, fuse: Fuse, outcome: Outcome
    ) -> Iterator[str]:
        """Yields the answer in pieces; `outcome` is complete once it ends. The caller may stop at any piece."""
        began = time.monotonic()
        cache = self._prefix(stretch, outcome)
        start = length(cache) - stretch.tokens.shape[0] * stretch.tokens.shape[1]
        question = self._question(stretch, prompt, mode, fuse, cache, start, outcome)
        outcome.text_tokens = len(prompt.text)
        logits, attention = self._model.language.score(cache, question, (start, start + _positions(stretch)))
        outcome.scores = _per_frame(attention, stretch)
        yield from self._decode(logits, cache, options, outcome, began)

    def _prefix(self, stretch: Stretch, outcome: Outcome) -> DynamicCache:
        """[system prompt, tokens] as keys and values, shared by all questions over the stretch."""
        began = time.monotonic()

        def make() -> DynamicCache:
            tokens = stretch.tokens.reshape(-1, stretch.tokens.shape[-1])
            return self._model.language.prefill(torch.from_numpy(np.concatenate([stretch.system, tokens])))

        cache = self._prefixes.get(stretch.key, make)
        outcome.prefill_s += time.monotonic() - began
        return cache

    def _question(
        self,
        stretch: Stretch,
        prompt: PromptIds,
        mode: FusionMode,
        fuse: Fuse,
        cache: DynamicCache,
        start: int,
        outcome: Outcome,
    ) -> Tensor:
        """The question's rows as they go into the LLM (L,D): fused over all frames, a sample, or where it looks."""
        count = len(stretch.tokens)

        def after(places: Sequence[int]) -> Array:
            began = time.monotonic()
            rows = fuse(places)[len(prompt.before) :]
            outcome.fusion_s += time.monotonic() - began
            outcome.fusion_frames = len(seen.union(places))
            seen.update(places)
            return rows

        seen: set[int] = set()
        if mode == "exact":
            return torch.from_numpy(after(range(count)))
        sample = after(even_sample(count, self._limits.sample_frames))
        if mode == "sampled":
            return torch.from_numpy(sample)
        scores = self._scores(torch.from_numpy(sample), cache, start, stretch)
        if self._limits.focus_baseline:
            neutral = self._model.language.embed(self._prompts.build([(NEUTRAL_QUESTION, None)]).after)
            scores = as_float(scores - self._scores(neutral, cache, start, stretch))
        focus = after(top_places(scores, focus_count(count, self._limits.focus_frames)))
        return torch.from_numpy(halved(sample, focus))

    def _scores(self, rows: Tensor, cache: DynamicCache, start: int, stretch: Stretch) -> Array:
        """Where the rows attend among the frames (n,), per row."""
        _, attention = self._model.language.score(fork(cache), rows, (start, start + _positions(stretch)))
        return as_float(_per_frame(attention, stretch) / len(rows))

    def _decode(
        self, logits: Tensor, cache: DynamicCache, options: Options, outcome: Outcome, began: float
    ) -> Iterator[str]:
        generator = torch.Generator().manual_seed(options.seed)
        stream = self._prompts.stream()
        for _ in range(options.max_tokens or self._limits.max_tokens):
            token = next_token(logits, temperature=options.temperature, top_p=options.top_p, generator=generator)
            if outcome.first_token_s is None:
                outcome.first_token_s = time.monotonic() - began
            if token in self._prompts.end_ids:
                outcome.finish_reason = "stop"
                break
            outcome.answer_tokens += 1
            yield stream.push(token)
            logits = self._model.language.step(cache, token)
        yield stream.finish()


@dataclass(frozen=True)
class Limits:
    """What bounds an answer (see `configs.settings.ReasonerSettings`)."""

    sample_frames: int
    focus_frames: int
    focus_baseline: bool
    max_tokens: int
    prefix_cache_bytes: int


def _positions(stretch: Stretch) -> int:
    return int(stretch.tokens.shape[0] * stretch.tokens.shape[1])


def _per_frame(attention: Tensor, stretch: Stretch) -> Array:
    """(n*C,) -> (n,)."""
    return as_float(attention.cpu().view(stretch.tokens.shape[:2]).sum(1).numpy())
