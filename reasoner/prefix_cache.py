"""Keeps the key/value prefixes of recent stretches, so that a further question costs only its own tokens."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from transformers import DynamicCache

from llava_mini.language_half import fork


class PrefixCache:
    """Least recently used prefixes, bounded in bytes; one that is larger by itself is not kept."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[Hashable, DynamicCache] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], DynamicCache]) -> DynamicCache:
        """A cache of one's own that begins with the prefix called `key`, made where it is not kept."""
        cache = self._kept.pop(key, None)
        if cache is None:
            cache = make()
        if size_bytes(cache) <= self._limit_bytes:
            self._kept[key] = cache
            while sum(map(size_bytes, self._kept.values())) > self._limit_bytes:
                self._kept.popitem(last=False)
        return fork(cache)


def size_bytes(cache: DynamicCache) -> int:
    """Memory that a cache's keys and values take."""
    layers: Any = cache.layers
    return sum(part.numel() * part.element_size() for layer in layers for part in (layer.keys, layer.values))
