"""The prefix cache makes room before a prefix is made, and evicts the least recently used one first."""

import weakref
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from llava_mini.model import LlavaMini
from reasoner.prefix_cache import PrefixCache


class Maker:
    """Makes prefixes of zeros as the engine does, and counts the bytes that are alive."""

    def __init__(self, model: LlavaMini, limit_positions: int) -> None:
        self._language = model.language
        self._width = model.config.hidden_size
        self.limit_bytes = model.language.count_cache_bytes(limit_positions)
        self.cache = PrefixCache(self.limit_bytes)
        self.made: list[str] = []
        self._alive: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()

    def ask(self, name: str, positions: int) -> DynamicCache:
        found = self.cache.find(name)
        if found is not None:
            return found
        size_bytes = self._language.count_cache_bytes(positions)
        self.cache.make_room(size_bytes)
        if size_bytes <= self.limit_bytes:
            assert self.count_alive_bytes() + size_bytes <= self.limit_bytes  # room was made first
        self.made.append(name)
        made = self._language.prefill(torch.zeros(positions, self._width))
        layers: Any = made.layers
        tensors = [part for layer in layers for part in (layer.keys, layer.values)]
        assert sum(tensor.nbytes for tensor in tensors) == size_bytes
        self._alive.update({id(tensor): tensor for tensor in tensors})
        self.cache.keep(name, made, size_bytes)
        return made

    def count_alive_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._alive.values())


def test_room_is_made_before_the_prefix(model: LlavaMini) -> None:
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


def test_clearing_frees_the_prefixes_and_their_room(model: LlavaMini) -> None:
    maker = Maker(model, limit_positions=8)
    maker.ask("a", 4)
    maker.ask("b", 4)
    maker.cache.clear()
    assert maker.count_alive_bytes() == 0
    for name in ("a", "b", "a", "b"):
        maker.ask(name, 4)
    assert maker.made == ["a", "b", "a", "b"]


def test_keeping_a_prefix_twice_counts_it_once(model: LlavaMini) -> None:
    maker = Maker(model, limit_positions=8)
    made, size_bytes = maker.ask("a", 4), model.language.count_cache_bytes(4)
    maker.cache.keep("a", made, size_bytes)
    maker.ask("b", 4)
    assert maker.cache.find("a") is not None


@pytest.mark.parametrize("use", ["advance", "score"])
def test_rows_appended_to_one_copy_do_not_appear_in_the_next(use: str, model: LlavaMini) -> None:
    maker = Maker(model, limit_positions=8)
    maker.ask("a", 4)
    copy, rows = maker.ask("a", 4), torch.zeros(3, model.config.hidden_size)
    if use == "advance":
        model.language.advance(copy, rows)
    else:
        model.language.score(copy, rows, (1, 4))
    assert copy.get_seq_length() == 7
    assert maker.ask("a", 4).get_seq_length() == 4
    assert maker.made == ["a"]
