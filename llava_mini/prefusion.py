"""Modality pre-fusion: decoder layers in which text reads a frame's patches; patches once, however many texts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

Rope = tuple[Tensor, Tensor]  # cos, sin: (1,S,head width)


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
            kept = C if index == len(self.layers) - 1 else rows  # the last layer's patches end in keys and values
            keys, values = _keys_and_values(layer, vision, vision_rope)
            if lengths:
                own_keys, own_values = _keys_and_values(layer, text, text_rope)
                both = torch.cat([keys, own_keys], dim=2), torch.cat([values, own_values], dim=2)
                text = _advance(layer, text, text_rope, *both, mask)
            tail = vision_rope[0][:, -kept:], vision_rope[1][:, -kept:]
            causal = None if kept == rows else torch.ones(kept, rows, dtype=torch.bool).tril(rows - kept)
            vision = _advance(layer, vision[:, -kept:], tail, keys, values, causal)
        return vision[:, -C:], list(text.split(lengths, dim=1)) if lengths else []


def text_mask(rows: int, lengths: Sequence[int]) -> Tensor:
    """(sum L, rows + sum L): every text row sees all vision rows, and the rows of its own text up to itself."""
    own = torch.block_diag(*(torch.ones(length, length).tril() for length in lengths)).bool()
    return torch.cat([torch.ones(sum(lengths), rows, dtype=torch.bool), own.view(sum(lengths), sum(lengths))], dim=1)


def _keys_and_values(layer: nn.Module, hidden: Tensor, rope: Rope) -> Rope:
    """(F,S,D) -> keys and values (F, kv heads, S, head width)."""
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    keys, values = _heads(attention.k_proj(normed), attention), _heads(attention.v_proj(normed), attention)
    return apply_rotary_pos_emb(keys, keys, *rope)[0], values


def _advance(layer: nn.Module, hidden: Tensor, rope: Rope, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """The layer's output for the rows `hidden` (F,R,D); without a mask the rows are all there are, causally."""
    attention = layer.self_attn
    queries = _heads(attention.q_proj(layer.input_layernorm(hidden)), attention)
    queries = apply_rotary_pos_emb(queries, queries, *rope)[0]
    attended = _attend(attention, queries, keys, values, None if mask is None else mask.to(hidden.device))
    hidden = hidden + attention.o_proj(attended.flatten(2))
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def _attend(attention: nn.Module, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """(F,heads,R,width) over (F,kv heads,S,width) -> (F,R,heads,width)."""
    if attention.config._attn_implementation == "eager":
        rows = queries.shape[2]
        seen = torch.ones(rows, rows, dtype=torch.bool, device=queries.device).tril() if mask is None else mask
        bias = torch.zeros_like(seen, dtype=queries.dtype).masked_fill(~seen, torch.finfo(queries.dtype).min)
        attended: Tensor = eager_attention_forward(attention, queries, keys, values, bias, attention.scaling)[0]
        return attended
    grouped = keys.shape[1] != queries.shape[1]
    fused = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
    )
    return fused.transpose(1, 2)


def _heads(rows: Tensor, attention: nn.Module) -> Tensor:
    """(F,S,heads*width) -> (F,heads,S,width)."""
    return rows.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
