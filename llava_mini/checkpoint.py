"""Reads chosen tensors of a checkpoint in the released layout: one file or many, in a folder or on the hub."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from configs.places import HUB, HUB_ID
from llava_mini.config import parse_config, read_json
from llava_mini.errors import CheckpointError
from llava_mini.fingerprint import fingerprint

EMBEDDINGS = "model.embed_tokens.weight"
VISION_PREFIXES = ("model.compressor.", "model.mm_projector.", "model.prefusion_layers.")
LANGUAGE_PREFIXES = ("model.layers.", "model.norm.", "lm_head.")
TOWER = "vision_model."
TOWER_COPY = "model.vision_tower.vision_tower."  # prefix of the tower's copy in the main files
COMPUTED = "rotary_emb.inv_freq"  # stored by old Llama checkpoints, computed here

Wanted = Callable[[str], bool]


class Checkpoint:
    """A checkpoint as the public code's `save_pretrained` writes it (golden/README.md): a folder, or `hub:owner/name`.

    Raises CheckpointError. A folder that does not exist is never looked up on the hub.
    """

    def __init__(self, folder_or_hub_id: str | Path) -> None:
        self.folder = _find_folder(str(folder_or_hub_id))
        values = read_json(self.folder / "config.json")
        files = _list_weights(self.folder)
        if not files:
            raise CheckpointError(f"{self.folder} has neither model.safetensors nor model.safetensors.index.json")
        _refuse_unknown(files, self.folder)
        has_copy = any(name.startswith(TOWER_COPY) for name in files)
        self.tower_folder = _find_tower_folder(self.folder, str(values.get("mm_vision_tower")), has_copy)
        tower_config = self.tower_folder / "config.json"
        self.config = parse_config(values, read_json(tower_config), self.folder / "config.json")
        self._files = {name: path for name, path in files.items() if not name.startswith(TOWER_COPY)}
        self._tower_files = _list_weights(self.tower_folder)
        self._tower_prefix = ""
        if not self._tower_files:  # the tower's folder holds only its configuration
            self._tower_files = {name: path for name, path in files.items() if name.startswith(TOWER_COPY)}
            self._tower_prefix = TOWER_COPY
        if not self._tower_files:
            raise CheckpointError(f"neither {self.tower_folder} nor {self.folder} holds the vision tower's weights")

    def read_tensors(self, wanted: Wanted, dtype: torch.dtype) -> dict[str, Tensor]:
        """Reads the `wanted` tensors of the main files, and no others, and casts them to `dtype`."""
        return dict(_read_files(self._files, wanted, dtype))

    def read_tower_tensors(self, wanted: Wanted, dtype: torch.dtype) -> dict[str, Tensor]:
        """Reads the `wanted` tensors of the vision tower; their names have no prefix `vision_model.`."""
        prefix = self._tower_prefix + TOWER
        found = _read_files(self._tower_files, lambda n: n.startswith(prefix) and wanted(n.removeprefix(prefix)), dtype)
        return {name.removeprefix(prefix): value for name, value in found}

    def compute_fingerprint(self) -> str:
        """Identifies the weights. The result does not depend on the loaded half or on how the files are sharded."""
        tower = {name: path for name, path in self._tower_files.items() if TOWER in name}
        described = ("config.json", "preprocessor_config.json")
        texts = [self.folder / "config.json", *(self.tower_folder / name for name in described)]
        return fingerprint([read_json(path) for path in texts if path.exists()], self._files, tower)


def _find_folder(name: str) -> Path:
    if name.startswith(HUB):
        return _download(name.removeprefix(HUB), ("*.json", "*.safetensors", "*.model", "*.jinja"))
    folder = Path(name)
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no checkpoint folder {folder.absolute()}; give an existing one, bundled:tiny or {HUB}owner/name"
        )
    return folder


def _find_tower_folder(folder: Path, tower: str, has_copy: bool) -> Path:
    """Finds the tower inside the checkpoint, else on the hub; skips its weights if the checkpoint has a copy of them.

    `tower` is the value in the checkpoint's config.json. As in the public code, it is a folder or a hub id.
    """
    inside = folder / tower
    if inside.is_dir():
        return inside
    if not HUB_ID.fullmatch(tower) or inside.parent.is_dir():
        raise CheckpointError(f"there is no folder {inside}, which mm_vision_tower in {folder / 'config.json'} names")
    return _download(tower, ("*.json",) if has_copy else ("*.json", "*.safetensors"))


def _download(hub_id: str, patterns: Sequence[str]) -> Path:
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f"cannot get {hub_id} from the hub: {error}") from error


def _list_weights(folder: Path) -> dict[str, Path]:
    """Tensor name -> file; empty if the folder holds no weights."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.exists():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict):
            raise CheckpointError(f"{index} has no weight_map")
        return {str(name): folder / str(file) for name, file in names.items()}
    if not single.exists():
        return {}
    try:
        with safe_open(single, "pt") as file:
            return dict.fromkeys(file.keys(), single)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{single} is damaged: {error}") from error


def _refuse_unknown(files: Mapping[str, Path], folder: Path) -> None:
    known = (EMBEDDINGS, TOWER_COPY, *VISION_PREFIXES, *LANGUAGE_PREFIXES)
    for name, path in files.items():
        if not name.startswith(known):
            raise CheckpointError(f"{path}: {name} is not a tensor of this architecture")
    if EMBEDDINGS not in files:
        raise CheckpointError(f"{folder} lacks {EMBEDDINGS}")


def _read_files(files: Mapping[str, Path], wanted: Wanted, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for path in sorted(set(files.values())):
        names = [name for name, place in files.items() if place == path and wanted(name)]
        if not names:
            continue
        try:
            with safe_open(path, "pt") as file:
                for name in names:
                    yield name, file.get_tensor(name).to(dtype)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or incomplete: {error}") from error
