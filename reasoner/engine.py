"""Answers questions over given tokens with the language half. Knows nothing about videos, queues or Redis."""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from llava_mini.context_limit import frames_that_fit
from llava_mini.kv_cache import fork, shorten
from llava_mini.model import LlavaMini
from llava_mini.next_token import next_token
from llava_mini.packed_questions import Pack
from llava_mini.prompt import PromptBuilder, PromptIds, Turn
from reasoner.focus import Array, as_float, even_sample, focus_count, halved, top_places
from reasoner.packed_answers import FinishReason, PackedAnswers, Reply
from reasoner.prefix_cache import PrefixCache
from reasoner.scheduler import TURN_POSITIONS, ModelThread
from storage.documents import FusionMode, Options
from storage.records import Half

log = logging.getLogger(__name__)

NEUTRAL_QUESTION = "what is this ?"  # frames that every question attends to are no evidence (`focus_baseline`)
QUESTIONS_AT_ONCE = 64  # questions packed behind one prefix
Result = TypeVar("Result")

Fuse = Callable[[Sequence[int]], Array]  # places of frames in the stretch -> the question's mean fused rows (L,D)


@dataclass(frozen=True)
class TokenSource:
    """Where the vision tokens of a stretch come from: n frames of C tokens each."""

    key: Hashable  # equal if the frames are equal and the system rows are made in the same way
    count: int
    load: Callable[[], tuple[Array, Half]]  # system rows (L,D) and tokens (n,C,D); called if the prefix is not kept


@dataclass
class Outcome:
    """The result of a question, filled in while it is answered."""

    fusion_frames: int = 0
    rows: Array | None = None  # (L,D) the question's rows as they went into the LLM
    scores: Array = field(default_factory=lambda: np.zeros(0, np.float32))  # (n,) attention per frame
    text_tokens: int = 0
    vision_tokens: int = 0
    answer_tokens: int = 0
    finish_reason: FinishReason = "length"
    probability: float | None = None  # of the first token (llava_mini/probability.py); None before there is one
    fusion_s: float = 0.0
    prefill_s: float = 0.0  # includes both passes of a focused question


@dataclass(frozen=True)
class Limits:
    """The limits of an answer (see `configs.settings.ReasonerSettings`)."""

    sample_frames: int
    focus_frames: int
    focus_baseline: bool
    max_tokens: int
    prefix_cache_bytes: int


class Engine:
    """The LLM with its prefix cache. Questions from several job threads take turns on one model thread."""

    def __init__(self, model: LlavaMini, prompts: PromptBuilder, limits: Limits) -> None:
        self._model = model
        self._prompts = prompts
        self._limits = limits
        self._prefixes = PrefixCache(limits.prefix_cache_bytes)
        self._thread = ModelThread()
        self._making_prefix = threading.Lock()  # one at a time, because two could be the same prefix
        self.fingerprint = model.fingerprint

    def build_prompt(self, turns: Sequence[Turn]) -> PromptIds:
        """Returns the token ids of a conversation that ends with an open question."""
        return self._prompts.build(turns)

    @property
    def max_frames(self) -> int:
        """How many frames fit into the context beside the shortest of questions and an answer of one token."""
        config, text = self._model.config, self.build_prompt([("?", None)]).text
        return frames_that_fit(config.context, config.tokens_per_frame, len(text), 1)

    def require_fit(self, frames: int, prompt: PromptIds, max_tokens: int) -> None:
        """Raises PromptTooLong if the prompt does not fit. The error says how many frames would."""
        self._model.require_fit(frames, len(prompt.text), max_tokens)

    def first_look(self, mode: FusionMode, count: int) -> list[int]:
        """Returns the places of the frames, of `count`, to fuse first. For `focused`, `answer` fuses more later."""
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
        """Yields the answer in pieces; `outcome` is complete after the last one. The caller may stop at any piece.

        `known` holds `fusion_frames` and `rows` of an earlier outcome for the same question; then nothing is fused.
        """
        began, fused_s = time.monotonic(), outcome.fusion_s
        outcome.text_tokens, outcome.vision_tokens = (
            len(prompt.text),
            source.count * self._model.config.tokens_per_frame,
        )
        cache = self._find_or_make_prefix(source)
        start = len(prompt.before)
        if known is None:
            outcome.rows = self._fuse_question(source, prompt, mode, fuse, cache, outcome)
        else:
            outcome.fusion_frames, outcome.rows = known
        logits, outcome.scores = self._score(torch.from_numpy(outcome.rows), cache, source, start)
        outcome.prefill_s = time.monotonic() - began - (outcome.fusion_s - fused_s)
        yield from self._decode(logits, cache, options, outcome)

    def answer_together(
        self,
        source: TokenSource,
        asked: Sequence[tuple[PromptIds, Array]],
        max_tokens: int,
        at_once: int = QUESTIONS_AT_ONCE,
    ) -> list[Reply]:
        """Answers several questions about one stretch, greedily, each as if it were asked alone.

        Each comes with its fused rows (L,D). At most `at_once` are packed behind the prefix at a time: each adds its
        rows and its answer to the cache. Where the attention implementation takes no mask, it is one at a time.
        Raises PromptTooLong if one does not fit (`require_fit` says so for each), and NonFinite if one has no logits.
        """
        for prompt, _ in asked:
            self.require_fit(source.count, prompt, max_tokens)
        if not asked:
            return []
        pack, replies = Pack(self._find_or_make_prefix(source)), list[Reply]()
        packed = PackedAnswers(self._model.language, self._prompts, self._run_turn)
        most = at_once if self._model.language.can_pack else 1
        start = len(asked[0][0].before)
        vision = range(start, start + source.count * self._model.config.tokens_per_frame)
        for first in range(0, len(asked), most):
            questions = [rows for _, rows in asked[first : first + most]]
            drafts = packed.answer(pack, questions, vision, max_tokens)
            replies += [draft.finish(source.count) for draft in drafts]
            pack.shorten(0)
        return replies

    def _find_or_make_prefix(self, source: TokenSource) -> DynamicCache:
        """Returns the keys and values of [system rows, tokens], which all questions over the stretch share."""
        kept = self._thread.run(lambda: self._prefixes.find(source.key))
        if kept is not None:
            return kept
        system, tokens = source.load()  # may wait for an encoder, so it runs outside the lock
        with self._making_prefix:
            kept = self._thread.run(lambda: self._prefixes.find(source.key))
            return self._make_prefix(source, system, tokens) if kept is None else kept

    def _make_prefix(self, source: TokenSource, system: Array, tokens: Half) -> DynamicCache:
        rows = tokens.reshape(-1, tokens.shape[-1])
        size_bytes = self._model.language.count_cache_bytes(len(system) + len(rows))
        self._thread.run(lambda: self._prefixes.make_room(size_bytes))
        cache = self._try_twice(partial(self._prefill, system, rows))
        self._thread.run(lambda: self._prefixes.keep(source.key, cache, size_bytes))
        return fork(cache)

    def _prefill(self, system: Array, rows: Half) -> DynamicCache:
        """Grows one cache in place, turn by turn: two copies of a long prefix would not fit.

        The rows, a gigabyte for a day of video, become wider than float16 a turn at a time.
        """
        cache, beside = self._model.language.make_cache(), max(TURN_POSITIONS - len(system), 0)
        rest = range(beside, len(rows), TURN_POSITIONS)
        parts = [np.concatenate([system, as_float(rows[:beside])]), *(rows[k : k + TURN_POSITIONS] for k in rest)]
        for part in parts:
            self._thread.run(partial(self._model.language.prefill, torch.from_numpy(part), cache))
        return cache

    def _run_turn(self, turn: Callable[[], Result]) -> Result:
        """Runs a turn on the model thread, twice if memory runs out. It must first restore the caches it changes."""
        return self._try_twice(lambda: self._thread.run(turn))

    def _try_twice(self, work: Callable[[], Result]) -> Result:
        """Runs `work`. If memory runs out, drops the kept prefixes and runs it once more."""
        try:
            return work()
        except torch.OutOfMemoryError:
            log.warning("out of memory: dropping all kept prefixes, and trying once more")
        self._thread.run(self._free_memory)  # after the handler: the error and the tensors it holds are gone
        return work()

    def _free_memory(self) -> None:
        self._prefixes.clear()
        torch.cuda.empty_cache()

    def _fuse_question(
        self,
        source: TokenSource,
        prompt: PromptIds,
        mode: FusionMode,
        fuse: Fuse,
        cache: DynamicCache,
        outcome: Outcome,
    ) -> Array:
        """Fuses the question with all frames, a sample, or a sample and the frames it attends to: rows (L,D)."""
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
        scores = self._measure_attention(torch.from_numpy(sample), cache, source, start)
        if self._limits.focus_baseline:
            neutral = self._run_turn(lambda: self._model.embed(self._prompts.build([(NEUTRAL_QUESTION, None)]).after))
            scores = as_float(scores - self._measure_attention(neutral, cache, source, start))
        focus = timed_fuse(top_places(scores, focus_count(source.count, self._limits.focus_frames)))
        return as_half_kept(halved(sample, focus))

    def _measure_attention(self, rows: Tensor, cache: DynamicCache, source: TokenSource, start: int) -> Array:
        """Returns the mean attention of the rows per frame (n,), and leaves the cache as long as before."""
        length = cache.get_seq_length()
        scores = self._score(rows, cache, source, start)[1]
        shorten(cache, length)
        return as_float(scores / len(rows))

    def _score(self, rows: Tensor, cache: DynamicCache, source: TokenSource, start: int) -> tuple[Tensor, Array]:
        """Runs the rows (L,D) after the prefix. Returns the last row's logits (V,) and the attention per frame (n,).

        The cache belongs to this question and grows in place by the rows. Each layer frees its old keys and values as
        it makes the new ones, so a question never holds its stretch twice (`longwatch plan`).
        """
        per_frame = self._model.config.tokens_per_frame
        span, length = (start, start + source.count * per_frame), cache.get_seq_length()

        def turn() -> tuple[Tensor, Tensor]:
            shorten(cache, length)  # a try that ran out of memory may have grown some layers
            return self._model.language.score(cache, rows, span)

        logits, attention = self._run_turn(turn)
        return logits, as_float(attention.cpu().view(source.count, per_frame).sum(1).numpy())

    def _decode(self, logits: Tensor, cache: DynamicCache, options: Options, outcome: Outcome) -> Iterator[str]:
        generator = torch.Generator().manual_seed(options.seed)
        stream = self._prompts.start_stream()
        for number in range(options.max_tokens or self._limits.max_tokens):
            token = next_token(logits, temperature=options.temperature, top_p=options.top_p, generator=generator)
            if number == 0:
                outcome.probability = self._prompts.gauge.measure_probability(logits, token)
            if token in self._prompts.end_ids:
                outcome.finish_reason = "stop"
                break
            outcome.answer_tokens += 1
            yield stream.push(token)
            logits = self._step(cache, token)
        yield stream.finish()

    def _step(self, cache: DynamicCache, token: int) -> Tensor:
        """Adds a token to the cache in place, because a copy of a long cache would not fit. Returns the logits (V,)."""
        length = cache.get_seq_length()

        def turn() -> Tensor:
            shorten(cache, length)  # a try that ran out of memory may have grown some layers
            return self._model.language.step(cache, token)

        return self._run_turn(turn)


def as_half_kept(rows: Array) -> Array:
    """Rounds the rows to float16 as the cache does, so that a repeated question gets the same answer."""
    return as_float(rows.astype(np.float16))
