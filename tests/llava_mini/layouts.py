"""Writes checkpoints with the layouts and widths of real ones, but few layers and sparse files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from torch import Tensor

from benchmarks.recipe import NORMS, shapes
from llava_mini.checkpoint import TOWER_COPY
from llava_mini.config import parse_config

BYTES_16 = 2  # bytes of a bfloat16
CLIP = {
    "architectures": ["CLIPVisionModel"],
    "model_type": "clip_vision_model",
    "hidden_act": "quick_gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 3,
    "image_size": 336,
    "patch_size": 14,
    "layer_norm_eps": 1e-5,
}
PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 336},
    "crop_size": {"height": 336, "width": 336},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
}
SHARED = {
    "model_type": "llava_mini_llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "mm_vision_tower": "clip",
    "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "compressor_size": 1,
    "prefusion_layer_num": 2,
    "resolution_ratio": 1,
    "image_aspect_ratio": "square",
}
LLAMA_31 = SHARED | {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
}
VICUNA = SHARED | {
    "intermediate_size": 11008,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "image_aspect_ratio": "pad",
}

# Llama 3.1's special tokens, as offsets from 128000. The offsets between them are reserved.
LLAMA_31_SPECIAL = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
}
LLAMA_31_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TWO_LINES = 271  # Llama 3.1's token for two line breaks
Rows = Mapping[str, Mapping[int, Tensor]]  # tensor -> row -> its values


def write_checkpoint(folder: Path, values: Mapping[str, Any], shards: int, rows: Rows) -> Path:
    """Norms are 1, `rows` as given, all else 0: no layer changes its input. The tower is a copy in the main files."""
    (folder / "clip").mkdir(parents=True)
    files = {"config.json": values, "clip/config.json": CLIP, "clip/preprocessor_config.json": PREPROCESSOR}
    files["generation_config.json"] = {"eos_token_id": values["eos_token_id"], "bos_token_id": values["bos_token_id"]}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    main, tower = shapes(parse_config(values, CLIP, folder))
    every = main | {TOWER_COPY + name: shape for name, shape in tower.items()}
    names = list(every)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        own = names[number * len(names) // shards : (number + 1) * len(names) // shards]
        _write_sparse(folder / file, {name: every[name] for name in own}, rows)
        weight_map |= dict.fromkeys(own, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def write_llama_tokenizer(folder: Path) -> None:
    """A tokenizer like Llama 3.1's: bytes, one merge, 256 special tokens, a begin token before texts, a template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {mark: number for number, mark in enumerate(alphabet)}
    words |= {f"unused {number}": number for number in range(len(words), 128000) if number != TWO_LINES}
    words["ĊĊ"] = TWO_LINES
    tokenizer = Tokenizer(BPE(words, [("Ċ", "Ċ")]))
    lines = pre_tokenizers.Split(Regex(r"\s*[\r\n]+"), "isolated")  # the part of Llama 3's pattern for line breaks
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [lines, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    marks = [LLAMA_31_SPECIAL.get(place, f"<|reserved_special_token_{place}|>") for place in range(256)]
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    begin = [("<|begin_of_text|>", 128000)]
    tokenizer.post_processor = processors.TemplateProcessing("<|begin_of_text|> $A", special_tokens=begin)
    config = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "chat_template": LLAMA_31_TEMPLATE}
    _save(folder, tokenizer, config)


def write_vicuna_tokenizer(folder: Path) -> None:
    """A tokenizer like the first Llama's: words with a mark for the blank, bytes for the rest, no template."""
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for mark in ["▁", "\n", *map(chr, range(ord("!"), ord("~") + 1))]:
        words.setdefault(mark, len(words))
    words |= {f"unused {number}": number for number in range(len(words), 32000)}
    tokenizer = Tokenizer(BPE(words, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    _save(folder, tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def _save(folder: Path, tokenizer: Tokenizer, config: Mapping[str, str]) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    text = json.dumps({**config, "tokenizer_class": "LlamaTokenizer"})
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _write_sparse(path: Path, tensors: Mapping[str, Sequence[int]], rows: Rows) -> None:
    """Writes a safetensors file of bfloat16 in which only non-zero values take disk space."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in tensors.items():
        size = BYTES_16 * int(torch.Size(shape).numel())
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for name, shape in tensors.items():
            filled = dict(rows.get(name, {}))
            if name.endswith("weight") and (any(part in name for part in NORMS) or name == "model.norm.weight"):
                filled = {0: torch.ones(shape[0])}
            for row, values in filled.items():
                file.seek(8 + len(text) + header[name]["data_offsets"][0] + BYTES_16 * row * len(values))
                file.write(values.bfloat16().view(torch.uint8).numpy().tobytes())
