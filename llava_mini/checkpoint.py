"""Reads checkpoints in the released layout: chosen tensors only, from one file or many, from a folder or a hub id."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig

from llava_mini.config import FEATURE_LAYER, LlavaMiniConfig, read_json
from llava_mini.errors import CheckpointError

SAMPLES, SAMPLE_BYTES = 16, 64 * 1024  # read of each weight file for the fingerprint: 1 MiB, whatever its size


class Checkpoint:
    """A folder in the released layout (docs/checkpoints.md); raises CheckpointError."""

    def __init__(self, folder_or_hub_id: str | Path) -> None:
        self.folder = _folder(str(folder_or_hub_id))
        values = read_json(self.folder / "config.json")
        try:
            tower = str(values["mm_vision_tower"])
            self.tower_folder = _tower_folder(self.folder, tower)
            self.config = LlavaMiniConfig(
                text=LlamaConfig.from_dict(values | {"model_type": "llama"}),
                vision=CLIPVisionConfig.from_dict(_vision_values(read_json(self.tower_folder / "config.json"))),
                vision_tower=tower,
                compressor_size=int(values["compressor_size"]),
                prefusion_layers=int(values["prefusion_layer_num"]),
                resolution_ratio=int(values.get("resolution_ratio", 1)),
                feature_layer=int(values.get("mm_vision_select_layer", FEATURE_LAYER)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.folder / 'config.json'} is no LLaVA-Mini configuration: {error!r}") from error
        self._files = _weight_files(self.folder)
        self._tower_files = _weight_files(self.tower_folder)

    def tensors(self, wanted: Callable[[str], bool], dtype: torch.dtype) -> dict[str, Tensor]:
        """The tensors of the language model's files whose name is `wanted`, cast to `dtype`; no other is read."""
        return dict(_read(self._files, wanted, dtype))

    def tower_tensors(self, wanted: Callable[[str], bool], dtype: torch.dtype) -> dict[str, Tensor]:
        """The vision tower's tensors, named from `vision_model.` on."""
        return dict(_read(self._tower_files, wanted, dtype))

    def fingerprint(self) -> str:
        """The identity of the weights, the same whichever half is loaded.

        A hash of names, shapes and places of all tensors (the files' headers), file sizes, 1 MiB sampled evenly from
        each file, and the configurations.
        """
        digest = hashlib.sha256()
        for folder in (self.folder, self.tower_folder):
            digest.update(json.dumps(read_json(folder / "config.json"), sort_keys=True).encode())
            for path in sorted(set(_weight_files(folder).values())):
                _digest_file(path, digest.update)
        return digest.hexdigest()[:16]


def fill(module: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Gives a module built on the meta device its weights; raises CheckpointError naming what does not fit."""
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    missing = sorted(set(wanted) - set(tensors))
    if missing:
        raise CheckpointError(f"{where} lacks {len(missing)} tensors, among them {missing[0]}")
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            found = tuple(tensors[name].shape)
            raise CheckpointError(f"{where}: {name} has shape {found}, but the configuration says {shape}")
    module.load_state_dict({name: tensors[name] for name in wanted}, assign=True)


def _folder(name: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise CheckpointError(f"no checkpoint folder {name}; give a folder or a hub id such as owner/name")
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f"cannot get {name} from the hub, nor is it a folder here: {error}") from error


def _tower_folder(folder: Path, tower: str) -> Path:
    return folder / tower if (folder / tower).is_dir() else _folder(tower)


def _vision_values(values: dict[str, object]) -> dict[str, object]:
    nested = values.get("vision_config")  # a full CLIP checkpoint, as openai/clip-vit-large-patch14-336, nests it
    return nested if isinstance(nested, dict) else values


def _weight_files(folder: Path) -> dict[str, Path]:
    """Tensor name -> file."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict):
            raise CheckpointError(f"{index} has no weight_map")
        return {str(name): folder / str(file) for name, file in names.items()}
    path = folder / "model.safetensors"
    if not path.exists():
        raise CheckpointError(f"{folder} has neither model.safetensors nor model.safetensors.index.json")
    try:
        with safe_open(path, "pt") as file:
            return dict.fromkeys(file.keys(), path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _read(files: Mapping[str, Path], wanted: Callable[[str], bool], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for path in sorted(set(files.values())):
        names = [name for name, place in files.items() if place == path and wanted(name)]
        if not names:
            continue
        try:
            with safe_open(path, "pt") as file:
                for name in names:
                    yield name, file.get_tensor(name).to(dtype)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error


def _digest_file(path: Path, update: Callable[[bytes], None]) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(8)
        update(f"{path.name}:{size}:".encode() + header + file.read(int.from_bytes(header, "little")))
        for k in range(SAMPLES):
            file.seek(max(size - SAMPLE_BYTES, 0) * k // (SAMPLES - 1))
            update(file.read(SAMPLE_BYTES))
