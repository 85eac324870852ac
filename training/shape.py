"""The small model's shape: the released architecture at 1/2000 of its size."""

from transformers import CLIPVisionConfig, LlamaConfig

from llava_mini.config import LlavaMiniConfig

SIDE_PX, PATCH_PX = 64, 8
TOWER_FOLDER = "clip"


def tiny_config(vocabulary: int) -> LlavaMiniConfig:
    """The configuration of the shipped checkpoint (sizes: the trial in docs/training.md)."""
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=5,  # the last one is never used: features are taken at layer -2
        num_attention_heads=4,
        image_size=SIDE_PX,
        patch_size=PATCH_PX,
        hidden_act="quick_gelu",
    )
    return LlavaMiniConfig(text, vision, TOWER_FOLDER, 1, 2, 1, -2, False)
