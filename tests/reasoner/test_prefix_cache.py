"""The prefix cache: bounded before a prefix is made, least recently used goes first."""

import weakref
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from llava_mini.model import LlavaMini
from reasoner.prefix_cache import PrefixCache
from tests.tiny import TINY


class Maker:
    """Makes prefixes of zeros, and knows how many bytes are alive."""

    def __init__(self, model: LlavaMini, limit_positions: int) -> None:
        self._language = model.language
        self._width = model.config.hidden_size
        self.limit_bytes = model.language.count_cache_bytes(limit_positions)
        self.cache = PrefixCache(self.limit_bytes)
        self.made: list[str] = []
        self.alive: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()

    def ask(self, name: str, positions: int) -> DynamicCache:
        size_bytes = self._language.count_cache_bytes(positions)

        def make() -> DynamicCache:
            self.made.append(name)
            if size_bytes <= self.limit_bytes:
                assert self.count_alive_bytes() + size_bytes <= self.limit_bytes  # room was made before
            made = self._language.prefill(torch.zeros(positions, self._width))
            layers: Any = made.layers
            tensors = [part for layer in layers for part in (layer.keys, layer.values)]
            assert sum(tensor.nbytes for tensor in tensors) == size_bytes
            self.alive.update({id(tensor): tensor for tensor in tensors})
            return made

        return self.cache.get(name, size_bytes, make)

    def count_alive_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.alive.values())


@pytest.fixture(scope="module")
def model() -> LlavaMini:
    return LlavaMini.from_pretrained(TINY, parts=("language",))


def test_room_is_made_before_a_prefix_is(model: LlavaMini) -> None:
    maker = Maker(model, limit_positions=8)
    for name in ("a", "b", "a", "c", "a", "b"):
        maker.ask(name, 4)
    assert maker.made == ["a", "b", "c", "b"]  # b was used longest ago when c came
    assert maker.count_alive_bytes() == maker.limit_bytes


def test_a_long_prefix_displaces_as_many_short_ones_as_it_needs(model: LlavaMini) -> None:
    maker = Maker(model, limit_positions=8)
    for name in ("a", "b", "c", "d"):
        maker.ask(name, 2)
    maker.ask("long", 5)
    for name in ("d", "long", "c"):
        maker.ask(name, 5 if name == "long" else 2)
    assert maker.made == ["a", "b", "c", "d", "long", "c"]


def test_a_prefix_above_the_limit_is_made_but_not_kept_and_displaces_nothing(model: LlavaMini) -> None:
    maker = Maker(model, limit_positions=8)
    maker.ask("a", 4)
    for _ in range(2):
        assert maker.ask("large", 9).get_seq_length() == 9
    maker.ask("a", 4)
    assert maker.made == ["a", "large", "large"]
    assert maker.count_alive_bytes() == model.language.count_cache_bytes(4)


def test_a_prefix_that_cannot_be_made_leaves_the_cache_as_it_should_be(model: LlavaMini) -> None:
    maker = Maker(model, limit_positions=8)
    maker.ask("a", 4)

    def fail() -> DynamicCache:
        raise MemoryError

    for _ in range(2):
        with pytest.raises(MemoryError):
            maker.cache.get("b", model.language.count_cache_bytes(4), fail)
    maker.ask("a", 4)
    maker.ask("c", 4)
    assert maker.made == ["a", "c"]


def test_what_is_appended_to_one_copy_is_not_seen_in_the_next(model: LlavaMini) -> None:
    maker = Maker(model, limit_positions=8)
    model.language.advance(maker.ask("a", 4), torch.zeros(3, model.config.hidden_size))
    assert maker.ask("a", 4).get_seq_length() == 4
    assert maker.made == ["a"]
