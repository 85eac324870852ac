"""Shows what fits on a card: `python -m llava_mini.plan --gpu-gb 24 --config llava-mini-8b`."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill

import torch

from configs.loading import CONFIG_VARIABLE, SettingsError, list_configs, load_settings
from configs.places import BUNDLED, HUB, list_checkpoints, locate_checkpoint
from configs.settings import Settings
from llava_mini.checkpoint import Checkpoint
from llava_mini.config import LlavaMiniConfig
from llava_mini.context_limit import frames_that_fit
from llava_mini.cost import ByteCosts, byte_costs, llava_flops, our_flops, plain_flops
from llava_mini.errors import ModelError
from llava_mini.placement import DTYPES, resolve_dtype
from llava_mini.quantize import WEIGHTS, Weights
from llava_mini.shapes import RELEASED, SHAPES
from llava_mini.text_table import table

GB, GIB, MIB = 10**9, 2**30, 2**20
TEXT_TOKENS = 43  # as in the paper's counts (docs/design.md, costs)
PROMPT_TOKENS = 256  # a long question and the turns before it
# A 3090 of 24,576 MiB offers 24,268 MiB (nvidia-smi in pytorch/pytorch #54564): the driver keeps the rest.
DRIVER_BYTES = 308 * MIB
# A CUDA process takes about 400 MB if kernels load lazily (pytorch/pytorch #109888, #107667: 300 MB). Half as much
# again is for the kernels it loads later and for cuBLAS's workspaces.
CONTEXT_BYTES, PROCESSES = 600 * 10**6, 2
FRAGMENTS = 0.10  # allowance for free blocks that fit nothing else, as a share of the memory that comes and goes
WIDTH = 100  # columns of a terminal that the plan needs
USUAL = "llava-mini-8b"  # the subject if neither an option nor the environment names one


@dataclass(frozen=True)
class Load:
    """The load that the settings allow on both processes."""

    dtype: torch.dtype
    weights: Weights
    batch_frames: int
    prefix_cache_bytes: int
    new_tokens: int
    questions: int  # answered at once

    @classmethod
    def from_settings(cls, settings: Settings) -> "Load":
        """Reads the load from the settings."""
        model, reasoner = settings.model, settings.reasoner
        return cls(
            resolve_dtype(model.dtype),
            model.language_weights,
            settings.encoder.batch_frames,
            reasoner.prefix_cache_mb * MIB,
            reasoner.max_tokens,
            reasoner.concurrent_questions,
        )


@dataclass(frozen=True)
class MemoryPlan:
    """What one card holds, with both processes on it."""

    load: Load
    costs: ByteCosts
    parts: dict[str, int]  # bytes taken before a question has its first frame
    per_position: int  # bytes: keys and values of every question, and one copy while they grow
    frames_in_memory: int
    frames: int  # that also fit the context

    @property
    def used_bytes(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


def plan(card_bytes: int, config: LlavaMiniConfig, load: Load) -> MemoryPlan:
    """How long a stretch each concurrent question can have on a card, beside everything else in memory.

    Each question holds its own keys and values over the whole stretch, because appending to a kept prefix copies it.
    """
    costs = byte_costs(config, load.dtype, load.weights, batch_frames=load.batch_frames, text_tokens=PROMPT_TOKENS)
    per_position = int((costs.cache_per_position * load.questions + costs.copy_per_position) * (1 + FRAGMENTS))
    coming_and_going = {
        "batch": costs.encode_batch,
        "prefixes": load.prefix_cache_bytes,
        "prefill": costs.prefill,
    }
    parts = {
        "CUDA": DRIVER_BYTES + PROCESSES * CONTEXT_BYTES,
        "vision": costs.vision_weights,
        "language": costs.language_weights,
        **coming_and_going,
        "question": per_position * (PROMPT_TOKENS + load.new_tokens),
        "fragments": int(FRAGMENTS * sum(coming_and_going.values())),
    }
    in_memory = max(card_bytes - sum(parts.values()), 0) // (per_position * config.tokens_per_frame)
    in_context = frames_that_fit(config.context, config.tokens_per_frame, PROMPT_TOKENS, load.new_tokens)
    return MemoryPlan(load, costs, parts, per_position, in_memory, min(in_memory, in_context))


def format_plan(gpu_gib: float, config: LlavaMiniConfig, load: Load) -> str:
    """Formats both tables as text. A star marks the weights that the settings choose."""
    card_bytes = int(gpu_gib * GIB)
    plans = [plan(card_bytes, config, replace(load, weights=weights)) for weights in WEIGHTS]
    columns = [f"{p.load.weights}{' *' if p.load.weights == load.weights else ''}" for p in plans]
    memory = table(
        ["GB, by the weights of the language model", *columns],
        [
            *([name, *(f"{p.parts[name] / GB:.2f}" for p in plans)] for name in plans[0].parts),
            ["in use", *(f"{p.used_bytes / GB:.1f}{': too much' * (p.used_bytes > card_bytes)}" for p in plans)],
            ["frames in memory", *(p.frames_in_memory for p in plans)],
            ["frames, also within the context", *(p.frames for p in plans)],
            ["at 1 fps", *(f"{p.frames / 3600:.1f} h" for p in plans)],
        ],
    )
    costs, C = plans[0].costs, config.tokens_per_frame
    beside = (
        f"Memory on a card of {gpu_gib:g} GB ({card_bytes / GB:.2f}e9 bytes) with the encoder and the reasoner on"
        f" it: {load.dtype}, {load.batch_frames} frames a batch, {load.prefix_cache_bytes // MIB} MiB of prefixes,"
        f" {load.questions} questions at once, each with a prompt of {PROMPT_TOKENS} and an answer of"
        f" {load.new_tokens} tokens. Activations are estimates."
    )
    frame = (
        f"A frame takes {costs.cache_per_position * C / 1e6:.2f} MB of key/value cache in a"
        f" kept prefix, {plans[0].per_position * C / 1e6:.2f} MB more while it is asked about,"
        f" and {costs.token_per_frame / 1e3:.1f} kB in a record. The context holds {config.context} positions."
    )
    flops = f"TFLOP of one picture and a question of {TEXT_TOKENS} tokens (multiply-adds count as two)"
    return "\n\n".join([fill(beside, WIDTH), memory, fill(frame, WIDTH), fill(flops, WIDTH), format_flops(config)])


def format_flops(config: LlavaMiniConfig) -> str:
    """Formats the table of operations as text."""
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


def find_subject(name: str) -> tuple[LlavaMiniConfig, Settings]:
    """Finds the shape and settings for `name`: a settings file, a known shape or a checkpoint.

    The last two get the default settings in bfloat16. Raises ModelError, SettingsError.
    """
    plain = Settings()
    assumed = plain.model_copy(update={"model": plain.model.model_copy(update={"dtype": "bfloat16"})})
    if Path(name).is_dir() or name in [BUNDLED + known for known in list_checkpoints()]:
        return _find_shape(locate_checkpoint(name)), assumed
    if name.startswith(HUB) and name.removeprefix(HUB) in RELEASED:
        return _find_shape(name), assumed
    if name in list_configs() or Path(name).is_file():
        settings = load_settings(name)
        return _find_shape(settings.model.checkpoint), settings
    if name in SHAPES:
        return SHAPES[name](), assumed
    raise SettingsError(_describe_subjects(name))


def _find_shape(checkpoint: str) -> LlavaMiniConfig:
    released = RELEASED.get(checkpoint.removeprefix(HUB))
    return released() if released else Checkpoint(checkpoint).config.with_attention("eager")


def _describe_subjects(unknown: str) -> str:
    checkpoints = ", ".join([*(BUNDLED + name for name in list_checkpoints()), *(HUB + name for name in RELEASED)])
    return (
        f"unknown configuration {unknown!r}; give a settings file or the name of a bundled one "
        f"({', '.join(list_configs())}), a shape ({', '.join(SHAPES)}), a checkpoint's folder, or one of {checkpoints}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the plan; returns 1 if the configuration cannot be read."""
    parser = argparse.ArgumentParser(prog="longwatch plan", description=__doc__)
    parser.add_argument(
        "--gpu-gb", type=float, default=24.0, help="the card's nominal memory: 24 means 24 GiB, 25.77e9 bytes"
    )
    parser.add_argument(
        "--config",
        help=f"a settings file, a shape or a checkpoint; default: {CONFIG_VARIABLE}, or else {USUAL}",
    )
    parser.add_argument("--dtype", choices=list(DTYPES), help="overrides the settings")
    parser.add_argument("--batch-frames", type=int, help="overrides the settings")
    given = parser.parse_args(arguments)
    try:
        config, settings = find_subject(given.config or os.environ.get(CONFIG_VARIABLE) or USUAL)
        load = Load.from_settings(settings)
        if given.dtype:
            load = replace(load, dtype=resolve_dtype(given.dtype))
        if given.batch_frames:
            load = replace(load, batch_frames=given.batch_frames)
        text = format_plan(given.gpu_gb, config, load)
    except (ModelError, SettingsError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
