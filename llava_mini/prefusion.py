"""Modality pre-fusion: decoder layers in which text reads a frame's patches; patches once, however many texts."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRotaryEmbedding,
    eager_attention_forward,
)

Pair = tuple[Tensor, Tensor]  # cos and sin (1,S,head width), or keys and values (F, kv heads, S, head width)


class PreFusion(nn.Module):
    """`layers` Llama decoder layers over [patches, compressed, text], causal, without a norm at the end.

    Causality makes three things exact: patches and compressed tokens do not depend on any text; several texts share
    them; and of the last layer's patches only keys and values are needed.

    Attention is PyTorch's fused one (it has flash kernels of its own), or written out where the configuration says
    `eager`.
    """

    def __init__(self, config: LlamaConfig, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([LlamaDecoderLayer(config, index) for index in range(layers)])
        self.rotary = LlamaRotaryEmbedding(config)

    def forward(self, patches: Tensor, compressed: Tensor, texts: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """patches (F,P,D), compressed (F,C,D), texts n x (L_i,D) -> tokens (F,C,D), fused texts n x (F,L_i,D)."""
        C = compressed.shape[1]
        vision = torch.cat([patches, compressed], dim=1)
        frames, rows, width = vision.shape
        lengths = [len(text) for text in texts]
        text = torch.cat([vision.new_zeros(0, width), *texts]).expand(frames, -1, width)  # (F, sum L, D)
        positions = torch.cat([torch.arange(0), *(torch.arange(rows, rows + length) for length in lengths)])
        vision_rope = self.rotary(vision, torch.arange(rows, device=vision.device)[None])
        text_rope = self.rotary(vision, positions.to(vision.device)[None])
        mask = text_mask(rows, lengths).to(vision.device)
        for index, layer in enumerate(self.layers):
            first = rows - C if index == len(self.layers) - 1 else 0  # the last layer's patches end in keys and values
            queries, keys, values = _project(layer, vision, vision_rope, first)
            if sum(lengths):
                own_queries, own_keys, own_values = _project(layer, text, text_rope)
                both = torch.cat([keys, own_keys], dim=2), torch.cat([values, own_values], dim=2)
                text = _advance(layer, text, own_queries, both, mask)
            causal = torch.ones(rows - first, rows, dtype=torch.bool, device=vision.device).tril(first)
            vision = _advance(layer, vision[:, first:], queries, (keys, values), causal if first else None)
        return vision[:, -C:], list(torch.split(text, lengths, dim=1)) if lengths else []


def text_mask(rows: int, lengths: Sequence[int]) -> Tensor:
    """(sum L, rows + sum L): every text row sees all vision rows, and the rows of its own text up to itself."""
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.long))
    own = (owner[:, None] == owner).tril()
    return torch.cat([torch.ones(len(owner), rows, dtype=torch.bool), own], dim=1)


def _project(layer: Any, hidden: Tensor, rope: Pair, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(F,S,D) -> queries of the rows from `first` on, keys and values of all: (F, heads, rows, head width)."""
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    queries = _heads(attention.q_proj(normed[:, first:]), attention)
    keys, values = _heads(attention.k_proj(normed), attention), _heads(attention.v_proj(normed), attention)
    cos, sin = rope[0][:, None], rope[1][:, None]  # (1,1,S,head width)
    return _rotate(queries, cos[:, :, first:], sin[:, :, first:]), _rotate(keys, cos, sin), values


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, the halves of a head turned against each other as in transformers' Llama."""
    left, right = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-right, left], dim=-1) * sin


def _advance(layer: Any, hidden: Tensor, queries: Tensor, seen: Pair, mask: Tensor | None) -> Tensor:
    """The layer's output for the rows `hidden` (F,R,D); without a mask the rows are all there are, causally."""
    attended = _attend(layer.self_attn, queries, seen, mask)
    hidden = hidden + layer.self_attn.o_proj(attended.flatten(2))
    output: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return output


def _attend(attention: Any, queries: Tensor, seen: Pair, mask: Tensor | None) -> Tensor:
    """(F,heads,R,width) over (F,kv heads,S,width) -> (F,R,heads,width)."""
    if attention.config._attn_implementation == "eager":
        rows = queries.shape[2]
        shown = torch.ones(rows, rows, dtype=torch.bool, device=queries.device).tril() if mask is None else mask
        bias = torch.zeros_like(shown, dtype=queries.dtype).masked_fill(~shown, torch.finfo(queries.dtype).min)
        attended: Tensor = eager_attention_forward(attention, queries, *seen, bias, attention.scaling)[0]
        return attended
    grouped = seen[0].shape[1] != queries.shape[1]
    fused = F.scaled_dot_product_attention(queries, *seen, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
    return fused.transpose(1, 2)


def _heads(rows: Tensor, attention: Any) -> Tensor:
    """(F,S,heads*width) -> (F,heads,S,width)."""
    return rows.view(*rows.shape[:2], -1, attention.head_dim).transpose(1, 2)
