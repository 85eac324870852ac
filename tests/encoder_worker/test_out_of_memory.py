"""Out of memory in the encoder: the failed attempt's tensors are freed, and fewer frames run at once."""

import weakref
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from encoder_worker.scheduler import Scheduler
from llava_mini.model import Encoded, LlavaMini


class SmallCard:
    """Takes `most` frames at once; an attempt at more holds a tensor when it fails."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held: list[weakref.ref[Tensor]] = []
        self.sizes: list[int] = []

    def encode(self, pixels: Tensor, texts: Sequence[Sequence[int]], batch_frames: int) -> Encoded:
        assert all(made() is None for made in self.held)  # the tensors of earlier attempts are freed
        self.sizes.append(batch_frames)
        if batch_frames > self.most:
            activations = torch.zeros(1000)
            self.held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Encoded(pixels, [pixels[:, None] for _ in texts])


def encode(card: SmallCard, frames: int) -> Tensor:
    scheduler = Scheduler(cast(LlavaMini, cast(Any, card)), batch_frames=frames)
    pixels = torch.arange(frames * 2.0).view(frames, 2)
    wish = ((1,), range(frames))
    encoded = scheduler.encode(frames, lambda first, stop: pixels[first:stop], [wish], urgent=False)
    assert torch.equal(torch.from_numpy(encoded.means[0][0]), pixels.mean(0))
    return torch.from_numpy(encoded.tokens)


def test_a_batch_is_halved_until_it_fits() -> None:
    card = SmallCard(most=3)
    assert len(encode(card, 16)) == 16
    assert card.sizes == [16, 8, 4, 2]


def test_a_frame_that_does_not_fit_alone_is_an_error_that_holds_no_tensors() -> None:
    card = SmallCard(most=0)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        encode(card, 2)
    assert card.sizes == [2, 1]
    assert [made() for made in card.held] == [None, None]  # although the error, with its traceback, is alive
    assert raised.tb is not None
