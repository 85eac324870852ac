"""Refuses numbers that cannot be kept: infinite, not a number, or beyond float16, in which records hold them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from llava_mini.errors import NonFinite

LARGEST = torch.finfo(torch.float16).max
NAMED_FRAMES = 8  # of the frames at fault, so many are named


def require_finite(parts: Sequence[Tensor], first: int = 0) -> None:
    """Raises NonFinite naming the frames at fault in any of `parts` (F,...); `first` is the number of the first one.

    One reduction per part, and the device is waited for once.
    """
    fine = torch.stack([(part.abs() <= LARGEST).flatten(1).all(1) for part in parts]).all(0).cpu()  # (F,)
    if bool(fine.all()):
        return
    frames = tuple(first + place for place in (~fine).nonzero().flatten().tolist())
    named = ", ".join(map(str, frames[:NAMED_FRAMES])) + (", ..." if len(frames) > NAMED_FRAMES else "")
    raise NonFinite(f"tokens or fused text of frames {named} are not finite in float16", frames)
