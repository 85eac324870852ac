"""Counts what a frame and a question cost: operations on meta tensors, and bytes of weights, caches and activations.

A multiply-add counts as two. Nothing is allocated, so any machine can count the real 7B and 8B shapes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from llava_mini.config import LlavaMiniConfig
from llava_mini.language_half import PREFILL_POSITIONS, SCORE_CELLS, cache_bytes_per_position
from llava_mini.prefusion import MASK_CELLS, TEXT_ROWS
from llava_mini.quantize import Weights
from llava_mini.vision import VisionTower
from llava_mini.vision_half import VisionHalf

META = torch.device("meta")
ALL_LAYERS = -1  # also run the tower's last layer, as the public implementation does
# bitsandbytes: 8 bits and a float32 scale per row; NF4 with an 8-bit scale per 64 weights and a float32 per 256 scales.
INT8_SCALE_BYTES, INT4_BYTES = 4, 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Flops:
    """Operations for one picture and one question in each part of the model."""

    tower: int
    compressor: int
    projection: int
    prefusion: int
    language: int  # prefill

    @property
    def total(self) -> int:
        """All parts together."""
        return self.tower + self.compressor + self.projection + self.prefusion + self.language


@dataclass(frozen=True)
class ByteCosts:
    """Bytes a model takes on a device, by purpose. Activations are estimated from the widest layer's tensors."""

    vision_weights: int
    language_weights: int
    encode_batch: int  # the peak while a batch of frames is encoded and fused with a text
    prefill: int  # activations and scores of the LLM for PREFILL_POSITIONS, the most it runs at once
    cache_per_position: int  # keys and values in the LLM
    copy_per_position: int  # of one layer: keys and values copied while they grow, and repeated for all heads; the mask
    token_per_frame: int  # compressed tokens in a record (float16)


def llava_flops(config: LlavaMiniConfig, text_tokens: int) -> Flops:
    """LLaVA-1.5 with this tower and LLM: every patch is a token of the LLM."""
    with META:
        tower, half = VisionTower(config.vision, ALL_LAYERS), VisionHalf(config)
    features = _features(config)
    return Flops(
        tower=_count_operations(lambda: tower(_picture(config))),
        compressor=0,
        projection=_count_operations(lambda: half.mm_projector(features)),
        prefusion=0,
        language=_count_language_flops(config.text, features.shape[1] + text_tokens),
    )


def plain_flops(config: LlavaMiniConfig, text_tokens: int) -> Flops:
    """LLaVA-Mini as the public implementation runs it: the whole tower, and every row through all of pre-fusion."""
    with META:
        tower, half = VisionTower(config.vision, ALL_LAYERS), VisionHalf(config)
    features, grid, C = _features(config), _grid(config), config.tokens_per_frame
    return Flops(
        tower=_count_operations(lambda: tower(_picture(config))),
        compressor=_count_operations(lambda: half.compressor(grid)),
        projection=_count_operations(lambda: (half.mm_projector(features), half.mm_projector(features[:, :C]))),
        prefusion=_count_stack_flops(config.text, config.prefusion_layers, features.shape[1] + C + text_tokens),
        language=_count_language_flops(config.text, C + text_tokens),
    )


def our_flops(config: LlavaMiniConfig, text_tokens: int) -> Flops:
    """LLaVA-Mini as this package runs it, without the work that no result depends on."""
    with META:
        half = VisionHalf(config)
    D, C = config.hidden_size, config.tokens_per_frame
    features, grid = _features(config), _grid(config)
    patches, tokens, text = _rows(features.shape[1], D), _rows(C, D), _rows(text_tokens, D)[0]
    return Flops(
        tower=_count_operations(lambda: half.tower(_picture(config))),
        compressor=_count_operations(lambda: half.compressor(grid)),
        projection=_count_operations(lambda: (half.mm_projector(features), half.mm_projector(features[:, :C]))),
        prefusion=_count_operations(lambda: half.prefusion(patches, tokens, [text])),
        language=_count_language_flops(config.text, C + text_tokens),
    )


def byte_costs(
    config: LlavaMiniConfig, dtype: torch.dtype, weights: Weights, *, batch_frames: int, text_tokens: int
) -> ByteCosts:
    """Bytes by purpose, if a text of `text_tokens` is fused with every frame of a batch."""
    with META:
        half, llm = VisionHalf(config), LlamaForCausalLM(config.text)
    text: Any = config.text  # transformers types its sizes as optional, but always sets them
    size, width = dtype.itemsize, text.head_dim
    scores = SCORE_CELLS * (size + 2 * torch.float32.itemsize)  # the product, scaled in float32, softmaxed
    return ByteCosts(
        vision_weights=_count_parameters(half) * size,
        language_weights=_count_language_bytes(llm, size, weights),
        encode_batch=_count_encode_bytes(config, size, batch_frames, text_tokens),
        prefill=PREFILL_POSITIONS * _count_row(config) * size + scores,
        cache_per_position=cache_bytes_per_position(config.text, dtype),
        copy_per_position=2 * (text.num_attention_heads + text.num_key_value_heads) * width * size
        + PREFILL_POSITIONS * (torch.bool.itemsize + size),
        token_per_frame=config.tokens_per_frame * config.hidden_size * torch.float16.itemsize,
    )


def _count_encode_bytes(config: LlavaMiniConfig, size: int, frames: int, text_tokens: int) -> int:
    """Features, the rows that the texts need of the pictures, and the wider of the two passes (`PreFusion`)."""
    text: Any = config.text
    patches = config.pictures * config.patches
    rows = patches + config.tokens_per_frame
    seen_row = 2 * text.num_key_value_heads * text.head_dim  # keys and values in one layer
    kept = patches * (config.vision.hidden_size + config.hidden_size) + text_tokens * config.hidden_size
    kept += config.prefusion_layers * rows * seen_row
    several = min(frames, max(TEXT_ROWS // text_tokens, 1))  # frames of one pass over the text
    joined = rows + text_tokens
    group = text.num_attention_heads // text.num_key_value_heads
    widest = max(frames * rows * _count_row(config), several * (text_tokens * _count_row(config) + joined * seen_row))
    masks = 2 * min(group * max(rows, text_tokens) * joined, MASK_CELLS)  # as booleans and as numbers
    return int(frames * kept + widest + masks) * size


def _count_row(config: LlavaMiniConfig) -> int:
    """Numbers per row while a layer's MLP runs: input, queries, attended, residual, normed; gate, up, product."""
    text: Any = config.text
    return int(5 * config.hidden_size + 3 * text.intermediate_size)


def _count_language_bytes(llm: LlamaForCausalLM, size: int, weights: Weights) -> int:
    linear = [module for module in llm.model.layers.modules() if isinstance(module, nn.Linear)]
    quantised = sum(module.weight.numel() for module in linear)
    rest = (_count_parameters(llm) - quantised) * size
    if weights == "int8":
        return rest + quantised + INT8_SCALE_BYTES * sum(module.out_features for module in linear)
    return rest + (int(quantised * INT4_BYTES) if weights == "int4" else quantised * size)


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _count_operations(run: Callable[[], object]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def _picture(config: LlavaMiniConfig) -> Tensor:
    return torch.empty(config.pictures, 3, config.side_px, config.side_px, device=META)


def _features(config: LlavaMiniConfig) -> Tensor:
    """(1,P',V): the patches of all pictures of a frame."""
    return _rows(config.pictures * config.patches, config.vision.hidden_size)


def _grid(config: LlavaMiniConfig) -> Tensor:
    """(1,P',V): what the compressor reads."""
    return _rows(config.resolution_ratio**2 * config.patches, config.vision.hidden_size)


def _rows(count: int, width: int) -> Tensor:
    return torch.empty(1, count, width, device=META)


def _count_language_flops(text: LlamaConfig, positions: int) -> int:
    """Prefill and one row of the LM head."""
    head = 2 * text.hidden_size * text.vocab_size
    return _count_stack_flops(text, text.num_hidden_layers, positions) + head


def _count_stack_flops(text: LlamaConfig, layers: int, rows: int) -> int:
    """`layers` decoder layers over all rows. All cost the same, so only one is counted."""
    with META:
        layer, rotary = LlamaDecoderLayer(text, 0), LlamaRotaryEmbedding(text)
    hidden = _rows(rows, text.hidden_size)
    rope = rotary(hidden, torch.arange(rows, device=META)[None])
    return layers * _count_operations(lambda: layer(hidden, position_embeddings=rope))
