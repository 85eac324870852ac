"""What a checkpoint's `config.json` says of the model's shape."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig

from llava_mini.errors import CheckpointError

FEATURE_LAYER = -2  # penultimate CLIP layer: paper 5.1; `mm_vision_select_layer` of the released configuration


@dataclass(frozen=True)
class LlavaMiniConfig:
    """Shapes and choices of one checkpoint; letters as in docs/design.md."""

    text: LlamaConfig
    vision: CLIPVisionConfig
    vision_tower: str  # folder (relative to the checkpoint) or hub id
    compressor_size: int
    prefusion_layers: int
    resolution_ratio: int
    feature_layer: int

    @property
    def hidden_size(self) -> int:
        """D, the LLM's width."""
        return int(self.text.hidden_size)

    @property
    def tokens_per_frame(self) -> int:
        """C, compressed tokens per frame."""
        return self.compressor_size**2

    @property
    def side_px(self) -> int:
        """S, the side of the pictures the tower reads."""
        return int(self.vision.image_size)

    @property
    def patches(self) -> int:
        """P, patches per picture."""
        return int((self.vision.image_size // self.vision.patch_size) ** 2)

    @property
    def context(self) -> int:
        """Positions the LLM was made for."""
        return int(self.text.max_position_embeddings)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises CheckpointError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold an object")
    return values
