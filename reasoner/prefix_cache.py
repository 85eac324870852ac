"""Keeps the key/value prefixes of recent stretches, so that a further question costs only its own tokens."""

from collections import OrderedDict
from collections.abc import Hashable

from transformers import DynamicCache

from llava_mini.language_half import fork


class PrefixCache:
    """The prefixes used last, `limit_bytes` together at most. It holds no lock: all calls belong to the model thread.

    To add one, make room first: then its bytes and those it displaces are never in memory together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._kept: OrderedDict[Hashable, tuple[DynamicCache, int]] = OrderedDict()  # the one used longest ago first

    def find(self, key: Hashable) -> DynamicCache | None:
        """A cache of one's own that begins with the prefix called `key`; None if it is not kept."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return fork(self._kept[key][0])

    def make_room(self, size_bytes: int) -> None:
        """Evicts until so many bytes are free; a prefix above the limit is not kept, and displaces nothing."""
        if size_bytes <= self._limit_bytes:
            self._evict_until(self._limit_bytes - size_bytes)

    def keep(self, key: Hashable, cache: DynamicCache, size_bytes: int) -> None:
        """Keeps a prefix that nobody extends: use a `fork` of it."""
        if key in self._kept or size_bytes > self._limit_bytes:
            return
        self._evict_until(self._limit_bytes - size_bytes)
        self._kept[key] = cache, size_bytes
        self._held_bytes += size_bytes

    def clear(self) -> None:
        """Evicts everything: memory ran out."""
        self._evict_until(0)

    def _evict_until(self, most_bytes: int) -> None:
        while self._held_bytes > most_bytes:
            self._held_bytes -= self._kept.popitem(last=False)[1][1]
