"""Says what fits on a card: `python -m llava_mini.plan --gpu-gb 24 --config llava-mini-8b`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from configs.loading import SettingsError, load_settings
from llava_mini.checkpoint import Checkpoint
from llava_mini.config import LlavaMiniConfig
from llava_mini.context_limit import frames_that_fit
from llava_mini.cost import ByteCosts, byte_costs, llava_flops, our_flops, plain_flops
from llava_mini.errors import ModelError
from llava_mini.placement import DTYPES, resolve_dtype
from llava_mini.quantize import WEIGHTS, Weights
from llava_mini.shapes import SHAPES
from llava_mini.tables import table

GB = 10**9
TEXT_TOKENS = 43  # of the paper's counts (docs/design.md, costs)
PROMPT_TOKENS, NEW_TOKENS = 256, 512  # a long question with the turns before it, and its answer
RESERVE_GB = 1.0  # CUDA's own context and kernels, and fragmentation


@dataclass(frozen=True)
class MemoryPlan:
    """What one card holds, with both halves on it."""

    weights: Weights
    costs: ByteCosts
    used_gb: float  # before the first frame of a stretch
    frames_in_memory: int
    frames: int  # also within the context


def plan(
    gpu_gb: float, config: LlavaMiniConfig, *, dtype: torch.dtype, weights: Weights, batch_frames: int
) -> MemoryPlan:
    """How long a stretch a card of `gpu_gb` (10^9 bytes) takes while it also encodes `batch_frames` at a time."""
    costs = byte_costs(config, dtype, weights, PROMPT_TOKENS)
    per_position = costs.cache_per_position + costs.prefill_per_position
    used = costs.vision_weights + costs.language_weights + costs.encode_per_frame * batch_frames
    used += per_position * (PROMPT_TOKENS + NEW_TOKENS) + int(RESERVE_GB * GB)
    in_memory = max(int(gpu_gb * GB) - used, 0) // (per_position * config.tokens_per_frame)
    in_context = frames_that_fit(config.context, config.tokens_per_frame, PROMPT_TOKENS, NEW_TOKENS)
    return MemoryPlan(weights, costs, used / GB, in_memory, min(in_memory, in_context))


def format_plan(gpu_gb: float, config: LlavaMiniConfig, dtype: torch.dtype, batch_frames: int) -> str:
    """Both tables, as text."""
    plans = [plan(gpu_gb, config, dtype=dtype, weights=weights, batch_frames=batch_frames) for weights in WEIGHTS]
    costs = plans[0].costs
    memory = table(
        ["language weights", "language GB", "vision GB", "in use GB", "frames in memory", "frames", "at 1 fps"],
        [
            [
                p.weights,
                f"{p.costs.language_weights / GB:.1f}",
                f"{p.costs.vision_weights / GB:.1f}",
                f"{p.used_gb:.1f}" if p.used_gb <= gpu_gb else f"{p.used_gb:.1f}: too much",
                p.frames_in_memory,
                p.frames,
                f"{p.frames / 3600:.1f} h",
            ]
            for p in plans
        ],
    )
    return "\n".join(
        [
            f"Memory on a card of {gpu_gb:g} GB, both halves on it, {dtype}, {batch_frames} frames a batch"
            f" ({costs.encode_per_frame * batch_frames / GB:.1f} GB), prompt {PROMPT_TOKENS} + answer {NEW_TOKENS}"
            f" tokens, {RESERVE_GB:g} GB for CUDA. Activations are estimates.",
            "",
            memory,
            "",
            f"A frame takes {costs.cache_per_position * config.tokens_per_frame / 1e6:.2f} MB of key/value cache while"
            f" it is asked about, and {costs.token_per_frame / 1e3:.1f} kB in a record. The context holds"
            f" {config.context} positions.",
            "",
            f"TFLOP of one picture and a question of {TEXT_TOKENS} tokens (multiply-adds count as two)",
            "",
            format_flops(config),
        ]
    )


def format_flops(config: LlavaMiniConfig) -> str:
    """The table of operations, as text."""
    counted = {
        "LLaVA-1.5": llava_flops(config, TEXT_TOKENS),
        "LLaVA-Mini, public code": plain_flops(config, TEXT_TOKENS),
        "LLaVA-Mini, here": our_flops(config, TEXT_TOKENS),
    }
    parts = ("tower", "compressor", "projection", "prefusion", "language", "total")
    return table(
        ["", "vision tower", "compressor", "projector", "pre-fusion", "LLM", "total"],
        [[name, *(f"{getattr(flops, part) / 1e12:.3f}" for part in parts)] for name, flops in counted.items()],
    )


def find_config(name: str) -> LlavaMiniConfig:
    """A known shape, a checkpoint's folder, or the checkpoint of a settings file. Raises ModelError, SettingsError."""
    if name in SHAPES:
        return SHAPES[name]()
    folder = name if Path(name).is_dir() else load_settings(name).model.checkpoint
    return Checkpoint(folder).config.with_attention("eager")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the plan; 1 where the configuration cannot be read."""
    parser = argparse.ArgumentParser(prog="longwatch plan", description=__doc__)
    parser.add_argument("--gpu-gb", type=float, default=24.0, help="memory of the card in 10^9 bytes")
    parser.add_argument(
        "--config", default="llava-mini-8b", help=f"{', '.join(SHAPES)}, a checkpoint's folder, or a settings file"
    )
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    parser.add_argument("--batch-frames", type=int, default=32)
    given = parser.parse_args(arguments)
    try:
        text = format_plan(given.gpu_gb, find_config(given.config), resolve_dtype(given.dtype), given.batch_frames)
    except (ModelError, SettingsError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
