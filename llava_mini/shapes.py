"""The real models' configurations, for counting without weights. Attention is written out so that it can be counted."""

from collections.abc import Callable

from transformers import CLIPVisionConfig, LlamaConfig

from llava_mini.config import FEATURE_LAYER, LlavaMiniConfig

TOWER = "openai/clip-vit-large-patch14-336"


def llava_mini_7b() -> LlavaMiniConfig:
    """LLaVA-Mini on Vicuna 7B v1.5, the LLM of LLaVA-1.5 (paper, section 5.1)."""
    return _config(
        LlamaConfig(
            vocab_size=32000,
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=4096,
        )
    )


def llava_mini_8b() -> LlavaMiniConfig:
    """LLaVA-Mini on Llama 3.1 8B, the released checkpoint."""
    return _config(
        LlamaConfig(
            vocab_size=128256,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=131072,
        )
    )


RELEASED = {"ICTNLP/llava-mini-llama-3.1-8b": llava_mini_8b}  # hub id -> its shape, so that counting loads nothing
SHAPES: dict[str, Callable[[], LlavaMiniConfig]] = {"llava-mini-7b": llava_mini_7b, "llava-mini-8b": llava_mini_8b}


def _config(text: LlamaConfig) -> LlavaMiniConfig:
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    return LlavaMiniConfig(
        text=text,
        vision=vision,
        vision_tower=TOWER,
        compressor_size=1,  # one token a frame
        prefusion_layers=4,  # paper, section 4.2
        resolution_ratio=1,
        feature_layer=FEATURE_LAYER,
        pad_images=False,  # image_aspect_ratio of the public training script
    ).with_attention("eager")
