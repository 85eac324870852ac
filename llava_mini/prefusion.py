"""Modality pre-fusion: decoder layers in which texts read a frame's patches. The patches run once for all texts."""

from collections.abc import Iterator, Sequence
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

from llava_mini.errors import InputError

TEXT_ROWS = 16384  # frames x text rows in one pass: 2.1 GB at the 8B model's widths (127 kB a row)
MASK_CELLS = 2**25  # mask cells in one attention call: 64 MB in 16 bits

Pair = tuple[Tensor, Tensor]  # cos and sin (1,S,head width), or keys and values (F, kv heads, S, head width)


class PreFusion(nn.Module):
    """`layers` Llama decoder layers over [patches, compressed, text], causal, without a norm at the end.

    Attention is causal, so three savings are exact. Patches and compressed tokens do not depend on any text. All texts
    share them. The last layer needs only the patches' keys and values. Therefore the pictures run first. The texts
    follow in passes of at most TEXT_ROWS rows, so memory does not grow with the number of texts.

    Attention is PyTorch's fused kernel, or written out if the configuration says `eager`.
    """

    def __init__(self, config: LlamaConfig, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([LlamaDecoderLayer(config, index) for index in range(layers)])
        self.rotary = LlamaRotaryEmbedding(config)

    def forward(self, patches: Tensor, compressed: Tensor, texts: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """patches (F,P,D), compressed (F,C,D), texts n x (L_i,D) -> tokens (F,C,D), fused texts n x (F,L_i,D)."""
        longest = max(map(len, texts), default=0)
        if longest > TEXT_ROWS:
            raise InputError(f"a text of {longest} tokens cannot be fused: the most is {TEXT_ROWS}; ask more briefly")
        tokens, seen = self._read_pictures(torch.cat([patches, compressed], dim=1), compressed.shape[1], bool(texts))
        fused = [rows for group in _group_texts(texts, TEXT_ROWS // len(patches)) for rows in self._fuse(group, seen)]
        return tokens, fused

    def _read_pictures(self, vision: Tensor, count: int, keep: bool) -> tuple[Tensor, list[Pair]]:
        """(F,S,D) -> the last `count` rows after all layers, and every layer's keys and values if `keep`."""
        rows, seen = vision.shape[1], []
        rope = self.rotary(vision, torch.arange(rows, device=vision.device)[None])
        for index, layer in enumerate(self.layers):
            first = rows - count if index == len(self.layers) - 1 else 0  # the last layer has no output for patches
            queries, keys, values = _project(layer, vision, rope, first)
            mask = torch.ones(rows - first, rows, dtype=torch.bool, device=vision.device).tril(first)
            vision = _advance(layer, vision[:, first:], queries, (keys, values), mask)
            if keep:
                seen.append((keys, values))
        return vision[:, -count:], seen

    def _fuse(self, texts: Sequence[Tensor], seen: Sequence[Pair]) -> list[Tensor]:
        """n x (L_i,D) -> n x (F,L_i,D): all texts together, in passes over as many frames as TEXT_ROWS allows."""
        frames, _, rows, _ = seen[0][0].shape
        lengths = [len(text) for text in texts]
        text = torch.cat(list(texts))
        if not len(text):
            return [text.expand(frames, 0, -1) for _ in texts]
        places = [torch.arange(rows, rows + length, device=text.device) for length in lengths]
        rope = self.rotary(text, torch.cat(places)[None])
        mask = text_mask(rows, lengths, text.device)
        step = max(TEXT_ROWS // len(text), 1)
        parts = []
        for start in range(0, frames, step):
            several = slice(start, start + step)
            hidden = text.expand(len(seen[0][0][several]), -1, -1)  # (f, sum L, D)
            for layer, (keys, values) in zip(self.layers, seen, strict=True):
                queries, own_keys, own_values = _project(layer, hidden, rope)
                both = torch.cat([keys[several], own_keys], dim=2), torch.cat([values[several], own_values], dim=2)
                hidden = _advance(layer, hidden, queries, both, mask)
            parts.append(hidden)
        return list(torch.split(torch.cat(parts), lengths, dim=1))


def text_mask(rows: int, lengths: Sequence[int], device: torch.device) -> Tensor:
    """(sum L, rows + sum L): every text row sees all vision rows, and the rows of its own text up to itself."""
    owner = torch.cat([torch.full((length,), number, device=device) for number, length in enumerate(lengths)])
    own = (owner[:, None] == owner).tril()
    return torch.cat([torch.ones(len(owner), rows, dtype=torch.bool, device=device), own], dim=1)


def _group_texts(texts: Sequence[Tensor], most_rows: int) -> Iterator[list[Tensor]]:
    """Groups neighbouring texts of at most `most_rows` rows together. A longer text is a group of its own."""
    group: list[Tensor] = []
    for text in texts:
        if group and sum(map(len, group)) + len(text) > most_rows:
            yield group
            group = []
        group.append(text)
    if group:
        yield group


def _project(layer: Any, hidden: Tensor, rope: Pair, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(F,S,D) -> queries of the rows from `first` on, keys and values of all rows: (F, heads, rows, head width)."""
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    queries = _split_heads(attention.q_proj(normed[:, first:]), attention)
    keys, values = _split_heads(attention.k_proj(normed), attention), _split_heads(attention.v_proj(normed), attention)
    cos, sin = rope[0][:, None], rope[1][:, None]  # (1,1,S,head width)
    return _rotate(queries, cos[:, :, first:], sin[:, :, first:]), _rotate(keys, cos, sin), values


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies rotary positions, with the halves of a head paired as in transformers' Llama."""
    left, right = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-right, left], dim=-1) * sin


def _advance(layer: Any, hidden: Tensor, queries: Tensor, seen: Pair, mask: Tensor) -> Tensor:
    """The layer's output for the rows `hidden` (F,R,D). Each row sees what `mask` (R,S) allows."""
    attended = _attend(layer.self_attn, queries, seen, mask)
    hidden = hidden + layer.self_attn.o_proj(attended.flatten(2))
    output: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return output


def _attend(attention: Any, queries: Tensor, seen: Pair, mask: Tensor) -> Tensor:
    """(F,heads,R,width) over (F,kv heads,S,width) -> (F,R,heads,width)."""
    if attention.config._attn_implementation == "eager":
        bias = torch.zeros_like(mask, dtype=queries.dtype).masked_fill(~mask, torch.finfo(queries.dtype).min)
        attended: Tensor = eager_attention_forward(attention, queries, *seen, bias, attention.scaling)[0]
        return attended
    group = queries.shape[1] // seen[0].shape[1]
    step = max(MASK_CELLS // (group * mask.shape[1]), 1)
    parts = zip(torch.split(queries, step, dim=2), torch.split(mask, step), strict=True)
    return torch.cat([_attend_folded(rows, seen, shown, group) for rows, shown in parts], dim=2).transpose(1, 2)


def _attend_folded(queries: Tensor, seen: Pair, mask: Tensor, group: int) -> Tensor:
    """(F,heads,R,width) over (F,kv heads,S,width) -> (F,heads,R,width).

    The heads that share keys become rows of one head. With a mask and grouped heads together, PyTorch would fall back
    to the kernel that writes out all heads' scores (huggingface/transformers #39412, Comfy-Org/ComfyUI #15135).
    """
    frames, heads, rows, width = queries.shape
    folded = queries.reshape(frames, heads // group, group * rows, width)
    return F.scaled_dot_product_attention(folded, *seen, attn_mask=mask.repeat(group, 1)).reshape(queries.shape)


def _split_heads(rows: Tensor, attention: Any) -> Tensor:
    """(F,S,heads*width) -> (F,heads,S,width)."""
    return rows.view(*rows.shape[:2], -1, attention.head_dim).transpose(1, 2)
