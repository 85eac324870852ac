"""Stage 0: teaches the vision tower, which has no pretraining, what is where in a picture."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.batches import normalised
from training.degrade import DRAWN_PX, Degrader
from training.render import RADIUS, render, room_index
from training.world import COLOURS, ROOMS, SHAPES, World, generate

PICTURES = 64
# Noise is added before the heads. A linear head can read a factor that explains 3 % of the variance, but a small LLM
# cannot find it. Noise forces every factor to be large (docs/training.md). The features are not normalised before that.
# Instead their power is penalised: otherwise a constant part grows many times larger than the information in them, and
# no later module learns anything.
NOISE_STD = 0.6
POWER_WEIGHT = 0.05
NOISE_FROM = 0.25  # share of the stage without noise, so that learning can start


class Heads(nn.Module):
    """Linear heads: for each patch its colour, shape, row, column and offset from its thing's centre; and the room."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.sizes = [len(COLOURS) + 1, len(SHAPES) + 1, side, side, 2]
        self.patch = nn.Linear(width, sum(self.sizes))
        self.room = nn.Linear(width, len(ROOMS))

    def forward(self, features: Tensor, noise: float, labels: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, and the accuracy of colour and of shape on the patches of things."""
        noisy = features + noise * torch.randn_like(features)
        colour, shape, row, column, offset = self.patch(noisy).split(self.sizes, dim=-1)
        thing = labels["colour"] > 0
        weight = torch.where(thing, 3.0, 0.5)
        loss = _cross(colour, labels["colour"], weight) + _cross(shape, labels["shape"], weight)
        loss = loss + 0.3 * (_cross(row, labels["row"]) + _cross(column, labels["column"]))
        loss = loss + F.mse_loss(offset[thing], labels["offset"][thing])
        loss = loss + 0.3 * F.cross_entropy(self.room(noisy.mean(1)), labels["room"])
        loss = loss + POWER_WEIGHT * features.square().mean()
        right = [
            (guess.argmax(-1) == labels[name])[thing].float().mean()
            for guess, name in ((colour, "colour"), (shape, "shape"))
        ]
        return loss, right[0], right[1]


def pictures(seed: int, side: int, side_px: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Endless batches of single pictures (64,3,S,S) with their labels per patch (64,P)."""
    rng = np.random.default_rng(seed)
    degrade = Degrader(seed, side_px)
    while True:
        worlds = [generate(2 * int(rng.integers(2**40)), 1) for _ in range(PICTURES)]
        drawn = [degrade(render(world, 0.5, DRAWN_PX)) for world in worlds]
        columns: list[dict[str, Any]] = [labels_of(world, side) for world in worlds]
        yield normalised(np.stack(drawn)), {k: torch.from_numpy(np.stack([c[k] for c in columns])) for k in columns[0]}


def labels_of(world: World, side: int) -> dict[str, np.ndarray]:
    """What each patch of the world's first picture shows: indices (P,), and offsets (P,2) in units of RADIUS."""
    centres = (np.arange(side) + 0.5) / side
    x, y = (grid.ravel() for grid in np.meshgrid(centres, centres))
    labels = {name: np.zeros(side * side, np.int64) for name in ("colour", "shape")}
    offset = np.zeros((side * side, 2), np.float32)
    for thing in world.things:
        at = thing.at(0.5)
        if at is None:
            continue
        inside = np.hypot(x - at[0], y - at[1]) < 0.85 * RADIUS
        labels["colour"][inside] = COLOURS.index(thing.colour) + 1
        labels["shape"][inside] = SHAPES.index(thing.shape) + 1
        offset[inside] = (np.stack([x, y], axis=1)[inside] - at) / RADIUS
    place = np.arange(side * side)
    room = np.array(room_index(world.room))
    return labels | {"row": place // side, "column": place % side, "offset": offset, "room": room}


def noise_at(part: float) -> float:
    """The noise after the share `part` of the stage."""
    return 0.0 if part < NOISE_FROM else NOISE_STD * min((part - NOISE_FROM) / 0.2, 1.0)


def learning_rate(part: float, peak: float) -> float:
    """Warm-up over 2 %, then a cosine down to 2 % of the peak."""
    if part < 0.02:
        return peak * part / 0.02
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(part, 1.0))))


def _cross(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return losses.mean() if weight is None else (losses * weight.flatten()).mean()
