"""Every intermediate equals the public implementation's (golden/README.md)."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from llava_mini.config import FRAME_SIDE_PX
from llava_mini.model import LlavaMini
from llava_mini.placement import Attention
from llava_mini.preprocess import nearest_indices, squeeze

GOLDEN = Path(__file__).parent / "golden"
CASES = ["A_image", "A_image_id0", "A_video", "B_image", "B_video"]
NEW_TOKENS = 16


def golden(case: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"{case}.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_trace_equals_every_golden_array(case: str, attention: Attention, folder_a: Path, folder_b: Path) -> None:
    model = LlavaMini.from_pretrained(folder_a if case.startswith("A") else folder_b, attention=attention)
    expected = golden(case)
    trace = model.trace(expected["pixel_values"], expected["input_ids"], NEW_TOKENS)
    compared = expected.keys() - {"frames", "frame_idx", "resized_336_frame0"}
    assert compared == trace.keys()
    for name in compared:
        assert_close(trace[name], expected[name], atol=2e-5, rtol=1e-5, msg=partial("{}: {}".format, name))


def test_preprocessed_uint8_frames_equal_the_golden_ones(model_a: LlavaMini) -> None:
    expected = golden("A_video")
    frames = expected["frames"].numpy()
    assert np.array_equal(squeeze(frames, FRAME_SIDE_PX)[0], expected["resized_336_frame0"].numpy())
    assert_close(model_a.preprocess(frames)[:, None], expected["pixel_values"], atol=1e-6, rtol=0)


def test_an_image_keeps_its_aspect_ratio_as_in_the_golden_data(model_a: LlavaMini) -> None:
    expected = golden("A_image")
    pixels = model_a.preprocess_image(expected["frames"][0].numpy())
    assert_close(pixels[0], expected["pixel_values"], atol=1e-6, rtol=0)


def test_frames_that_are_already_squeezed_do_not_change() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, FRAME_SIDE_PX, FRAME_SIDE_PX, 3), dtype=np.uint8)
    assert np.array_equal(squeeze(frames, FRAME_SIDE_PX), frames)


def test_the_nearest_resize_takes_the_same_rows_as_the_public_code_at_every_size() -> None:
    with np.load(GOLDEN / "nearest_index_336.npz") as table:
        for name in table:
            assert np.array_equal(nearest_indices(int(name.removeprefix("in_"))), table[name]), name


def test_an_image_equals_a_video_of_one_frame(model_a: LlavaMini) -> None:
    expected = golden("A_image")
    as_image = model_a.trace(expected["pixel_values"], expected["input_ids"], 1)
    as_video = model_a.trace(expected["pixel_values"][None], expected["input_ids"][0], 1)
    assert torch.equal(as_image["inputs_embeds"], as_video["inputs_embeds"])
    assert as_image["input_ids"].shape == as_video["input_ids"].shape
