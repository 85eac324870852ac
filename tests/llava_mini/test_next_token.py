"""The next token is greedy or drawn."""

import pytest
import torch

from llava_mini.errors import NonFinite
from llava_mini.next_token import next_token

LOGITS = torch.log(torch.tensor([0.1, 0.5, 0.3, 0.1]))


def drawn(temperature: float, top_p: float, seed: int, times: int = 200) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [next_token(LOGITS, temperature=temperature, top_p=top_p, generator=generator) for _ in range(times)]


def test_temperature_zero_takes_the_likeliest() -> None:
    assert next_token(LOGITS, temperature=0, top_p=1, generator=None) == 1


def test_a_seed_repeats_its_draws_and_another_does_not() -> None:
    assert drawn(1, 1, seed=1) == drawn(1, 1, seed=1) != drawn(1, 1, seed=2)


def test_top_p_keeps_the_smallest_set_of_that_mass() -> None:
    assert set(drawn(1, 0.7, seed=0)) == {1, 2}
    assert set(drawn(1, 0.5, seed=0)) == {1}
    assert set(drawn(1, 0.001, seed=0)) == {1}
    assert set(drawn(1, 1, seed=0)) == {0, 1, 2, 3}


def test_a_low_temperature_sharpens() -> None:
    assert drawn(0.3, 1, seed=0).count(1) > drawn(1, 1, seed=0).count(1)


@pytest.mark.parametrize("temperature", [1e-6, 1e-9, 1e-40, 5e-324])
def test_a_temperature_near_zero_takes_the_likeliest(temperature: float) -> None:
    assert set(drawn(temperature, 1, seed=0)) == {1}


def test_tokens_with_equal_logits_are_both_drawn_at_a_low_temperature() -> None:
    logits, generator = torch.tensor([3.0, 3.0, -100.0]), torch.Generator().manual_seed(0)
    drawn = [next_token(logits, temperature=1e-9, top_p=1, generator=generator) for _ in range(50)]
    assert set(drawn) == {0, 1}


@pytest.mark.parametrize("top_p", [1e-12, 5e-324])
def test_a_top_p_near_zero_keeps_the_likeliest(top_p: float) -> None:
    assert set(drawn(1, top_p, seed=0)) == {1}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_infinite_and_nan_logits_are_refused(bad: float, temperature: float) -> None:
    logits = LOGITS.clone()
    logits[3] = bad
    with pytest.raises(NonFinite, match=r"float16.*bfloat16"):
        next_token(logits, temperature=temperature, top_p=1, generator=None)
