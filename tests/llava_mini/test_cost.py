"""Costs counted on the real shapes agree with the design's and the paper's figures."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_mini.config import LlavaMiniConfig
from llava_mini.cost import byte_costs, llava_flops, our_flops, plain_flops
from llava_mini.model import LlavaMini
from llava_mini.plan import main, plan
from llava_mini.shapes import llava_mini_7b, llava_mini_8b
from tests.llava_mini.test_vision_half import pixels

TEXT_TOKENS = 43
TERA = 1e12
WITHIN = 0.03


@pytest.fixture(scope="module")
def config() -> LlavaMiniConfig:
    return llava_mini_7b()


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


def test_high_resolution_costs_its_pictures(config: LlavaMiniConfig) -> None:
    single, high = our_flops(config, TEXT_TOKENS), our_flops(replace(config, resolution_ratio=2), TEXT_TOKENS)
    assert high.tower == 5 * single.tower
    assert 4.9 < high.prefusion / single.prefusion < 6


def test_bytes_agree_with_what_is_known_of_the_real_models() -> None:
    seven = byte_costs(llava_mini_7b(), torch.float16, "full", TEXT_TOKENS)
    eight = byte_costs(llava_mini_8b(), torch.bfloat16, "full", TEXT_TOKENS)
    assert seven.language_weights / 2e9 == pytest.approx(6.74, rel=0.01)  # Vicuna 7B's parameters
    assert eight.language_weights / 2e9 == pytest.approx(8.03, rel=0.01)  # Llama 3.1 8B's
    assert seven.cache_per_position / 1e6 == pytest.approx(
        0.52, rel=0.01
    )  # the paper's 0.6 MB a frame, less CUDA's own
    assert eight.cache_per_position * 4 == seven.cache_per_position  # 8 key/value heads instead of 32
    assert seven.token_per_frame == 8192


def test_weights_are_counted_as_they_are_loaded(model_a: LlavaMini) -> None:
    costs = byte_costs(model_a.config, torch.float32, "full", TEXT_TOKENS)
    assert costs.vision_weights == sum(p.nbytes for p in model_a.vision.parameters())
    assert costs.language_weights == sum(p.nbytes for p in model_a.language.llm.parameters())


def test_the_cache_is_counted_as_it_grows(model_a: LlavaMini) -> None:
    costs = byte_costs(model_a.config, torch.float32, "full", TEXT_TOKENS)
    cache: Any = model_a.language.prefill(torch.zeros(10, model_a.config.hidden_size))
    grown = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert grown == 10 * costs.cache_per_position


def test_the_token_in_a_record_is_counted_as_it_is_encoded(model_b: LlavaMini) -> None:
    costs = byte_costs(model_b.config, torch.float32, "full", TEXT_TOKENS)
    assert model_b.encode(pixels(model_b, 1)).tokens.half().nbytes == costs.token_per_frame


def test_smaller_weights_leave_room_for_more_frames() -> None:
    config = llava_mini_8b()
    plans = [
        plan(24, config, dtype=torch.bfloat16, weights=weights, batch_frames=32) for weights in ("full", "int8", "int4")
    ]
    assert plans[0].frames < plans[1].frames < plans[2].frames
    assert plans[1].frames > 3600  # an hour at one frame a second on the card the design names
    assert plan(8, config, dtype=torch.bfloat16, weights="full", batch_frames=32).frames == 0
    assert plan(1000, config, dtype=torch.bfloat16, weights="full", batch_frames=32).frames < config.context


def test_the_plan_is_printed_for_a_shape_and_for_a_checkpoint(
    folder_a: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--gpu-gb", "24", "--config", "llava-mini-7b"]) == 0
    printed = capsys.readouterr().out
    assert "2.009" in printed
    assert "int8" in printed
    assert main(["--config", str(folder_a)]) == 0
    assert main(["--config", "no-such-config"]) == 1
    assert "no-such-config" in capsys.readouterr().err


def test_the_plan_runs_as_a_command() -> None:
    command = [sys.executable, "-m", "llava_mini.plan", "--gpu-gb", "24", "--config", "llava-mini-8b"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "frames" in done.stdout
    assert done.stderr == ""
