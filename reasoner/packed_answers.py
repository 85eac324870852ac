"""Generates the answers to several questions behind one prefix, a token of each per turn. Knows no prefix cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from llava_mini.language_half import LanguageHalf
from llava_mini.next_token import next_token
from llava_mini.packed_questions import Pack
from llava_mini.prompt import PromptBuilder, TextStream
from reasoner.focus import Array, as_float
from reasoner.scheduler import TURN_POSITIONS

FinishReason = Literal["stop", "length"]
RunTurn = Callable[[Callable[[], Any]], Any]  # as `Engine` runs turns: twice if memory runs out


@dataclass(frozen=True)
class Reply:
    """The answer to one of several questions that were asked together."""

    text: str
    finish_reason: FinishReason
    probability: float  # of the first token (llava_mini/probability.py)
    scores: Array  # (n,) attention per frame


@dataclass
class Draft:
    """A reply in the making."""

    stream: TextStream
    scores: Tensor  # (n*C,) attention per vision token
    text: str = ""
    finish_reason: FinishReason = "length"
    probability: float = 0.0

    def finish(self, frames: int) -> Reply:
        """The reply about `frames` frames."""
        scores = as_float(self.scores.view(frames, -1).sum(1).numpy())
        return Reply(self.text + self.stream.finish(), self.finish_reason, self.probability, scores)


class PackedAnswers:
    """Answers packs of questions in turns, greedily."""

    def __init__(self, language: LanguageHalf, prompts: PromptBuilder, run_turn: RunTurn) -> None:
        self._language = language
        self._prompts = prompts
        self._run_turn = run_turn

    def answer(self, pack: Pack, questions: Sequence[Array], vision: range, max_tokens: int) -> list[Draft]:
        """Answers questions of fused rows (L,D). The pack is empty; `vision` are the vision tokens in its prefix."""
        span = vision.start, vision.stop
        drafts = [Draft(self._prompts.start_stream(), torch.zeros(len(vision))) for _ in questions]
        logits = self._read(pack, questions, span, drafts)
        for owner, each in logits.items():
            token = next_token(each, temperature=0, top_p=1, generator=None)
            drafts[owner].probability = self._prompts.gauge.measure_probability(each, token)
        for number in range(max_tokens):
            tokens = self._choose_tokens(logits, drafts)
            if not tokens or number == max_tokens - 1:
                break
            logits = self._run_turn(partial(self._step, pack, len(pack), tokens))
        return drafts

    def _read(
        self, pack: Pack, questions: Sequence[Array], span: tuple[int, int], drafts: Sequence[Draft]
    ) -> dict[int, Tensor]:
        """Runs the questions' rows, adds up their attention, and returns each question's logits (V,)."""
        rows = torch.from_numpy(np.concatenate(questions))
        owners = [number for number, each in enumerate(questions) for _ in each]
        logits: dict[int, Tensor] = {}
        for first in range(0, len(owners), TURN_POSITIONS):
            part = slice(first, first + TURN_POSITIONS)
            turn = partial(self._score, pack, len(pack), rows[part], owners[part], span)
            found, attention = self._run_turn(turn)
            logits |= found
            for owner, each in attention.items():
                drafts[owner].scores += each.cpu()
        return logits

    def _score(
        self, pack: Pack, length: int, rows: Tensor, owners: Sequence[int], span: tuple[int, int]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        pack.shorten(length)  # a try that ran out of memory may have grown some layers
        return self._language.score_packed(pack, rows, owners, span)

    def _choose_tokens(self, logits: dict[int, Tensor], drafts: Sequence[Draft]) -> dict[int, int]:
        """Writes each question's next token into its draft. Returns the tokens of questions that go on."""
        tokens: dict[int, int] = {}
        for owner, each in logits.items():
            token, draft = next_token(each, temperature=0, top_p=1, generator=None), drafts[owner]
            if token in self._prompts.end_ids:
                draft.finish_reason = "stop"
            else:
                draft.text += draft.stream.push(token)
                tokens[owner] = token
        return tokens

    def _step(self, pack: Pack, length: int, tokens: dict[int, int]) -> dict[int, Tensor]:
        pack.shorten(length)  # a try that ran out of memory may have grown some layers
        return self._language.advance_packed(pack, self._language.embed(list(tokens.values())), list(tokens))
