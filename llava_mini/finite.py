"""Refuses numbers that a record cannot hold: infinite, NaN, or beyond float16."""

from collections.abc import Sequence

import torch
from torch import Tensor

from llava_mini.errors import NonFinite

LARGEST = torch.finfo(torch.float16).max
NAMED_FRAMES = 8  # a message names at most this many faulty frames


def require_finite(parts: Sequence[Tensor], first: int = 0) -> None:
    """Raises NonFinite naming the frames that are faulty in any of `parts` (F,...). Numbers begin at `first`.

    Runs one reduction per part, and waits for the device once.
    """
    fine = torch.stack([(part.abs() <= LARGEST).flatten(1).all(1) for part in parts]).all(0).cpu()  # (F,)
    if bool(fine.all()):
        return
    frames = tuple(first + place for place in (~fine).nonzero().flatten().tolist())
    named = ", ".join(map(str, frames[:NAMED_FRAMES])) + (", ..." if len(frames) > NAMED_FRAMES else "")
    raise NonFinite(f"tokens or fused text of frames {named} are not finite in float16", frames)
