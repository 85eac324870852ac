"""The half of the model in the reasoner: runs the LLM, shares prefixes, and measures what a question attends to."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from llava_mini.errors import InputError

PREFILL_POSITIONS = 2048  # positions run at once: 0.26 GB at the 8B model's widths (127 kB a position)
SCORE_CELLS = 2**24  # scores in one call, over all heads: 64 MB in float32


class LanguageHalf:
    """An unmodified Llama over embeddings, one sequence at a time. Logits are float32, on the model's device.

    A cache holds the keys and values of the positions run so far. To answer twice from one prefix, `fork` the cache.
    Nothing is copied until the twin grows.
    """

    def __init__(self, llm: LlamaForCausalLM) -> None:
        self.llm = llm

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.llm.device
        return device

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        """Plain text embeddings (L,D); raises InputError."""
        table: Tensor = self.llm.model.embed_tokens.weight
        return gather(table, token_ids)

    def make_cache(self) -> DynamicCache:
        """An empty cache."""
        return DynamicCache(config=self.llm.config)

    def count_cache_bytes(self, positions: int) -> int:
        """Bytes that a cache of this many positions takes."""
        return positions * cache_bytes_per_position(self.llm.config, self.llm.model.embed_tokens.weight.dtype)

    @torch.no_grad()
    def prefill(self, inputs_embeds: Tensor, cache: DynamicCache | None = None) -> DynamicCache:
        """Runs embeddings (S,D) after those in `cache`, or as the first ones. Returns the cache, S positions longer."""
        grown = self.make_cache() if cache is None else cache
        for part in torch.split(inputs_embeds, PREFILL_POSITIONS):  # bounds the activations
            self._run(grown, part)
        return grown

    @torch.no_grad()
    def advance(self, cache: DynamicCache, inputs_embeds: Tensor) -> Tensor:
        """Runs embeddings as `prefill` does, and returns the last position's logits (V,)."""
        logits: Tensor = self.llm.lm_head(self._run(cache, inputs_embeds)[-1])
        return logits.float()

    def step(self, cache: DynamicCache, token_id: int) -> Tensor:
        """Appends one generated token to `cache`, and returns the logits (V,) of the next one."""
        return self.advance(cache, self.embed([token_id]))

    def score(
        self, cache: DynamicCache, question_embeds: Tensor, vision_span: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Runs a question (L,D) as `advance` does, and measures its attention to `vision_span` (start, stop).

        Returns logits (V,) and attention (stop - start,) float32: the mean over heads, summed over the question's rows
        and over all layers but the first (docs/design.md, focused fusion). The weights are computed here, for these
        rows only, because the attention implementation in use may not return any.
        """
        start, stop = vision_span
        total = torch.zeros(stop - start, device=self.device)
        with _watch_rows(self.llm.model.layers[1:], cache, vision_span, total):
            logits = self.advance(cache, question_embeds)
        return logits, total

    def _run(self, cache: DynamicCache, inputs_embeds: Tensor) -> Tensor:
        """(S,D) -> (S,D), after the last norm."""
        embeds = inputs_embeds[None].to(self.device, self.llm.model.embed_tokens.weight.dtype)
        hidden: Tensor = self.llm.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True).last_hidden_state
        return hidden[0]


def cache_bytes_per_position(text: LlamaConfig, dtype: torch.dtype) -> int:
    """Bytes of one position's keys and values in all layers."""
    sizes: Any = text  # transformers types them as optional, but always sets them
    return int(2 * sizes.num_hidden_layers * sizes.num_key_value_heads * sizes.head_dim * dtype.itemsize)


def gather(table: Tensor, token_ids: Sequence[int]) -> Tensor:
    """Looks up rows of an embedding table (vocabulary,D) -> (L,D); raises InputError."""
    if token_ids and not (min(token_ids) >= 0 and max(token_ids) < len(table)):
        raise InputError(f"a token id is beyond the vocabulary of {len(table)}: the tokenizer is of another checkpoint")
    return table[torch.tensor(token_ids, dtype=torch.long, device=table.device)]


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


@contextmanager
def _watch_rows(layers: Any, cache: DynamicCache, span: tuple[int, int], total: Tensor) -> Iterator[None]:
    """Adds to `total` the attention of all rows run inside the block to the positions in `span`."""

    def add(module: nn.Module, _args: tuple[()], kwargs: dict[str, Any], _output: object) -> None:
        weights = _compute_weights(module, kwargs["hidden_states"], kwargs["position_embeddings"], cache)
        total.add_(weights[:, slice(*span)].sum(0))

    handles = [layer.self_attn.register_forward_hook(add, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _compute_weights(attention: Any, hidden: Tensor, rope: tuple[Tensor, Tensor], cache: DynamicCache) -> Tensor:
    """Softmax weights (R,S) float32 of the rows `hidden` (1,R,D) over all S cached positions: the mean over heads."""
    queries = attention.q_proj(hidden).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    queries = apply_rotary_pos_emb(queries, queries, *rope)[0]
    keys = cache.layers[attention.layer_idx].keys  # (1, kv heads, S, head width)
    rows, width = queries.shape[2], keys.shape[2]
    step = max(SCORE_CELLS // (queries.shape[1] * width), 1)
    return torch.cat(
        [
            _compute_row_weights(queries[:, :, first : first + step], keys, width - rows + first, attention.scaling)
            for first in range(0, rows, step)
        ]
    )


def _compute_row_weights(queries: Tensor, keys: Tensor, place: int, scaling: float) -> Tensor:
    """Weights (R,S) of the rows (1,heads,R,width). The first row is at position `place`."""
    rows, kv_heads, width = queries.shape[2], keys.shape[1], keys.shape[2]
    grouped = queries.reshape(1, kv_heads, -1, queries.shape[3])  # (1, kv heads, group*R, head width)
    scores = (grouped @ keys.transpose(2, 3)).float() * scaling
    scores = scores.view(1, kv_heads, -1, rows, width)  # (1, kv heads, group, R, S)
    ahead = torch.ones(rows, width, dtype=torch.bool, device=scores.device).triu(place + 1)
    weights = scores.masked_fill_(ahead, -torch.inf).softmax(-1)
    return weights.mean((1, 2))[0]
