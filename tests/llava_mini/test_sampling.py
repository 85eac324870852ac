"""The next token: greedy, or drawn."""

import torch

from llava_mini.sampling import next_token

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
