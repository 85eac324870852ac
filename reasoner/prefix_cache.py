"""Keeps the key/value prefixes of recent stretches, so that a further question costs only its own tokens."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

from transformers import DynamicCache

from llava_mini.language_half import fork


class PrefixCache:
    """The prefixes used last, `limit_bytes` together at most.

    It holds no lock: all calls belong to the model thread, also if several job threads have questions.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._kept: OrderedDict[Hashable, tuple[DynamicCache, int]] = OrderedDict()  # the one used longest ago first

    def get(self, key: Hashable, size_bytes: int, make: Callable[[], DynamicCache]) -> DynamicCache:
        """A cache of one's own that begins with the prefix called `key`; `make` is called if it is not kept.

        Room for `size_bytes` is made before `make` is called. A prefix above the limit is made and not kept, and
        displaces nothing.
        """
        if size_bytes > self._limit_bytes:
            return make()
        if key not in self._kept:
            self._evict_until(self._limit_bytes - size_bytes)
            self._kept[key] = make(), size_bytes
            self._held_bytes += size_bytes
        self._kept.move_to_end(key)
        return fork(self._kept[key][0])

    def _evict_until(self, most_bytes: int) -> None:
        while self._held_bytes > most_bytes:
            self._held_bytes -= self._kept.popitem(last=False)[1][1]
