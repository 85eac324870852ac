"""Writes checkpoints of random weights that are the same on every machine: the recipe of the golden data."""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from transformers import CLIPVisionModel, LlamaForCausalLM

from llava_mini.checkpoint import TOWER_COPY
from llava_mini.config import LlavaMiniConfig, parse_config, read_json
from llava_mini.vision_half import VisionHalf

Weights = dict[str, NDArray[np.float32]]
NORMS = ("layernorm", "layer_norm", "pre_layrnorm", "post_layernorm", ".ln_q.", ".ln_kv.")
EMBEDDINGS = ("position_embedding", "embed_tokens")
METADATA = {"format": "pt"}


def write_checkpoint(shape: Path, folder: Path, *, seed: int, std: float, positions: NDArray[np.float32]) -> None:
    """Writes a checkpoint in the released layout, with the configuration files of `shape`.

    `positions` (C,V) is the compressor's table, which is not random.
    """
    shutil.copytree(shape, folder, dirs_exist_ok=True)
    tower_folder = folder / str(read_json(shape / "config.json")["mm_vision_tower"])
    config = parse_config(read_json(shape / "config.json"), read_json(tower_folder / "config.json"), shape)
    main, tower = shapes(config)
    tower_weights = {name: random_tensor(name, size, seed, std) for name, size in tower.items()}
    weights = {name: random_tensor(name, size, seed, std) for name, size in main.items()}
    weights["model.compressor.pos_embed"] = positions
    weights |= {TOWER_COPY + name: value for name, value in tower_weights.items()}
    save_file(weights, folder / "model.safetensors", METADATA)
    save_file(tower_weights, tower_folder / "model.safetensors", METADATA)


def shapes(config: LlavaMiniConfig) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Name -> shape of every tensor of the main file (without the tower's copy) and of the tower's file."""
    with torch.device("meta"):
        llm, half, clip = LlamaForCausalLM(config.text), VisionHalf(config), CLIPVisionModel(config.vision)
    own = {
        f"model.{name.replace('prefusion.layers.', 'prefusion_layers.')}": tuple(value.shape)
        for name, value in half.state_dict().items()
        if not name.startswith("tower.")
    }
    main = {name: tuple(value.shape) for name, value in llm.state_dict().items()} | own
    return main, {f"vision_model.{name}": tuple(value.shape) for name, value in clip.state_dict().items()}


def random_tensor(name: str, shape: tuple[int, ...], seed: int, std: float) -> NDArray[np.float32]:
    """The tensor `name` by the first rule that fits (golden/README.md, recipe for weights)."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    z = generator.standard_normal(shape, dtype=np.float32)
    if name.endswith("weight") and (any(part in name for part in NORMS) or name == "model.norm.weight"):
        return np.float32(1) + np.float32(0.1) * z
    if name.rsplit(".", 1)[-1] in ("bias", "in_proj_bias"):
        return np.float32(0.05) * z
    if name.endswith(("embeddings.class_embedding", "compressor.query")) or any(part in name for part in EMBEDDINGS):
        return np.float32(0.3) * z
    return np.float32(std) * z


def with_config(shape: Path, folder: Path, **changes: object) -> Path:
    """Copies the configuration files of `shape`, with some values of `config.json` changed."""
    shutil.copytree(shape, folder, dirs_exist_ok=True)
    values = read_json(folder / "config.json") | changes
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder
