"""Chooses the device, dtype and attention implementation, and refuses those that this machine cannot run."""

from typing import Literal

import torch
from transformers.utils.import_utils import is_flash_attn_2_available

from llava_mini.errors import DeviceError

Attention = Literal["auto", "flash_attention_2", "sdpa", "eager"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FLASH_DTYPES = (torch.bfloat16, torch.float16)  # what flash-attn's kernels take


def resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A dtype by name; raises DeviceError."""
    kind = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if kind is None or kind not in DTYPES.values():
        raise DeviceError(f"dtype {dtype} is not one of {', '.join(DTYPES)}")
    return kind


def resolve_device(device: str | torch.device) -> torch.device:
    """`auto` takes CUDA if there is a GPU; raises DeviceError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"no device {device!r}: {error}") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device cuda was asked for, but torch sees no GPU; use auto, or install torch for CUDA")
    return place


def resolve_attention(attention: Attention, device: torch.device, dtype: torch.dtype) -> str:
    """Resolves `auto` to an implementation; raises DeviceError if the requested one cannot run."""
    flash = device.type == "cuda" and dtype in FLASH_DTYPES and is_flash_attn_2_available()
    if attention == "auto":
        return "flash_attention_2" if flash else "sdpa"
    if attention == "flash_attention_2" and not flash:
        raise DeviceError(
            "flash_attention_2 needs CUDA, a 16-bit dtype and the `gpu` extra (flash-attn); use attention: auto"
        )
    if attention not in ("flash_attention_2", "sdpa", "eager"):
        raise DeviceError(f"attention {attention!r} is not one of auto, flash_attention_2, sdpa, eager")
    return attention
