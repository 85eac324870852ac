"""Chooses the frames to sample, to focus on and to show as evidence, and averages fusions. Pure functions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float32]

# Focused fusion looks at an eighth of the frames, at least four (in a trial, 8 did well for 64 frames, 16 for 256).
FOCUS_SHARE, FOCUS_LEAST = 8, 4


@dataclass(frozen=True)
class Frame:
    """A frame of the stretch: its slot in the video and its time."""

    slot: int
    t_s: float


def even_sample(count: int, wanted: int) -> list[int]:
    """Places of `wanted` of `count` frames, at the middles of equal parts; all places if there are no more."""
    wanted = min(wanted, count)
    return [(2 * k + 1) * count // (2 * wanted) for k in range(wanted)]


def focus_count(count: int, most: int) -> int:
    """How many of `count` frames a focused question looks at."""
    return min(count, max(FOCUS_LEAST, min(most, count // FOCUS_SHARE)))


def top_places(scores: Array, wanted: int) -> list[int]:
    """Places of the `wanted` highest scores, in order of time. Of equal scores, the earlier ones win."""
    best = np.argsort(-scores, kind="stable")[:wanted]
    return sorted(int(place) for place in best)


def as_float(values: ArrayLike) -> Array:
    """Converts to a float32 array."""
    return np.asarray(values, np.float32)


def halved(sample: Array, focus: Array) -> Array:
    """Averages the sample's mean and the focus's mean (docs/design.md, focused fusion)."""
    return as_float((sample + focus) / 2)


def evidence(scores: Array, wanted: int) -> list[tuple[int, float]]:
    """(place, share of all attention) of the `wanted` frames with the most attention, highest first."""
    shares = scores / max(float(scores.sum()), 1e-12)
    best = np.argsort(-shares, kind="stable")[:wanted]
    return [(int(place), float(shares[place])) for place in best]
