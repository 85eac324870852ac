"""Answers questions over given tokens with the language half. Knows nothing of videos, queues or Redis."""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from llava_mini.context_limit import frames_that_fit
from llava_mini.language_half import fork, shorten
from llava_mini.model import LlavaMini
from llava_mini.next_token import next_token
from llava_mini.prompt import PromptBuilder, PromptIds, Turn
from reasoner.focus import Array, as_float, even_sample, focus_count, halved, top_places
from reasoner.prefix_cache import PrefixCache
from reasoner.scheduler import ModelThread
from storage.documents import FusionMode, Options

log = logging.getLogger(__name__)

NEUTRAL_QUESTION = "what is this ?"  # what every question attends to alike is no evidence (`focus_baseline`)
TURN_POSITIONS = 512  # of a prefix, computed at once: others' answers go on in between
Result = TypeVar("Result")

Fuse = Callable[[Sequence[int]], Array]  # places of frames in the stretch -> mean of the question's fused rows (L,D)


@dataclass(frozen=True)
class TokenSource:
    """Where the vision tokens of a stretch come from: n frames of C tokens each."""

    key: Hashable  # the same for the same frames, and system rows made in the same way
    count: int
    load: Callable[[], tuple[Array, Array]]  # system rows (L,D) and tokens (n,C,D); called if the prefix is not kept


@dataclass
class Outcome:
    """What became of a question; grows while it is answered."""

    fusion_frames: int = 0
    rows: Array | None = None  # (L,D) the question as it went into the LLM
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
    """The LLM with its prefix cache. Questions of several job threads go on together, in turns on one model thread."""

    def __init__(self, model: LlavaMini, prompts: PromptBuilder, limits: Limits) -> None:
        self._model = model
        self._prompts = prompts
        self._limits = limits
        self._prefixes = PrefixCache(limits.prefix_cache_bytes)
        self._thread = ModelThread()
        self._making_prefix = threading.Lock()  # one at a time: two of them could be the same one
        self.fingerprint = model.fingerprint

    def build_prompt(self, turns: Sequence[Turn]) -> PromptIds:
        """The token ids of a conversation whose last question is open."""
        return self._prompts.build(turns)

    @property
    def max_frames(self) -> int:
        """How many frames fit into the context beside the shortest of questions and an answer of one token."""
        config, text = self._model.config, self.build_prompt([("?", None)]).text
        return frames_that_fit(config.context, config.tokens_per_frame, len(text), 1)

    def require_fit(self, frames: int, prompt: PromptIds, max_tokens: int) -> None:
        """Raises PromptTooLong, with the number of frames that would fit."""
        self._model.require_fit(frames, len(prompt.text), max_tokens)

    def first_look(self, mode: FusionMode, count: int) -> list[int]:
        """Which of a stretch's `count` frames the question is fused with first; `focused` then asks for more."""
        return even_sample(count, count if mode == "exact" else self._limits.sample_frames)

    def answer(
        self,
        source: TokenSource,
        prompt: PromptIds,
        mode: FusionMode,
        options: Options,
        fuse: Fuse,
        outcome: Outcome,
        known: tuple[int, Array] | None = None,
    ) -> Iterator[str]:
        """Yields the answer in pieces; `outcome` is complete once it ends. The caller may stop at any piece.

        `known` are `fusion_frames` and `rows` of an earlier outcome for the same question: nothing is fused then.
        """
        began, fused_s = time.monotonic(), outcome.fusion_s
        outcome.text_tokens, outcome.vision_tokens = (
            len(prompt.text),
            source.count * self._model.config.tokens_per_frame,
        )
        cache = self._prefix(source)
        start = len(prompt.before)
        if known is None:
            outcome.rows = self._fused_rows(source, prompt, mode, fuse, cache, outcome)
        else:
            outcome.fusion_frames, outcome.rows = known
        logits, outcome.scores = self._score(torch.from_numpy(outcome.rows), cache, source, start)
        outcome.prefill_s = time.monotonic() - began - (outcome.fusion_s - fused_s)
        yield from self._decode(logits, cache, options, outcome)

    def _prefix(self, source: TokenSource) -> DynamicCache:
        """[system rows, tokens] as keys and values, shared by all questions over the stretch."""
        kept = self._thread.run(lambda: self._prefixes.find(source.key))
        if kept is not None:
            return kept
        system, tokens = source.load()  # may wait for an encoder: no other question waits with it
        with self._making_prefix:
            kept = self._thread.run(lambda: self._prefixes.find(source.key))
            return self._make_prefix(source, system, tokens) if kept is None else kept

    def _make_prefix(self, source: TokenSource, system: Array, tokens: Array) -> DynamicCache:
        rows = torch.from_numpy(np.concatenate([system, tokens.reshape(-1, tokens.shape[-1])]))
        size_bytes = self._model.language.count_cache_bytes(len(rows))
        self._thread.run(lambda: self._prefixes.make_room(size_bytes))
        cache = self._try_twice(partial(self._prefill, rows))
        self._thread.run(lambda: self._prefixes.keep(source.key, cache, size_bytes))
        return fork(cache)

    def _prefill(self, rows: Tensor) -> DynamicCache:
        """Grows one cache in place, turn by turn: two copies of a long prefix would not fit."""
        cache = self._model.language.make_cache()
        for part in torch.split(rows, TURN_POSITIONS):
            self._thread.run(partial(self._model.language.prefill, part, cache))
        return cache

    def _turn(self, turn: Callable[[], Result]) -> Result:
        """A turn on the model's thread that begins with the caches as they were: it can be tried twice."""
        return self._try_twice(lambda: self._thread.run(turn))

    def _try_twice(self, work: Callable[[], Result]) -> Result:
        """If memory runs out, the kept prefixes go and it is tried once more."""
        try:
            return work()
        except torch.OutOfMemoryError:
            log.warning("out of memory: dropping all kept prefixes, and trying once more")
        self._thread.run(self._free_memory)  # behind the handler: the error, which holds tensors, is gone
        return work()

    def _free_memory(self) -> None:
        self._prefixes.clear()
        torch.cuda.empty_cache()

    def _fused_rows(
        self,
        source: TokenSource,
        prompt: PromptIds,
        mode: FusionMode,
        fuse: Fuse,
        cache: DynamicCache,
        outcome: Outcome,
    ) -> Array:
        """The question's rows as they go into the LLM (L,D): fused over all frames, a sample, or where it looks."""
        seen: set[int] = set()

        def timed_fuse(places: Sequence[int]) -> Array:
            began = time.monotonic()
            rows = fuse(places)
            outcome.fusion_s += time.monotonic() - began
            seen.update(places)
            outcome.fusion_frames = len(seen)
            return rows

        sample = timed_fuse(self.first_look(mode, source.count))
        if mode != "focused":
            return as_half_kept(sample)
        start = len(prompt.before)
        scores = self._interest(torch.from_numpy(sample), cache, source, start)
        if self._limits.focus_baseline:
            neutral = self._turn(lambda: self._model.embed(self._prompts.build([(NEUTRAL_QUESTION, None)]).after))
            scores = as_float(scores - self._interest(neutral, cache, source, start))
        focus = timed_fuse(top_places(scores, focus_count(source.count, self._limits.focus_frames)))
        return as_half_kept(halved(sample, focus))

    def _interest(self, rows: Tensor, cache: DynamicCache, source: TokenSource, start: int) -> Array:
        """Where the rows attend among the frames (n,), per row; the cache is as long as before."""
        length = cache.get_seq_length()
        scores = self._score(rows, cache, source, start)[1]
        shorten(cache, length)
        return as_float(scores / len(rows))

    def _score(self, rows: Tensor, cache: DynamicCache, source: TokenSource, start: int) -> tuple[Tensor, Array]:
        """Runs the rows (L,D) behind the prefix, by which the cache grows: the last one's logits (V,), and what all
        attend to, per frame (n,).

        The cache is the question's own and grows in place. A layer's old keys and values go as its new ones come, so
        a question never holds its stretch twice (`longwatch plan`).
        """
        per_frame = self._model.config.tokens_per_frame
        span, length = (start, start + source.count * per_frame), cache.get_seq_length()

        def turn() -> tuple[Tensor, Tensor]:
            shorten(cache, length)  # a try that ran out of memory has grown some of the layers
            return self._model.language.score(cache, rows, span)

        logits, attention = self._turn(turn)
        return logits, as_float(attention.cpu().view(source.count, per_frame).sum(1).numpy())

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
            logits = self._step(cache, token)
        yield stream.finish()

    def _step(self, cache: DynamicCache, token: int) -> Tensor:
        """Grows the cache in place by a token: a copy of a long one would not fit."""
        length = cache.get_seq_length()

        def turn() -> Tensor:
            shorten(cache, length)  # a try that ran out of memory has grown some of the layers
            return self._model.language.step(cache, token)

        return self._turn(turn)


def as_half_kept(rows: Array) -> Array:
    """The rows as the cache will keep them: a repeated question must get the same answer as the first one."""
    return as_float(rows.astype(np.float16))
