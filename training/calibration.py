"""Measures how well the probability of an answer says how often it is right. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from llava_mini.probability import Gauge

BINS = 10
TEMPERATURES = np.round(np.geomspace(0.5, 4.0, 43), 2)  # 5 % apart
YES_NO = ("exists", "needle", "order")


@dataclass(frozen=True)
class Said:
    """The beginning of an answer, and what is true."""

    kind: str
    logits: Tensor  # (V,) of the first token
    truth: int  # the first token of the true answer

    @property
    def token(self) -> int:
        """The first token: answers are greedy."""
        return int(self.logits.argmax())


@dataclass(frozen=True)
class Bin:
    """Answers of about the same probability."""

    count: int
    probability: float  # mean
    right: float  # share


@dataclass(frozen=True)
class Calibration:
    """How probabilities and right answers agree."""

    bins: tuple[Bin, ...]  # of equal widths; an empty one has count 0

    brier: float  # mean of (probability - right)^2

    @property
    def count(self) -> int:
        """How many answers."""
        return sum(each.count for each in self.bins)

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of probability and share right, weighed by count."""
        return sum(each.count * abs(each.probability - each.right) for each in self.bins) / max(self.count, 1)


def measure_all(answers: Sequence[Said], gauge: Gauge) -> Calibration:
    """Measures the calibration of answers with a gauge."""
    probabilities = [gauge.measure_probability(each.logits, each.token) for each in answers]
    return measure(np.array(probabilities), np.array([each.token == each.truth for each in answers]))


def measure(probabilities: NDArray[np.float64], right: NDArray[np.bool_]) -> Calibration:
    """Measures the calibration of probabilities (n,) of answers that are right or not (n,)."""
    places = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    bins = [_summarise(probabilities[places == place], right[places == place]) for place in range(BINS)]
    return Calibration(tuple(bins), float(np.mean((probabilities - right) ** 2)))


def fit_temperature(answers: Sequence[Said], gauge: Gauge) -> float:
    """The temperature under which what was right and wrong is the least surprising (log loss)."""
    right = np.array([each.token == each.truth for each in answers])
    losses = []
    for temperature in TEMPERATURES:
        tried = replace(gauge, temperature=float(temperature))
        found = np.array([tried.measure_probability(each.logits, each.token) for each in answers])
        losses.append(-np.mean(np.log(np.clip(np.where(right, found, 1 - found), 1e-12, 1))))
    return float(TEMPERATURES[int(np.argmin(losses))])


def _summarise(probabilities: NDArray[np.float64], right: NDArray[np.bool_]) -> Bin:
    if not len(right):
        return Bin(0, 0.0, 0.0)
    return Bin(len(right), float(probabilities.mean()), float(right.mean()))
