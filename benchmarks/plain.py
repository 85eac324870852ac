"""The vision half as the public implementation runs it: one frame at a time, every layer in full, one whole prompt.

It shares no computation with `llava_mini`, so tests can compare the fast path with it.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from llava_mini.checkpoint import EMBEDDINGS, VISION_PREFIXES, Checkpoint

HEADS = 8  # in the public implementation's compressor


@dataclass
class PlainVision:
    """The released weights in plain modules."""

    tower: CLIPVisionModel
    projector: nn.Sequential
    prefusion: list[LlamaDecoderLayer]
    rotary: LlamaRotaryEmbedding
    attention: nn.MultiheadAttention
    weights: dict[str, Tensor]

    @classmethod
    def from_pretrained(cls, folder: Path, dtype: torch.dtype = torch.float32) -> "PlainVision":
        """Loads the checkpoint on the CPU."""
        checkpoint = Checkpoint(folder)
        config = checkpoint.config
        text = LlamaConfig.from_dict(config.text.to_dict(), attn_implementation="sdpa")
        weights = {
            name.removeprefix("model."): value
            for name, value in checkpoint.read_tensors(
                lambda name: name.startswith(VISION_PREFIXES) or name == EMBEDDINGS, dtype
            ).items()
        }
        width, hidden = config.vision.hidden_size, config.hidden_size
        projector = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden)).to(dtype)
        projector.load_state_dict(_select(weights, "mm_projector."))
        attention = nn.MultiheadAttention(width, HEADS, batch_first=True).to(dtype)
        attention.load_state_dict(_select(weights, "compressor.attn."))
        layers = [LlamaDecoderLayer(text, index) for index in range(config.prefusion_layers)]
        for index, layer in enumerate(layers):
            layer.to(dtype).load_state_dict(_select(weights, f"prefusion_layers.{index}."))
        tower = CLIPVisionModel.from_pretrained(checkpoint.tower_folder, dtype=dtype)
        tower.train(False)
        return cls(tower, projector, layers, LlamaRotaryEmbedding(text), attention.eval(), weights)

    @torch.no_grad()
    def encode_frame(self, pictures: Tensor, ids: list[int]) -> tuple[Tensor, Tensor]:
        """One frame (pictures,3,S,S) and one whole prompt -> token rows (C,D) and fused text (L,D)."""
        features = self.tower(pictures.to(self.tower.dtype), output_hidden_states=True).hidden_states[-2][
            :, 1:
        ]  # (pictures,P,V)
        whole = features[-1:]
        grid = whole if len(features) == 1 else _stitch(features[:-1])
        compressed = self._compress(grid)
        parts = [self.projector(part) for part in ([whole] if grid is whole else [grid, whole])]
        text = self.weights["embed_tokens.weight"][torch.tensor(ids)][None]
        tokens = self.projector(compressed)
        rows = torch.cat([*parts, tokens, text], dim=1)
        rows = self._prefuse(rows)[0]
        end = len(rows) - len(ids)
        return rows[end - compressed.shape[1] : end], rows[end:]

    def _compress(self, grid: Tensor) -> Tensor:
        """(1,P,V) -> (1,C,V)."""
        w = self.weights
        width, side = grid.shape[-1], math.isqrt(grid.shape[1])
        table = w["compressor.pos_embed"]
        own = math.isqrt(len(table))
        square = table.view(1, own, own, width).permute(0, 3, 1, 2)
        resized = nn.functional.interpolate(square, (side, side), mode="bicubic", align_corners=False)
        positions = resized.permute(0, 2, 3, 1).reshape(1, side * side, width)
        query = nn.functional.layer_norm(
            w["compressor.query"], (width,), w["compressor.ln_q.weight"], w["compressor.ln_q.bias"]
        )
        values = nn.functional.layer_norm(grid, (width,), w["compressor.ln_kv.weight"], w["compressor.ln_kv.bias"])
        out: Tensor = self.attention((query + table)[None], values + positions, values)[0]
        return out

    def _prefuse(self, rows: Tensor) -> Tensor:
        """(1,S,D) -> (1,S,D): all rows through all layers."""
        rope = self.rotary(rows, torch.arange(rows.shape[1])[None])
        for layer in self.prefusion:
            rows = layer(rows, position_embeddings=rope)
        return rows


def _select(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _stitch(crops: Tensor) -> Tensor:
    """(r*r,P,V), row-major -> (1,r*r*P,V): one grid, built row by row."""
    r, g = math.isqrt(len(crops)), math.isqrt(crops.shape[1])
    grids = crops.view(len(crops), g, g, -1)
    lines = [torch.cat(list(grids[y * r : (y + 1) * r]), dim=1) for y in range(r)]  # each (g, r*g, V)
    return torch.cat(lines, dim=0).flatten(0, 1)[None]
