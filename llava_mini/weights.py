"""Builds either half on the meta device and loads its weights. The other half's tensors are not read."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from llava_mini.checkpoint import COMPUTED, EMBEDDINGS, LANGUAGE_PREFIXES, VISION_PREFIXES, Checkpoint
from llava_mini.errors import CheckpointError
from llava_mini.vision_half import VisionHalf


def load_embeddings(checkpoint: Checkpoint, dtype: torch.dtype) -> Tensor:
    """Loads the text embedding table (vocabulary,D), which both halves need."""
    table = checkpoint.read_tensors(lambda name: name == EMBEDDINGS, dtype)[EMBEDDINGS]
    shape = (checkpoint.config.vocab_size, checkpoint.config.hidden_size)
    if tuple(table.shape) != shape:
        raise CheckpointError(
            f"{checkpoint.folder}: {EMBEDDINGS} has shape {tuple(table.shape)}, but the configuration says {shape}"
        )
    return table


def load_vision(checkpoint: Checkpoint, dtype: torch.dtype, attention: str) -> VisionHalf:
    """Loads the vision half on the CPU; raises CheckpointError."""
    config = checkpoint.config.with_attention(attention)
    with torch.device("meta"):
        half = VisionHalf(config)
    own = checkpoint.read_tensors(lambda name: name.startswith(VISION_PREFIXES) and not name.endswith(COMPUTED), dtype)
    tensors = {
        name.removeprefix("model.").replace("prefusion_layers.", "prefusion.layers.", 1): value
        for name, value in own.items()
    }
    used = {_to_clip_name(name): f"tower.{name}" for name in half.tower.state_dict()}
    for name, value in checkpoint.read_tower_tensors(used.__contains__, dtype).items():
        tensors[used[name]] = value
    _fill(half, tensors, checkpoint.folder)
    half.prefusion.rotary = LlamaRotaryEmbedding(config.text)  # computed, not stored
    half.tower.embeddings.register_buffer("position_ids", torch.arange(config.patches + 1)[None], persistent=False)
    return half.eval()


def load_language(checkpoint: Checkpoint, dtype: torch.dtype, attention: str, embeddings: Tensor) -> LlamaForCausalLM:
    """Loads the LLM on the CPU; raises CheckpointError."""
    config = checkpoint.config.with_attention(attention).text
    tensors = checkpoint.read_tensors(
        lambda name: name.startswith(LANGUAGE_PREFIXES) and not name.endswith(COMPUTED), dtype
    )
    tensors[EMBEDDINGS] = embeddings
    if config.tie_word_embeddings:
        tensors["lm_head.weight"] = embeddings
    with torch.device("meta"):
        llm = LlamaForCausalLM(config)
    _fill(llm, tensors, checkpoint.folder)
    llm.model.rotary_emb = LlamaRotaryEmbedding(config)
    llm.train(False)
    return llm


def _to_clip_name(name: str) -> str:
    """CLIP's name for a parameter of `VisionTower`."""
    return f"encoder.{name}" if name.startswith("layers.") else name


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Loads weights into a module built on the meta device; raises CheckpointError naming what does not fit."""
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    for problem, names in (("lacks", wanted.keys() - tensors), ("has no place for", tensors.keys() - wanted)):
        if names:
            raise CheckpointError(f"{where} {problem} {len(names)} tensors; the first is {min(names)}")
    for name, shape in wanted.items():
        found = tuple(tensors[name].shape)
        if found != shape:
            raise CheckpointError(f"{where}: {name} has shape {found}, but the configuration says {shape}")
    module.load_state_dict(dict(tensors), assign=True)
