"""Loads checkpoints: each half alone, one file or many, and clear errors if something is wrong."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from benchmarks.recipe import write_checkpoint
from llava_mini.checkpoint import EMBEDDINGS, LANGUAGE_PREFIXES, TOWER_COPY, VISION_PREFIXES, Checkpoint, Wanted
from llava_mini.errors import CheckpointError, DeviceError, PartMissing
from llava_mini.model import LlavaMini
from llava_mini.placement import resolve_attention
from llava_mini.quantize import Weights
from llava_mini.weights import load_embeddings, load_language, load_vision
from tests.llava_mini.conftest import GOLDEN, METADATA, MakeCheckpoint
from tests.llava_mini.test_parity import golden


class Watched(Checkpoint):
    """A checkpoint that remembers which tensors were read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.read: set[str] = set()
        self.read_of_tower: set[str] = set()

    def read_tensors(self, wanted: Wanted, dtype: torch.dtype) -> dict[str, Tensor]:
        found = super().read_tensors(wanted, dtype)
        self.read |= found.keys()
        return found

    def read_tower_tensors(self, wanted: Wanted, dtype: torch.dtype) -> dict[str, Tensor]:
        found = super().read_tower_tensors(wanted, dtype)
        self.read_of_tower |= found.keys()
        return found


def edited(folder: Path, target: Path, edit: Callable[[dict[str, Tensor]], object]) -> Path:
    """Copies a checkpoint and edits its main tensors."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    edit(tensors)
    save_file(tensors, target / "model.safetensors", METADATA)
    return target


def sharded(folder: Path, target: Path, shards: int) -> Path:
    """Copies a checkpoint and spreads its tensors over files with the names that `save_pretrained` gives."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {
        name: f"model-{i * shards // len(names) + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(names)
    }
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, target / file, METADATA)
    index = {"metadata": {}, "weight_map": files}
    (target / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return target


def test_the_recipe_gives_the_golden_weights_bit_for_bit(tmp_path: Path) -> None:
    expected = load_file(GOLDEN / "A" / "model.safetensors")
    positions = expected["model.compressor.pos_embed"].numpy()
    write_checkpoint(GOLDEN / "A", tmp_path / "made", seed=1001, std=0.10, positions=positions)
    made = load_file(tmp_path / "made" / "model.safetensors")
    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], expected[name]) for name in expected)


def test_the_vision_half_reads_only_its_own_tensors_and_the_embeddings(folder_a: Path) -> None:
    checkpoint = Watched(folder_a)
    load_vision(checkpoint, torch.float32, "sdpa")
    load_embeddings(checkpoint, torch.float32)
    assert all(name.startswith(VISION_PREFIXES) for name in checkpoint.read - {EMBEDDINGS})
    last = f"encoder.layers.{checkpoint.config.vision.num_hidden_layers - 1}."
    assert checkpoint.read_of_tower
    assert not any(name.startswith((last, "post_layernorm")) for name in checkpoint.read_of_tower)


def test_the_language_half_reads_only_its_own_tensors_and_the_embeddings(folder_a: Path) -> None:
    checkpoint = Watched(folder_a)
    load_language(checkpoint, torch.float32, "sdpa", load_embeddings(checkpoint, torch.float32))
    assert all(name.startswith(LANGUAGE_PREFIXES) for name in checkpoint.read - {EMBEDDINGS})
    assert not checkpoint.read_of_tower


def test_each_half_alone_gives_the_same_as_both_together(folder_a: Path, model_a: LlavaMini) -> None:
    expected = golden("A_video")
    vision = LlavaMini.from_pretrained(folder_a, parts=("vision",))
    language = LlavaMini.from_pretrained(folder_a, parts=("language",))
    assert vision.fingerprint == language.fingerprint == model_a.fingerprint
    pixels, texts = expected["pixel_values"], [expected["input_ids"][0].tolist()]
    assert_close(vision.encode(pixels, texts).fused[0], model_a.encode(pixels, texts).fused[0], atol=1e-5, rtol=0)
    embeds = expected["inputs_embeds"]
    logits = [m.language.advance(m.language.make_cache(), embeds) for m in (language, model_a)]
    assert_close(*logits, atol=1e-5, rtol=0)
    with pytest.raises(PartMissing, match="language"):
        _ = vision.language
    with pytest.raises(PartMissing, match="vision"):
        language.encode(pixels)


def test_a_sharded_checkpoint_gives_the_same_as_a_single_file(
    folder_a: Path, tmp_path: Path, model_a: LlavaMini
) -> None:
    spread = LlavaMini.from_pretrained(sharded(folder_a, tmp_path / "sharded", 4))
    case = golden("A_image")
    ours, theirs = (m.trace(case["pixel_values"], case["input_ids"], 2) for m in (spread, model_a))
    assert spread.fingerprint == model_a.fingerprint
    for name in theirs:
        assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-5)


def test_the_copy_of_the_tower_is_used_if_its_folder_has_no_weights(
    folder_a: Path, tmp_path: Path, model_a: LlavaMini
) -> None:
    folder = shutil.copytree(folder_a, tmp_path / "copy")
    (folder / "clip" / "model.safetensors").unlink()
    pixels = golden("A_video")["pixel_values"]
    tokens = LlavaMini.from_pretrained(folder).encode(pixels).tokens
    assert_close(tokens, model_a.encode(pixels).tokens, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["model.prefusion_layers.1.mlp.up_proj.weight", "lm_head.weight"])
def test_one_changed_number_changes_the_fingerprint(
    name: str, folder_a: Path, tmp_path: Path, model_a: LlavaMini
) -> None:
    other = edited(folder_a, tmp_path / "other", lambda tensors: tensors[name][-1, -1].add_(1e-3))
    assert Checkpoint(other).compute_fingerprint() != model_a.fingerprint


def test_a_changed_configuration_changes_the_fingerprint(make_checkpoint: MakeCheckpoint) -> None:
    prints = {Checkpoint(make_checkpoint(rms_norm_eps=eps)).compute_fingerprint() for eps in (1e-5, 1e-6)}
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda t: t.pop("model.compressor.query"), "model.safetensors|compressor.query"),
        (lambda t: t.pop("model.layers.2.mlp.up_proj.weight"), r"layers\.2\.mlp\.up_proj\.weight"),
        (lambda t: t.pop("model.embed_tokens.weight"), "embed_tokens"),
        (lambda t: t.update({"model.surprise": torch.zeros(1)}), r"model\.safetensors: model\.surprise"),
        (lambda t: t.update({"model.layers.9.x": torch.zeros(1)}), r"no place for.*model\.layers\.9\.x"),
        (lambda t: t.update({"model.compressor.x": torch.zeros(1)}), r"no place for.*compressor\.x"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(3)}), r"norm\.weight has shape \(3,\)"),
        (lambda t: t.update({"model.embed_tokens.weight": torch.zeros(3, 64)}), r"embed_tokens\.weight has shape"),
    ],
)
def test_the_error_names_a_tensor_that_does_not_fit(
    edit: Callable[[dict[str, Tensor]], object], named: str, folder_a: Path, tmp_path: Path
) -> None:
    folder = edited(folder_a, tmp_path / "edited", edit)
    with pytest.raises(CheckpointError, match=named) as caught:
        LlavaMini.from_pretrained(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("file", ["model.safetensors", "clip/model.safetensors"])
@pytest.mark.parametrize("length", [0, 5, 3000, -1000])
def test_the_error_names_a_damaged_file(file: str, length: int, folder_a: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folder_a, tmp_path / "damaged")
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[:length])
    with pytest.raises(CheckpointError, match=file):
        LlavaMini.from_pretrained(folder)


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "clip/config.json", "clip/preprocessor_config.json"]
)
def test_the_error_names_a_missing_file(file: str, folder_a: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folder_a, tmp_path / "missing")
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=Path(file).name):
        LlavaMini.from_pretrained(folder)


def test_the_error_names_a_missing_shard(folder_a: Path, tmp_path: Path) -> None:
    folder = sharded(folder_a, tmp_path / "sharded", 3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00003"):
        LlavaMini.from_pretrained(folder)


def test_a_tower_without_any_weights_is_refused(folder_a: Path, tmp_path: Path) -> None:
    def drop(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(TOWER_COPY)]:
            del tensors[name]

    folder = edited(folder_a, tmp_path / "blind", drop)
    (folder / "clip" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="vision tower"):
        LlavaMini.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"mm_projector_type": "linear"}, "mm_projector_type"), ({"compressor_size": "many"}, "many")],
)
def test_a_configuration_that_is_not_implemented_is_refused(
    changes: dict[str, object], named: str, folder_a: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(folder_a, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | changes
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=named):
        LlavaMini.from_pretrained(folder)


def test_the_error_names_a_missing_folder() -> None:
    with pytest.raises(CheckpointError, match="/no/such/folder"):
        LlavaMini.from_pretrained("/no/such/folder")


def test_a_device_dtype_or_library_that_is_missing_is_refused(folder_a: Path) -> None:
    with pytest.raises(DeviceError, match="flash"):
        LlavaMini.from_pretrained(folder_a, attention="flash_attention_2")
    with pytest.raises(DeviceError, match="float8"):
        LlavaMini.from_pretrained(folder_a, dtype="float8")
    with pytest.raises(DeviceError, match="warp"):
        LlavaMini.from_pretrained(folder_a, device="warp")


def test_a_package_named_flash_attn_alone_does_not_select_flash_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An importable package may have another version, or be built for another machine."""
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("flash_attn") is not None
    assert resolve_attention("auto", torch.device("cuda"), torch.bfloat16) == "sdpa"
    with pytest.raises(DeviceError, match="flash-attn"):
        resolve_attention("flash_attention_2", torch.device("cuda"), torch.bfloat16)


@pytest.mark.parametrize(("weights", "tolerance"), [("int8", 0.05), ("int4", 0.5)])
def test_quantised_weights_stay_close_or_the_error_says_what_they_need(
    weights: Weights, tolerance: float, folder_a: Path, model_a: LlavaMini
) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(DeviceError, match=f"{weights} needs bitsandbytes"):
            LlavaMini.from_pretrained(folder_a, language_weights=weights)
        return
    language = LlavaMini.from_pretrained(folder_a, language_weights=weights, parts=("language",)).language
    embeds = golden("A_video")["inputs_embeds"]
    smaller, full = (half.advance(half.make_cache(), embeds) for half in (language, model_a.language))
    assert (smaller - full).norm() < tolerance * full.norm()
    assert "int8" in str(language.llm.model.layers[0].mlp.up_proj.weight.dtype)


def test_bfloat16_stays_close_to_float32(folder_a: Path) -> None:
    case = golden("A_video")
    model = LlavaMini.from_pretrained(folder_a, dtype="bfloat16")
    trace = model.trace(case["pixel_values"], case["input_ids"], 1)
    assert all(value.dtype in (torch.float32, torch.int64) for value in trace.values())
    error = np.abs((trace["inputs_embeds"] - case["inputs_embeds"]).numpy()).mean()
    assert error < 0.02 * case["inputs_embeds"].abs().mean()
