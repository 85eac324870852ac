"""Writes a trained model as a checkpoint in the released layout (golden/README.md), in bfloat16."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionModel

from training.batches import MEAN, STD
from training.model import TrainingModel
from training.shape import SIDE_PX, TOWER_FOLDER
from training.vocabulary import Vocabulary

METADATA = {"format": "pt"}


def export(model: TrainingModel, folder: Path) -> None:
    """Writes weights, configurations, the image processor's settings and the tokenizer into `folder`."""
    (folder / TOWER_FOLDER).mkdir(parents=True, exist_ok=True)
    save_file(_language_tensors(model), folder / "model.safetensors", METADATA)
    save_file(_tower_tensors(model), folder / TOWER_FOLDER / "model.safetensors", METADATA)
    _write(folder / "config.json", _config(model))
    _write(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    _write(folder / TOWER_FOLDER / "config.json", _tower_config(model))
    _write(folder / TOWER_FOLDER / "preprocessor_config.json", _processor())
    Vocabulary().save(folder)


def _language_tensors(model: TrainingModel) -> dict[str, Tensor]:
    named = {
        f"model.{name.replace('prefusion.layers.', 'prefusion_layers.')}": value
        for name, value in model.vision.state_dict().items()
        if not name.startswith("tower.")
    }
    return _to_half_precision(named | dict(model.llm.state_dict()))


def _tower_tensors(model: TrainingModel) -> dict[str, Tensor]:
    """The tower as CLIP saves it. The last layer and norm are never used, so they keep CLIP's initial values."""
    torch.manual_seed(0)
    whole = CLIPVisionModel(model.config.vision).state_dict()
    trained = model.vision.tower.state_dict()
    named = {name.replace("layers.", "encoder.layers.", 1): value for name, value in trained.items()}
    return _to_half_precision({f"vision_model.{name}": value for name, value in (whole | named).items()})


def _to_half_precision(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value.detach().to(torch.bfloat16).contiguous()
        for name, value in tensors.items()
        if value.is_floating_point() and "inv_freq" not in name
    }


def _config(model: TrainingModel) -> dict[str, object]:
    text = model.config.text
    return {
        "architectures": ["LlavaMiniLlamaForCausalLM"],
        "model_type": "llava_mini_llama",
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads,
        "max_position_embeddings": text.max_position_embeddings,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
        "mm_vision_tower": TOWER_FOLDER,
        "mm_hidden_size": model.config.vision.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": model.config.feature_layer,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "square",
        "compressor_size": model.config.compressor_size,
        "prefusion_layer_num": model.config.prefusion_layers,
        "resolution_ratio": model.config.resolution_ratio,
        "tokenizer_model_max_length": text.max_position_embeddings,
    }


def _tower_config(model: TrainingModel) -> dict[str, object]:
    vision = model.config.vision
    return {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": vision.num_hidden_layers,
        "num_attention_heads": vision.num_attention_heads,
        "num_channels": 3,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "hidden_act": vision.hidden_act,
        "layer_norm_eps": vision.layer_norm_eps,
        "torch_dtype": "bfloat16",
    }


def _processor() -> dict[str, object]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": SIDE_PX},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": SIDE_PX, "width": SIDE_PX},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [round(float(value), 8) for value in MEAN],
        "image_std": [round(float(value), 8) for value in STD],
    }


def _write(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
