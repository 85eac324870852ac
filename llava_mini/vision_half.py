"""The half of the model in the encoder workers: turns pictures into tokens and fused text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llava_mini.compressor import Compressor
from llava_mini.config import LlavaMiniConfig
from llava_mini.prefusion import PreFusion
from llava_mini.vision import VisionTower


@dataclass(frozen=True)
class Stages:
    """Every intermediate of the vision half for F frames. Each frame has one picture, or five at high resolution."""

    features: Tensor  # (F,pictures,P,V) CLIP's patches
    compressed: Tensor  # (F,C,V)
    attention: Tensor  # (F,C,P') of the compressor; P' counts the patches of the picture or the mosaic
    projected_tokens: Tensor  # (F,C,D) before pre-fusion
    projected_patches: Tensor  # (F,P,D) of the whole picture
    tokens: Tensor  # (F,C,D) after pre-fusion
    fused: list[Tensor]  # one (F,L_i,D) per text


class VisionHalf(nn.Module):
    """Tower, compressor, projector and pre-fusion."""

    def __init__(self, config: LlavaMiniConfig) -> None:
        super().__init__()
        width, D = config.vision.hidden_size, config.hidden_size
        self.tower = VisionTower(config.vision, config.feature_layer)
        self.compressor = Compressor(width, config.compressor_size)
        self.mm_projector = nn.Sequential(nn.Linear(width, D), nn.GELU(), nn.Linear(D, D))
        self.prefusion = PreFusion(config.text, config.prefusion_layers)

    def forward(self, pixel_values: Tensor, texts: Sequence[Tensor]) -> Stages:
        """pixel_values (F,pictures,3,S,S), texts n x (L_i,D)."""
        frames, pictures = pixel_values.shape[:2]
        features = self.tower(pixel_values.flatten(0, 1)).unflatten(0, (frames, pictures))
        whole = features[:, -1]  # the whole picture is the last one
        detailed = whole if pictures == 1 else stitch(features[:, :-1])
        compressed, attention = self.compressor(detailed)
        tokens, patches = self.mm_projector(compressed), self.mm_projector(whole)
        context = patches if pictures == 1 else torch.cat([self.mm_projector(detailed), patches], dim=1)
        fused_tokens, fused = self.prefusion(context, tokens, texts)
        return Stages(features, compressed, attention, tokens, patches, fused_tokens, fused)


def stitch(crops: Tensor) -> Tensor:
    """Stitches the patches of r*r crops, row-major, into one grid: (F,r*r,P,V) -> (F,r*r*P,V)."""
    frames, count, patches, width = crops.shape
    r, g = math.isqrt(count), math.isqrt(patches)
    grid = crops.view(frames, r, r, g, g, width).permute(0, 1, 3, 2, 4, 5)
    return grid.reshape(frames, count * patches, width)
