"""Calibration numbers, computed by hand."""

import numpy as np
import pytest
import torch

from llava_mini.probability import Gauge
from training.calibration import Bin, Said, fit_temperature, measure, measure_all

YES, NO, RED = 0, 1, 2
GAUGE = Gauge(frozenset({YES}), frozenset({NO}))


def say(probability: float, truth: int) -> Said:
    """An answer of yes that is this probable."""
    return Said("exists", torch.tensor([np.log(probability / (1 - probability)), 0.0, -9.0]), truth)


def assert_bin(found: Bin, count: int, probability: float, right: float) -> None:
    assert found.count == count
    assert (found.probability, found.right) == pytest.approx((probability, right))


def test_bins_hold_the_mean_probability_and_the_share_right() -> None:
    found = measure(np.array([0.62, 0.66, 0.95, 1.0, 0.0]), np.array([True, False, True, True, False]))
    assert_bin(found.bins[6], 2, 0.64, 0.5)
    assert_bin(found.bins[9], 2, 0.975, 1.0)  # 1 belongs to the last bin
    assert_bin(found.bins[0], 1, 0.0, 0.0)
    assert [each.count for each in found.bins] == [1, 0, 0, 0, 0, 0, 2, 0, 0, 2]
    assert found.count == 5
    assert found.error == pytest.approx((2 * 0.14 + 2 * 0.025 + 0) / 5)
    assert found.brier == pytest.approx((0.38**2 + 0.66**2 + 0.05**2) / 5)


def test_an_answer_is_right_if_its_first_token_is() -> None:
    found = measure_all([say(0.75, YES), say(0.75, NO), say(0.75, RED)], GAUGE)
    assert_bin(found.bins[7], 3, 0.75, 1 / 3)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_the_fitted_temperature_undoes_an_over_or_underconfident_model(temperature: float) -> None:
    answers = []
    for probability, right in ((0.6, 60), (0.8, 80), (0.95, 95)):
        logit = temperature * np.log(probability / (1 - probability))
        shown = 1 / (1 + np.exp(-logit))
        answers += [say(shown, YES if number < right else NO) for number in range(100)]
    assert fit_temperature(answers, GAUGE) == pytest.approx(temperature, rel=0.05)
