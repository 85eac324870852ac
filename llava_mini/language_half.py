"""The half of the model that the reasoner holds: the LLM, a shared prefix, and what a question attends to."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from llava_mini.errors import InputError

PREFILL_POSITIONS = 2048  # run at once; with the 8B model's widths (127 kB a position) that is 0.26 GB
SCORE_CELLS = 2**24  # of the scores of one call, over all heads: 64 MB in float32


class LanguageHalf:
    """An unmodified Llama over embeddings, one sequence at a time. Logits are float32, on the model's device.

    A cache holds the keys and values of the positions run so far. To answer twice from one prefix, `fork` the cache:
    no copy is made until the twin grows.
    """

    def __init__(self, llm: LlamaForCausalLM) -> None:
        self.llm = llm

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
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
        """What a cache of so many positions takes."""
        return positions * cache_bytes_per_position(self.llm.config, self.llm.model.embed_tokens.weight.dtype)

    @torch.no_grad()
    def prefill(self, inputs_embeds: Tensor, cache: DynamicCache | None = None) -> DynamicCache:
        """Runs embeddings (S,D) behind `cache` (or as the first), which grows by S and is returned."""
        grown = self.make_cache() if cache is None else cache
        for part in torch.split(inputs_embeds, PREFILL_POSITIONS):  # activations of so many positions at most
            self._run(grown, part)
        return grown

    @torch.no_grad()
    def advance(self, cache: DynamicCache, inputs_embeds: Tensor) -> Tensor:
        """As `prefill`, and returns the last position's logits (V,)."""
        logits: Tensor = self.llm.lm_head(self._run(cache, inputs_embeds)[-1])
        return logits.float()

    def step(self, cache: DynamicCache, token_id: int) -> Tensor:
        """Runs one generated token behind `cache`; the next one's logits (V,)."""
        return self.advance(cache, self.embed([token_id]))

    def score(
        self, cache: DynamicCache, question_embeds: Tensor, vision_span: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """As `advance` for a question (L,D), and where it attends among the positions `vision_span` (start, stop).

        Returns logits (V,) and attention (stop - start,) float32: mean over heads, summed over the question's rows
        and over all layers but the first (docs/design.md, focused fusion). Only these rows' weights are computed,
        beside the attention implementation in use, which need not be able to return any.
        """
        start, stop = vision_span
        total = torch.zeros(stop - start, device=self.device)
        with _rows_watched(self.llm.model.layers[1:], cache, vision_span, total):
            logits = self.advance(cache, question_embeds)
        return logits, total

    def _run(self, cache: DynamicCache, inputs_embeds: Tensor) -> Tensor:
        """(S,D) -> (S,D), after the last norm."""
        embeds = inputs_embeds[None].to(self.device, self.llm.model.embed_tokens.weight.dtype)
        hidden: Tensor = self.llm.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True).last_hidden_state
        return hidden[0]


def cache_bytes_per_position(text: LlamaConfig, dtype: torch.dtype) -> int:
    """Keys and values of one position in all layers."""
    sizes: Any = text  # transformers types them as optional, and fills them in
    return int(2 * sizes.num_hidden_layers * sizes.num_key_value_heads * sizes.head_dim * dtype.itemsize)


def gather(table: Tensor, token_ids: Sequence[int]) -> Tensor:
    """Rows of a table of embeddings (vocabulary,D) -> (L,D); raises InputError."""
    if token_ids and not (min(token_ids) >= 0 and max(token_ids) < len(table)):
        raise InputError(f"a token id is beyond the vocabulary of {len(table)}: the tokenizer is not this checkpoint's")
    return table[torch.tensor(token_ids, dtype=torch.long, device=table.device)]


def fork(cache: DynamicCache) -> DynamicCache:
    """A cache that goes its own way from here; the tensors so far are shared (a layer that grows replaces its own)."""
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


def shorten(cache: DynamicCache, positions: int) -> None:
    """Takes from every layer what stands behind the first `positions`."""
    layers: Any = cache.layers
    for layer in layers:
        if layer.is_initialized and layer.keys.shape[2] > positions:
            layer.keys, layer.values = layer.keys[:, :, :positions], layer.values[:, :, :positions]


@contextmanager
def _rows_watched(layers: Any, cache: DynamicCache, span: tuple[int, int], total: Tensor) -> Iterator[None]:
    """Adds to `total` what the rows run meanwhile attend to within `span`."""

    def add(module: nn.Module, _args: tuple[()], kwargs: dict[str, Any], _output: object) -> None:
        weights = _weights(module, kwargs["hidden_states"], kwargs["position_embeddings"], cache)
        total.add_(weights[:, slice(*span)].sum(0))

    handles = [layer.self_attn.register_forward_hook(add, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _weights(attention: Any, hidden: Tensor, rope: tuple[Tensor, Tensor], cache: DynamicCache) -> Tensor:
    """Softmax weights of the rows `hidden` (1,R,D) over all S cached positions, mean over heads: (R,S) float32."""
    queries = attention.q_proj(hidden).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    queries = apply_rotary_pos_emb(queries, queries, *rope)[0]
    keys = cache.layers[attention.layer_idx].keys  # (1, kv heads, S, head width)
    rows, width = queries.shape[2], keys.shape[2]
    step = max(SCORE_CELLS // (queries.shape[1] * width), 1)
    return torch.cat(
        [
            _weights_of_rows(queries[:, :, first : first + step], keys, width - rows + first, attention.scaling)
            for first in range(0, rows, step)
        ]
    )


def _weights_of_rows(queries: Tensor, keys: Tensor, place: int, scaling: float) -> Tensor:
    """Weights (R,S) of the rows (1,heads,R,width), the first of which stands at position `place`."""
    rows, kv_heads, width = queries.shape[2], keys.shape[1], keys.shape[2]
    grouped = queries.reshape(1, kv_heads, -1, queries.shape[3])  # (1, kv heads, group*R, head width)
    scores = (grouped @ keys.transpose(2, 3)).float() * scaling
    scores = scores.view(1, kv_heads, -1, rows, width)  # (1, kv heads, group, R, S)
    ahead = torch.ones(rows, width, dtype=torch.bool, device=scores.device).triu(place + 1)
    weights = scores.masked_fill_(ahead, -torch.inf).softmax(-1)
    return weights.mean((1, 2))[0]
