"""Which frames are sampled, focused on and pooled."""

import numpy as np
import pytest

from reasoner.context import (
    Frame,
    even_sample,
    evidence,
    focus_count,
    halved,
    pooled,
    top_places,
    within,
)  # fmt: skip


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


def test_the_focus_is_where_the_scores_are_highest() -> None:
    scores = np.array([0.1, 0.5, 0.1, 0.9, 0.5], np.float32)
    assert top_places(scores, 3) == [1, 3, 4]
    (first, share), (second, _) = evidence(scores, 2)
    assert (first, second) == (3, 1)
    assert share == pytest.approx(0.9 / 2.1)
    assert evidence(np.zeros(2, np.float32), 1) == [(0, 0.0)]


def test_means_of_parts_are_pooled_by_their_sizes() -> None:
    rng = np.random.default_rng(0)
    frames = rng.random((10, 3, 4)).astype(np.float32)
    parts = [(frames[:7].mean(0).astype(np.float16), 7), (frames[7:].mean(0).astype(np.float16), 3)]
    np.testing.assert_allclose(pooled(parts), frames.mean(0), atol=1e-3)
    assert pooled(parts).dtype == np.float32
    np.testing.assert_array_equal(halved(frames[0], frames[1]), (frames[0] + frames[1]) / 2)


def test_a_stretch_holds_its_edges() -> None:
    frames = [Frame(k, k + 0.5) for k in range(10)]
    assert [frame.index for frame in within(frames, 2.5, 4.5)] == [2, 3, 4]
    assert [frame.index for frame in within(frames, 8, None)] == [8, 9]
