"""The real model under watch: its calls are recorded, and a test can delay them or make them fail.

The computations are the model's own. The delays and failures stand for a slow or a full card.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import Tensor
from transformers import DynamicCache

from llava_mini.language_half import LanguageHalf
from llava_mini.model import Encoded, LlavaMini
from llava_mini.packed_questions import Pack


class Watch:
    """Records calls in order. `hold` stops the next call until `released` is set."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.released = threading.Event()
        self.released.set()
        self.before: Callable[[int], None] = lambda call: None  # called with the number of each call; may raise

    def hold(self) -> None:
        """Makes the next call wait for `released`."""
        self.released.clear()

    def note(self, *call: Any) -> None:
        self.calls.append(call)
        number = len(self.calls)
        assert self.released.wait(60)
        self.before(number)


class WatchedModel(Watch):
    """Passes everything on to a model. Each `encode` is recorded as (frames, texts) before it runs."""

    def __init__(self, model: LlavaMini) -> None:
        super().__init__()
        self._model = model

    def encode(
        self, pixel_values: Tensor, texts: Sequence[Sequence[int]] = (), batch_frames: int | None = None
    ) -> Encoded:
        self.note(len(pixel_values), len(texts))
        return self._model.encode(pixel_values, texts, batch_frames)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class WatchedLanguage(LanguageHalf, Watch):
    """The language half. Each call is recorded as (name, positions) after it has run and the cache has grown.

    So a failure looks like a card that runs out of memory half-way: the cache that was passed in has changed already.
    """

    def __init__(self, model: LlavaMini) -> None:
        LanguageHalf.__init__(self, model.language.llm)
        Watch.__init__(self)

    def prefill(self, inputs_embeds: Tensor, cache: DynamicCache | None = None) -> DynamicCache:
        grown = super().prefill(inputs_embeds, cache)
        self.note("prefill", len(inputs_embeds))
        return grown

    def score(
        self, cache: DynamicCache, question_embeds: Tensor, vision_span: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        scored = super().score(cache, question_embeds, vision_span)
        self.note("score", len(question_embeds))
        return scored

    def step(self, cache: DynamicCache, token_id: int) -> Tensor:
        logits = super().step(cache, token_id)
        self.note("step", 1)
        return logits

    def score_packed(
        self, pack: Pack, inputs_embeds: Tensor, owners: Sequence[int], vision_span: tuple[int, int]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        scored = super().score_packed(pack, inputs_embeds, owners, vision_span)
        self.note("score_packed", len(owners))
        return scored

    def advance_packed(self, pack: Pack, inputs_embeds: Tensor, owners: Sequence[int]) -> dict[int, Tensor]:
        logits = super().advance_packed(pack, inputs_embeds, owners)
        self.note("advance_packed", len(owners))
        return logits

    def count(self, name: str) -> int:
        return sum(call[0] == name for call in self.calls)


class _WithLanguage:
    def __init__(self, model: LlavaMini, language: LanguageHalf) -> None:
        self._model, self.language = model, language

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def with_language(model: LlavaMini, language: LanguageHalf) -> LlavaMini:
    """The model with this language half instead of its own."""
    return cast(LlavaMini, _WithLanguage(model, language))
