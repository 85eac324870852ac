"""Reads the model's shape from a checkpoint's `config.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig

from llava_mini.errors import CheckpointError

FEATURE_LAYER = -2  # penultimate CLIP layer: paper 5.1; `mm_vision_select_layer` of the released configuration
FRAME_SIDE_PX = 336  # the public code squeezes video frames to this for any tower (SEMANTICS.md, item 8)
# The values that this package implements. A configuration may have others.
IMPLEMENTED = {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_feature": "patch"}
ASPECTS = ("square", "pad")  # for single images: crop the centre, or pad


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
    pad_images: bool  # single images are padded to a square instead of cropped

    @property
    def hidden_size(self) -> int:
        """D, the LLM's width."""
        return int(self.text.hidden_size)

    @property
    def vocab_size(self) -> int:
        """Rows of the text embedding table."""
        return int(self.text.vocab_size)

    @property
    def tokens_per_frame(self) -> int:
        """C, compressed tokens per frame."""
        return self.compressor_size**2

    @property
    def pictures(self) -> int:
        """Pictures the tower reads per frame: the frame itself, and its crops at high resolution."""
        return 1 if self.resolution_ratio == 1 else self.resolution_ratio**2 + 1

    @property
    def frame_side_px(self) -> int:
        """The side of the video frames that the model expects: 336, or 672 at high resolution (LLaVA-Mini-HD).

        The public code squeezes to 336 even at high resolution, and then enlarges the quarters.
        """
        return FRAME_SIDE_PX * self.resolution_ratio

    @property
    def side_px(self) -> int:
        """S, the side of the pictures the tower reads."""
        side: Any = self.vision.image_size  # a pair of sides is possible in transformers, but not in CLIP's towers
        return int(side)

    @property
    def patches(self) -> int:
        """P, patches per picture."""
        patch: Any = self.vision.patch_size
        return (self.side_px // int(patch)) ** 2

    @property
    def context(self) -> int:
        """Positions the LLM can take.

        `tokenizer_model_max_length` does not limit the model: the public code silently cuts prompts to that length
        (golden/SEMANTICS.md, item 7).
        """
        return int(self.text.max_position_embeddings)

    def with_attention(self, attention: str) -> "LlavaMiniConfig":
        """A copy whose layers use this attention implementation of transformers."""
        return replace(
            self,
            text=LlamaConfig.from_dict(self.text.to_dict(), attn_implementation=attention),
            vision=CLIPVisionConfig.from_dict(self.vision.to_dict(), attn_implementation=attention),
        )


def parse_config(values: Mapping[str, Any], tower: Mapping[str, Any], path: Path) -> LlavaMiniConfig:
    """Parses the objects of both `config.json` files; raises CheckpointError naming `path`."""
    for key, known in IMPLEMENTED.items():
        if values.get(key, known) != known:
            raise CheckpointError(f"{path}: {key} is {values[key]!r}, but only {known!r} is implemented")
    aspect = values.get("image_aspect_ratio") or "square"
    if aspect not in ASPECTS:
        known = ", ".join(ASPECTS)
        raise CheckpointError(f"{path}: image_aspect_ratio is {aspect!r}, but only {known} are implemented")
    try:
        return LlavaMiniConfig(
            text=LlamaConfig.from_dict(_text_values(values)),
            vision=CLIPVisionConfig.from_dict(_vision_values(tower)),
            vision_tower=str(values["mm_vision_tower"]),
            compressor_size=int(values["compressor_size"]),
            prefusion_layers=int(values["prefusion_layer_num"]),
            resolution_ratio=int(values.get("resolution_ratio", 1)),
            feature_layer=int(values.get("mm_vision_select_layer", FEATURE_LAYER)),
            pad_images=aspect == "pad",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a LLaVA-Mini configuration: {error!r}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads the object in a JSON file; raises CheckpointError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return values


def _text_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Moves RoPE into the one field that transformers 5 has for it. Checkpoints of version 4 have two fields."""
    rope = values.get("rope_parameters") or {
        **(values.get("rope_scaling") or {"rope_type": "default"}),
        "rope_theta": values.get("rope_theta", 10000.0),
    }
    others = {name: value for name, value in values.items() if name not in ("rope_scaling", "rope_theta")}
    return {**others, "model_type": "llama", "rope_parameters": rope}


def _vision_values(values: Mapping[str, Any]) -> dict[str, Any]:
    nested = values.get("vision_config")  # a full CLIP checkpoint nests it: openai/clip-vit-large-patch14-336
    return dict(nested if isinstance(nested, dict) else values)
