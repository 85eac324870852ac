"""Chooses the next token from logits."""

import torch
from torch import Tensor


def next_token(logits: Tensor, *, temperature: float, top_p: float, generator: torch.Generator | None) -> int:
    """The next token's id from logits (V,): greedy at temperature 0, else from the smallest set of mass `top_p`."""
    if temperature == 0:
        return int(logits.argmax())
    chances, ids = torch.softmax(logits.float().cpu() / temperature, dim=-1).sort(descending=True)
    chances[chances.cumsum(0) - chances >= top_p] = 0
    return int(ids[torch.multinomial(chances, 1, generator=generator)])
