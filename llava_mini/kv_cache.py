"""Branches and cuts key/value caches without copying them."""

import copy
from typing import Any

from transformers import DynamicCache


def fork(cache: DynamicCache) -> DynamicCache:
    """A twin that grows on its own. Both share the tensors so far: a layer that grows replaces its tensors."""
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


def shorten(cache: DynamicCache, positions: int) -> None:
    """Cuts every layer to its first `positions`."""
    layers: Any = cache.layers
    for layer in layers:
        if layer.is_initialized and layer.keys.shape[2] > positions:
            layer.keys, layer.values = layer.keys[:, :, :positions], layer.values[:, :, :positions]
