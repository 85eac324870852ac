"""The only part that is not real: a model that answers immediately with arrays of the 8B model's shapes."""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from llava_mini.model import Encoded
from llava_mini.probability import Gauge
from llava_mini.prompt import PromptIds, Turn
from storage.records import text_id

FINGERPRINT = "5ca1e" + "0" * 11
WIDTH = 4096
SYSTEM_ROWS, QUESTION_ROWS = 40, 20
POSITION_BYTES = 131072  # keys and values of 32 layers, 8 heads of 128, in 16 bits
ANSWER_TOKENS = 2  # two pieces on any machine: text is sent on every 0.1 s
FIRST_TOKEN, END_TOKEN, VOCABULARY = 10, 2, 100
FOCUS = 16

SYSTEM = list(range(100, 100 + SYSTEM_ROWS))
SYSTEM_ID = text_id(SYSTEM)


class StubPrompts:
    """Makes the right number of ids: 40 for the system prompt, 20 for a question."""

    end_ids = frozenset((END_TOKEN,))
    gauge = Gauge()

    def build(self, turns: Sequence[Turn]) -> PromptIds:
        """The prompt; different texts have different ids."""
        number = int.from_bytes(turns[-1][0].encode()[-6:], "big")
        return PromptIds(SYSTEM, [number + k for k in range(QUESTION_ROWS)])

    def start_stream(self) -> "StubStream":
        """Starts a stream of words."""
        return StubStream()


class StubStream:
    """Each token is a word."""

    def push(self, token: int) -> str:
        """Returns the word."""
        return f"word{token} "

    def finish(self) -> str:
        """Returns nothing, because nothing was held back."""
        return ""


class StubLanguage:
    """Attends to frames far apart, so that a focused question needs as many segments as possible."""

    def make_cache(self) -> DynamicCache:
        """An empty cache."""
        return DynamicCache()

    def count_cache_bytes(self, positions: int) -> int:
        """The bytes of the 8B model's cache."""
        return positions * POSITION_BYTES

    def prefill(self, _: Tensor, cache: DynamicCache) -> DynamicCache:
        """Does nothing."""
        return cache

    def score(self, _: DynamicCache, __: Tensor, span: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Logits and attention."""
        count = span[1] - span[0]
        attention = torch.zeros(count)
        attention[[(k + 1) * count // (FOCUS + 1) for k in range(FOCUS)]] = 1.0
        return _logits(FIRST_TOKEN), attention

    def step(self, _: DynamicCache, token: int) -> Tensor:
        """The next word; after ANSWER_TOKENS words, the end."""
        return _logits(token + 1 if token + 1 < FIRST_TOKEN + ANSWER_TOKENS else END_TOKEN)


class StubModel:
    """Both halves."""

    fingerprint = FINGERPRINT
    config = SimpleNamespace(tokens_per_frame=1)
    language = StubLanguage()

    def require_fit(self, *_: int) -> None:
        """Everything fits."""

    def preprocess(self, frames: NDArray[np.uint8]) -> Tensor:
        """A row per frame."""
        return torch.zeros(len(frames), 1)

    def encode(self, pixels: Tensor, texts: Sequence[Sequence[int]] = (), _: int | None = None) -> Encoded:
        """Tokens and fused texts."""
        count = len(pixels)
        fused = [torch.full((1, len(text), WIDTH), 0.5).expand(count, -1, -1) for text in texts]
        return Encoded(torch.full((count, 1, WIDTH), 0.25), fused)


def _logits(token: int) -> Tensor:
    logits = torch.zeros(VOCABULARY)
    logits[token] = 1.0
    return logits
