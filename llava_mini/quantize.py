"""8-bit and 4-bit weights for the language half, by bitsandbytes."""

import importlib.util
from typing import Any, Literal

import torch
from torch import nn
from transformers import LlamaForCausalLM

from llava_mini.errors import DeviceError

Weights = Literal["full", "int8", "int4"]


def quantized(llm: LlamaForCausalLM, weights: Weights, device: torch.device) -> LlamaForCausalLM:
    """The LLM on `device`, the linear weights of its layers in 8 or 4 bits; raises DeviceError."""
    if weights != "full":
        _require(weights, device)
        for layer in llm.model.layers:
            for parent in (layer.self_attn, layer.mlp):
                for name, child in list(parent.named_children()):
                    if isinstance(child, nn.Linear):
                        setattr(parent, name, _linear(child, weights))
    module: nn.Module = llm
    module.to(device)  # bitsandbytes quantises on the way to the device
    return llm


def _require(weights: Weights, device: torch.device) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise DeviceError(f"language_weights: {weights} needs bitsandbytes: install the `gpu` extra, or use full")
    if device.type != "cuda":
        raise DeviceError(f"language_weights: {weights} needs a CUDA device, not {device}; use full")


def _linear(plain: nn.Linear, weights: Weights) -> nn.Module:
    import bitsandbytes as bnb

    linear: nn.Module
    shape: dict[str, Any] = {"bias": plain.bias is not None, "device": "cpu"}
    if weights == "int8":
        linear = bnb.nn.Linear8bitLt(plain.in_features, plain.out_features, has_fp16_weights=False, **shape)
        linear.weight = bnb.nn.Int8Params(plain.weight.data, requires_grad=False, has_fp16_weights=False)
    else:
        linear = bnb.nn.Linear4bit(
            plain.in_features, plain.out_features, compute_dtype=plain.weight.dtype, quant_type="nf4", **shape
        )
        linear.weight = bnb.nn.Params4bit(plain.weight.data, requires_grad=False, quant_type="nf4")
    if plain.bias is not None:
        linear.bias = plain.bias
    return linear
