"""The half of the model that the reasoner holds: the LLM, a shared prefix, and what a question attends to."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb


class LanguageHalf:
    """An unmodified Llama over embeddings, one sequence at a time. Logits are float32."""

    def __init__(self, llm: LlamaForCausalLM) -> None:
        self.llm = llm

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.llm.device

    def embed(self, token_ids: list[int]) -> Tensor:
        """Plain text embeddings (L,D)."""
        return self.llm.model.embed_tokens(torch.tensor(token_ids, dtype=torch.long, device=self.device))

    def new_cache(self) -> DynamicCache:
        """An empty key/value cache."""
        return DynamicCache(config=self.llm.config)

    @torch.inference_mode()
    def advance(self, embeds: Tensor, cache: DynamicCache) -> Tensor:
        """Runs embeddings (S,D) behind what is in `cache`, which grows by S; the last position's logits (V,)."""
        hidden = self.llm.model(
            inputs_embeds=embeds[None].to(self.device, self.llm.dtype), past_key_values=cache, use_cache=True
        ).last_hidden_state
        return self.llm.lm_head(hidden[0, -1]).float()

    def step(self, token_id: int, cache: DynamicCache) -> Tensor:
        """Runs one generated token; the next one's logits (V,)."""
        return self.advance(self.embed([token_id]), cache)

    def read(self, embeds: Tensor, cache: DynamicCache, span: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """As `advance`, and where these rows attend among the cache's positions `span`.

        Returns logits (V,) and attention (span,) float32: mean over heads, summed over the rows and over all layers
        but the first (DESIGN: focused fusion). Only these rows' weights are computed, beside the fast path.
        """
        total = torch.zeros(span[1] - span[0], device=self.device)
        with _weights_of_rows(self.llm.model.layers[1:], cache, span, total):
            logits = self.advance(embeds, cache)
        return logits, total


@contextmanager
def _weights_of_rows(
    layers: nn.ModuleList, cache: DynamicCache, span: tuple[int, int], total: Tensor
) -> Iterator[None]:
    def add(module: Any, args: tuple[()], kwargs: dict[str, Any], output: object) -> None:
        total.add_(
            _weights(module, kwargs["hidden_states"], kwargs["position_embeddings"], cache)[:, span[0] : span[1]].sum(0)
        )

    handles = [layer.self_attn.register_forward_hook(add, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _weights(attention: Any, hidden: Tensor, rope: tuple[Tensor, Tensor], cache: DynamicCache) -> Tensor:
    """Softmax weights of the rows `hidden` (1,R,D) over all S cached positions, mean over heads: (R,S) float32."""
    queries = attention.q_proj(hidden).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    queries = apply_rotary_pos_emb(queries, queries, *rope)[0].float()
    keys = cache.layers[attention.layer_idx].keys.float().repeat_interleave(attention.num_key_value_groups, dim=1)
    scores = queries @ keys.transpose(2, 3) * attention.scaling  # (1,H,R,S)
    rows, width = scores.shape[2:]
    ahead = torch.ones(rows, width, dtype=torch.bool, device=scores.device).triu(width - rows + 1)
    return scores.masked_fill(ahead, -torch.inf).softmax(-1)[0].mean(0)


def shrink(cache: DynamicCache, length: int) -> None:
    """Forgets all but the first `length` positions."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]
