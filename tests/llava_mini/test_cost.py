"""Costs counted on the real shapes agree with the figures in the design and the paper."""

import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from llava_mini.config import LlavaMiniConfig
from llava_mini.cost import ByteCosts, byte_costs, llava_flops, our_flops, plain_flops
from llava_mini.model import LlavaMini
from llava_mini.plan import CONTEXT_BYTES, GIB, Load, find_subject, main, plan
from llava_mini.quantize import Weights
from llava_mini.shapes import SHAPES, llava_mini_7b, llava_mini_8b
from tests.llava_mini.test_vision_half import pixels

TEXT_TOKENS = 43
TERA = 1e12
WITHIN = 0.03


@pytest.fixture(scope="module")
def config() -> LlavaMiniConfig:
    return llava_mini_7b()


def count_costs(config: LlavaMiniConfig, dtype: torch.dtype) -> ByteCosts:
    return byte_costs(config, dtype, "full", batch_frames=1, text_tokens=TEXT_TOKENS)


def test_operations_agree_with_the_design_part_by_part(config: LlavaMiniConfig) -> None:
    flops = plain_flops(config, TEXT_TOKENS)
    counted = [flops.tower, flops.projection, flops.prefusion, flops.language, flops.total]
    assert [n / TERA for n in counted] == pytest.approx([0.38, 0.024, 1.03, 0.57, 2.01], rel=WITHIN)
    assert llava_flops(config, TEXT_TOKENS).total / TERA == pytest.approx(8.63, rel=WITHIN)


def test_totals_agree_with_the_paper(config: LlavaMiniConfig) -> None:
    assert plain_flops(config, TEXT_TOKENS).total / TERA == pytest.approx(1.96, rel=WITHIN)
    assert llava_flops(config, TEXT_TOKENS).total / TERA == pytest.approx(8.55, rel=WITHIN)


def test_the_last_prefusion_layer_saves_a_fifth(config: LlavaMiniConfig) -> None:
    ours, plain = our_flops(config, TEXT_TOKENS), plain_flops(config, TEXT_TOKENS)
    assert 1 - ours.prefusion / plain.prefusion == pytest.approx(0.2, abs=0.01)
    assert 1 - ours.tower / plain.tower == pytest.approx(1 / 24, rel=0.05)
    assert ours.language == plain.language


def test_high_resolution_costs_as_much_as_its_five_pictures(config: LlavaMiniConfig) -> None:
    single, high = our_flops(config, TEXT_TOKENS), our_flops(replace(config, resolution_ratio=2), TEXT_TOKENS)
    assert high.tower == 5 * single.tower
    assert 4.9 < high.prefusion / single.prefusion < 6


def test_bytes_agree_with_known_sizes_of_the_real_models() -> None:
    seven = count_costs(llava_mini_7b(), torch.float16)
    eight = count_costs(llava_mini_8b(), torch.bfloat16)
    assert seven.language_weights / 2e9 == pytest.approx(6.74, rel=0.01)  # Vicuna 7B's parameters
    assert eight.language_weights / 2e9 == pytest.approx(8.03, rel=0.01)  # Llama 3.1 8B's
    assert seven.cache_per_position / 1e6 == pytest.approx(
        0.52, rel=0.01
    )  # the paper's 0.6 MB a frame, less CUDA's own
    assert eight.cache_per_position * 4 == seven.cache_per_position  # 8 key/value heads instead of 32
    assert seven.token_per_frame == 8192


def test_counted_weights_equal_the_loaded_ones(model_a: LlavaMini) -> None:
    costs = count_costs(model_a.config, torch.float32)
    assert costs.vision_weights == sum(p.nbytes for p in model_a.vision.parameters())
    assert costs.language_weights == sum(p.nbytes for p in model_a.language.llm.parameters())


def test_the_counted_cache_equals_the_real_one(model_a: LlavaMini) -> None:
    costs = count_costs(model_a.config, torch.float32)
    cache: Any = model_a.language.prefill(torch.zeros(10, model_a.config.hidden_size))
    grown = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert grown == 10 * costs.cache_per_position


def test_the_counted_token_of_a_record_equals_the_encoded_one(model_b: LlavaMini) -> None:
    costs = count_costs(model_b.config, torch.float32)
    assert model_b.encode(pixels(model_b, 1)).tokens.half().nbytes == costs.token_per_frame


class Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Peak bytes of the tensors that are made inside the block and alive at the same time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.highest = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, function: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {t.untyped_storage() for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self._known | given:
                self._known.add(storage)
                self.alive += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.highest = max(self.highest, self.alive)
        return result

    def _free(self, size: int) -> None:
        self.alive -= size


@pytest.mark.parametrize(("frames", "text_tokens"), [(16, 3), (16, 60), (2, 200)])
def test_a_batch_takes_no_more_memory_than_counted(frames: int, text_tokens: int, model_a: LlavaMini) -> None:
    config = model_a.config
    counted = byte_costs(config, torch.float32, "full", batch_frames=frames, text_tokens=text_tokens).encode_batch
    images, text = pixels(model_a, frames), torch.zeros(text_tokens, config.hidden_size)
    with torch.no_grad(), Peak() as peak:
        model_a.vision(images, [text])
    assert counted / 2 < peak.highest <= counted


LOAD = Load(torch.bfloat16, "full", batch_frames=16, prefix_cache_bytes=2**30, new_tokens=512, questions=1)
CARD = 24 * GIB  # an RTX 3090


def test_smaller_weights_leave_room_for_more_frames() -> None:
    config = llava_mini_8b()
    plans = [plan(CARD, config, replace(LOAD, weights=weights)) for weights in ("full", "int8", "int4")]
    assert plans[0].frames < plans[1].frames < plans[2].frames
    assert plan(8 * GIB, config, LOAD).frames == 0
    assert plan(1000 * GIB, config, LOAD).frames < config.context


@pytest.mark.parametrize("weights", ["full", "int8"])
def test_the_8b_settings_fit_on_a_24_gb_card_with_both_processes_and_an_hour(weights: Weights) -> None:
    config, settings = find_subject("llava-mini-8b")
    planned = plan(CARD, config, replace(Load.from_settings(settings), weights=weights))
    assert planned.frames >= 3600
    total = planned.used_bytes + 3600 * planned.per_position
    assert total <= CARD == 25_769_803_776
    assert (
        settings.reasoner.prefix_cache_mb * 2**20 >= 3600 * planned.costs.cache_per_position
    )  # the prefix fits as well


def test_the_plan_counts_everything_that_stays_in_memory() -> None:
    config = llava_mini_8b()
    base = plan(CARD, config, LOAD)
    assert base.parts["CUDA"] > 2 * CONTEXT_BYTES
    more = plan(CARD, config, replace(LOAD, prefix_cache_bytes=3 * 2**30))
    assert more.used_bytes - base.used_bytes == pytest.approx(1.1 * 2 * 2**30)  # including fragments
    assert more.frames_in_memory < base.frames_in_memory
    assert plan(CARD, config, replace(LOAD, batch_frames=32)).used_bytes > base.used_bytes + 10**9
    assert plan(CARD, config, replace(LOAD, new_tokens=1512)).used_bytes - base.used_bytes == 1000 * base.per_position
    assert plan(CARD, config, replace(LOAD, questions=2)).frames_in_memory < base.frames_in_memory
    assert base.per_position > base.costs.cache_per_position


def test_the_plan_follows_the_given_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        'model: {checkpoint: "hub:ICTNLP/llava-mini-llama-3.1-8b", dtype: float16, language_weights: int4}\n'
        "encoder: {batch_frames: 5}\nreasoner: {max_tokens: 77, prefix_cache_mb: 321, concurrent_questions: 3}\n",
        encoding="utf-8",
    )
    assert main(["--config", str(file)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for part in (
        "25.77e9 bytes",
        "torch.float16",
        "5 frames a batch",
        "321 MiB",
        "3 questions at once",
        "answer of 77",
        "int4 *",
    ):
        assert part in printed
    assert main(["--config", str(file), "--dtype", "bfloat16", "--batch-frames", "6"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "torch.bfloat16, 6 frames a batch" in printed


def test_the_plan_follows_the_environment_unless_an_option_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*words: str) -> str:
        assert main(words) == 0
        return " ".join(capsys.readouterr().out.split())

    monkeypatch.delenv("LONGWATCH_CONFIG", raising=False)
    usual = printed()
    assert usual == printed("--config", "llava-mini-8b")
    file = tmp_path / "mine.yaml"
    file.write_text("encoder: {batch_frames: 5}\n", encoding="utf-8")
    monkeypatch.setenv("LONGWATCH_CONFIG", str(file))
    assert "5 frames a batch" in printed()
    assert usual == printed("--config", "llava-mini-8b")
    monkeypatch.setenv("LONGWATCH_CONFIG", "")
    assert usual == printed()


def test_the_plan_is_printed_for_a_shape_and_for_a_checkpoint(
    folder_a: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--gpu-gb", "24", "--config", "llava-mini-7b"]) == 0
    printed = capsys.readouterr().out
    assert "2.009" in printed
    assert "int8" in printed
    assert main(["--config", str(folder_a)]) == 0


def test_the_plan_is_printed_for_a_checkpoint_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(name: str) -> str:
        assert main(["--config", name]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    assert "torch.bfloat16" in printed("bundled:tiny")
    released = printed("hub:ICTNLP/llava-mini-llama-3.1-8b")
    assert released.split("TFLOP")[1] == printed("llava-mini-8b").split("TFLOP")[1]


@pytest.mark.parametrize("name", ["no-such-config", "bundled:nope", "hub:some/body", "tiny.yaml"])
def test_an_unknown_subject_is_answered_with_all_that_is_accepted(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", name]) == 1
    said = capsys.readouterr().err
    assert repr(name) in said
    for known in ("llava-mini-7b", "llava-mini-8b", "tiny", "bundled:tiny", "hub:ICTNLP/llava-mini-llama-3.1-8b"):
        assert known in said


@pytest.mark.parametrize("name", [*SHAPES, "tiny"])
@pytest.mark.parametrize("gpu_gb", ["1", "24"])
def test_the_plan_fits_a_terminal(capsys: pytest.CaptureFixture[str], name: str, gpu_gb: str) -> None:
    assert main(["--config", name, "--gpu-gb", gpu_gb]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


def test_the_plan_runs_as_a_command() -> None:
    command = [sys.executable, "-m", "llava_mini.plan", "--gpu-gb", "24", "--config", "llava-mini-8b"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "frames" in done.stdout
    assert done.stderr == ""
