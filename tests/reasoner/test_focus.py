"""The choice of frames to sample and focus on, and how they are averaged."""

import numpy as np
import pytest

from reasoner.focus import even_sample, evidence, focus_count, halved, top_places


def test_a_sample_is_spread_evenly_and_never_larger_than_the_stretch() -> None:
    assert even_sample(256, 4) == [32, 96, 160, 224]
    assert even_sample(5, 16) == [0, 1, 2, 3, 4]
    assert even_sample(3, 2) == [0, 2]
    for count in range(1, 70):
        sample = even_sample(count, 16)
        assert len(set(sample)) == min(count, 16)
        assert min(sample) >= 0
        assert max(sample) < count


@pytest.mark.parametrize(("count", "wanted"), [(1, 1), (4, 4), (16, 4), (64, 8), (256, 16), (3600, 16)])
def test_the_focus_grows_with_the_stretch_up_to_its_limit(count: int, wanted: int) -> None:
    assert focus_count(count, 16) == wanted


def test_the_focus_is_on_the_frames_with_the_highest_scores() -> None:
    scores = np.array([0.1, 0.5, 0.1, 0.9, 0.5], np.float32)
    assert top_places(scores, 3) == [1, 3, 4]
    (first, share), (second, _) = evidence(scores, 2)
    assert (first, second) == (3, 1)
    assert share == pytest.approx(0.9 / 2.1)
    assert evidence(np.zeros(2, np.float32), 1) == [(0, 0.0)]


def test_sample_and_focus_count_half_each() -> None:
    sample, focus = np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(halved(sample, focus), 0.5 * sample + 0.5 * focus)
