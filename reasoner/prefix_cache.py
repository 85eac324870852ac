"""Keeps the key/value prefixes of recent stretches, so that a further question costs only its own tokens."""

from collections import OrderedDict
from collections.abc import Hashable

from transformers import DynamicCache

from llava_mini.kv_cache import fork


class PrefixCache:
    """The prefixes used last, at most `limit_bytes` in total. It has no lock: call it on the model thread only.

    Make room before making a prefix, so that it is never in memory together with those it displaces.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._kept: OrderedDict[Hashable, tuple[DynamicCache, int]] = OrderedDict()  # least recently used first

    def find(self, key: Hashable) -> DynamicCache | None:
        """Returns a new cache that begins with the prefix `key`; None if the prefix is not kept."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return fork(self._kept[key][0])

    def make_room(self, size_bytes: int) -> None:
        """Evicts until `size_bytes` are free. A prefix above the limit is never kept, so it displaces nothing."""
        if size_bytes <= self._limit_bytes:
            self._evict_until(self._limit_bytes - size_bytes)

    def keep(self, key: Hashable, cache: DynamicCache, size_bytes: int) -> None:
        """Keeps a prefix. Nobody may extend it afterwards, only a `fork` of it."""
        if key in self._kept or size_bytes > self._limit_bytes:
            return
        self._evict_until(self._limit_bytes - size_bytes)
        self._kept[key] = cache, size_bytes
        self._held_bytes += size_bytes

    def clear(self) -> None:
        """Evicts everything, because memory ran out."""
        self._evict_until(0)

    def _evict_until(self, most_bytes: int) -> None:
        while self._held_bytes > most_bytes:
            self._held_bytes -= self._kept.popitem(last=False)[1][1]
