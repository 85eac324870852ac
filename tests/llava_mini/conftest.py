"""The golden checkpoints, and variants of the same sizes. Weights follow the recipe of the golden data."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from benchmarks.recipe import random_tensor, with_config, write_checkpoint
from llava_mini.checkpoint import TOWER_COPY
from llava_mini.config import read_json
from llava_mini.model import LlavaMini

GOLDEN = Path(__file__).parent / "golden"
METADATA = {"format": "pt"}

MakeCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def folder_a(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint A as the public `save_pretrained` wrote it. The tower's own file is made from the copy inside."""
    folder = shutil.copytree(GOLDEN / "A", tmp_path_factory.mktemp("golden") / "A")
    tensors = load_file(folder / "model.safetensors")
    tower = {name.removeprefix(TOWER_COPY): value for name, value in tensors.items() if name.startswith(TOWER_COPY)}
    save_file(tower, folder / "clip" / "model.safetensors", METADATA)
    return folder


@pytest.fixture(scope="session")
def folder_b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint B, made by its recipe."""
    folder = tmp_path_factory.mktemp("golden") / "B"
    write_checkpoint(GOLDEN / "B", folder, seed=1002, std=0.10, positions=np.load(GOLDEN / "B" / "pos_embed.npy"))
    return folder


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """Makes a checkpoint of B's size with some values of config.json changed."""

    def make(seed: int = 7, **changes: object) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        shape = with_config(GOLDEN / "B", folder / "shape", **changes)
        size = int(read_json(shape / "config.json")["compressor_size"])
        width = int(read_json(shape / "clip" / "config.json")["hidden_size"])
        positions = random_tensor("positions", (size * size, width), seed, 0.5)
        write_checkpoint(shape, folder / "made", seed=seed, std=0.10, positions=positions)
        return folder / "made"

    return make


@pytest.fixture(scope="session")
def model_a(folder_a: Path) -> LlavaMini:
    return LlavaMini.from_pretrained(folder_a)


@pytest.fixture(scope="session")
def model_b(folder_b: Path) -> LlavaMini:
    return LlavaMini.from_pretrained(folder_b)
