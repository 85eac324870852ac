"""Chooses the next token from logits."""

import torch
from torch import Tensor

from llava_mini.errors import NonFinite


def next_token(logits: Tensor, *, temperature: float, top_p: float, generator: torch.Generator | None) -> int:
    """The next token's id from logits (V,): greedy at temperature 0, else from the smallest set of mass `top_p`.

    The likeliest token is always in that set, however small `top_p` is. Raises NonFinite.
    """
    highest, best = logits.max(-1)  # NaN if any logit is NaN
    if not torch.isfinite(highest):
        raise NonFinite("the next token cannot be chosen")
    if temperature == 0:
        return int(best)
    # Subtract the highest first, in float64: then a temperature near zero gives 0 and -inf, never inf - inf.
    chances, ids = torch.softmax((logits - highest).double().cpu() / temperature, dim=-1).sort(descending=True)
    others = chances[1:]
    others[chances.cumsum(0)[:-1] >= top_p] = 0
    return int(ids[torch.multinomial(chances, 1, generator=generator)])
