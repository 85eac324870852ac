"""The real model, watched: its calls are counted, and can be held up or made to fail as a machine would.

Nothing it computes is replaced. What cannot be had on every machine (a slow card, a full one) is brought about here.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from llava_mini.model import Encoded, LlavaMini


class WatchedModel:
    """Passes everything on to a model. Each `encode` is noted as (frames, texts) before it runs."""

    def __init__(self, model: LlavaMini) -> None:
        self._model = model
        self.calls: list[tuple[int, int]] = []
        self.released = threading.Event()
        self.released.set()
        self.before: Callable[[int], None] = lambda call: None  # with the number of the call; may raise

    def hold(self) -> None:
        """The next call begins, and waits for `released`."""
        self.released.clear()

    def encode(self, pixel_values: Tensor, texts: Sequence[Sequence[int]] = ()) -> Encoded:
        self.calls.append((len(pixel_values), len(texts)))
        assert self.released.wait(60)
        self.before(len(self.calls))
        return self._model.encode(pixel_values, texts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
