"""Which frames a question is about, which of them are sampled and focused on, and how fusions are averaged. Pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float32]

# Focused fusion looks at an eighth of the frames, four at least (a trial: K = 8 did well at 64, 16 at 256).
FOCUS_SHARE, FOCUS_LEAST = 8, 4


@dataclass(frozen=True)
class Frame:
    """A frame of the stretch: its slot in the video, and the time it stands for."""

    slot: int
    t_s: float


def even_sample(count: int, wanted: int) -> list[int]:
    """Places of `wanted` of `count` frames, the middles of equal parts; all of them where there are no more."""
    wanted = min(wanted, count)
    return [(2 * k + 1) * count // (2 * wanted) for k in range(wanted)]


def focus_count(count: int, most: int) -> int:
    """How many of `count` frames a focused question looks at."""
    return min(count, max(FOCUS_LEAST, min(most, count // FOCUS_SHARE)))


def top_places(scores: Array, wanted: int) -> list[int]:
    """Places of the `wanted` highest scores, in the order of time; the earlier of equals."""
    best = np.argsort(-scores, kind="stable")[:wanted]
    return sorted(int(place) for place in best)


def as_float(values: ArrayLike) -> Array:
    """As float32."""
    return np.asarray(values, np.float32)


def halved(sample: Array, focus: Array) -> Array:
    """Half the sample's mean and half the focus' mean (docs/design.md, focused fusion)."""
    return as_float((sample + focus) / 2)


def evidence(scores: Array, wanted: int) -> list[tuple[int, float]]:
    """(place, share of all attention) of the `wanted` frames most attended to, highest first."""
    shares = scores / max(float(scores.sum()), 1e-12)
    best = np.argsort(-shares, kind="stable")[:wanted]
    return [(int(place), float(shares[place])) for place in best]
