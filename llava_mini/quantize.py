"""8-bit and 4-bit weights for the language half, by bitsandbytes."""

import importlib.util
from typing import Any, Literal

import torch
from torch import nn
from transformers import LlamaForCausalLM

from llava_mini.errors import DeviceError

Weights = Literal["full", "int8", "int4"]
WEIGHTS: tuple[Weights, ...] = ("full", "int8", "int4")
DEVICES = ("cuda", "cpu")  # bitsandbytes has kernels for these
INT8_THRESHOLD = 6.0  # inputs beyond it are multiplied in 16 bits (LLM.int8(), arXiv 2208.07339, section 3.2)


def quantize(llm: LlamaForCausalLM, weights: Weights, device: torch.device) -> LlamaForCausalLM:
    """Moves the LLM to `device`, with its layers' linear weights in 8 or 4 bits; raises DeviceError."""
    if weights != "full":
        _require_device(weights, device)
        for layer in llm.model.layers:
            for parent in (layer.self_attn, layer.mlp):
                for name, child in list(parent.named_children()):
                    if isinstance(child, nn.Linear):
                        setattr(parent, name, _make_linear(child, weights))
    module: nn.Module = llm
    module.to(device)  # bitsandbytes quantises on the way to the device
    return llm


def _require_device(weights: Weights, device: torch.device) -> None:
    if weights not in WEIGHTS:
        raise DeviceError(f"language_weights {weights!r} is not one of {', '.join(WEIGHTS)}")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise DeviceError(f"language_weights: {weights} needs bitsandbytes: install the `gpu` extra, or use full")
    if device.type not in DEVICES:
        raise DeviceError(f"language_weights: {weights} runs on {' or '.join(DEVICES)}, not on {device}; use full")


def _make_linear(plain: nn.Linear, weights: Weights) -> nn.Module:
    import bitsandbytes as bnb

    linear: nn.Module
    shape: dict[str, Any] = {"bias": plain.bias is not None, "device": "cpu"}
    if weights == "int8":
        linear = bnb.nn.Linear8bitLt(
            plain.in_features, plain.out_features, has_fp16_weights=False, threshold=INT8_THRESHOLD, **shape
        )
        linear.weight = bnb.nn.Int8Params(plain.weight.data, requires_grad=False, has_fp16_weights=False)
    else:
        kind: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": True}  # QLoRA, arXiv 2305.14314, section 3
        linear = bnb.nn.Linear4bit(
            plain.in_features, plain.out_features, compute_dtype=plain.weight.dtype, **kind, **shape
        )
        linear.weight = bnb.nn.Params4bit(plain.weight.data, requires_grad=False, **kind)
    if plain.bias is not None:
        linear.bias = plain.bias
    return linear
