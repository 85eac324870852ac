"""Single images of any size, padded or cropped, and frames at high resolution equal plain computations."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.plain import PlainVision
from benchmarks.recipe import random_tensor, with_config, write_checkpoint
from llava_mini import padding
from llava_mini.errors import CheckpointError, InputError
from llava_mini.model import LlavaMini
from llava_mini.preprocess import MAX_ASPECT, squeeze
from tests.llava_mini.conftest import MakeCheckpoint

MID = Path(__file__).parent.parent.parent / "benchmarks" / "shapes" / "mid"
MEAN_COLOUR = [122, 116, 104]  # CLIP's mean times 255, cut to whole numbers
TEXTS = [[5, 6, 7], [8, 9, 10, 11]]
Picture = NDArray[np.uint8]


def picture(height: int, width: int) -> Picture:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain_padded(given: Picture) -> Picture:
    """The whole square."""
    height, width = given.shape[:2]
    long = max(height, width)
    square = np.full((long, long, 3), MEAN_COLOUR, np.uint8)
    top, left = (long - height) // 2, (long - width) // 2
    square[top : top + height, left : left + width] = given
    return square


def plain_values(folder: Path, given: Picture, ratio: int) -> Tensor:
    """The quarters (at ratio 2) and the whole, each through CLIP's unchanged processor."""
    height, width = given.shape[0] // ratio, given.shape[1] // ratio
    parts = [given[y * height :, x * width :][:height, :width] for y in range(ratio) for x in range(ratio)]
    processor = CLIPImageProcessorPil.from_pretrained(folder / "clip")
    every = [*parts, given] if ratio > 1 else [given]
    values = [processor(part, return_tensors="np", input_data_format="channels_last") for part in every]
    return torch.from_numpy(np.concatenate([value["pixel_values"] for value in values]))


@pytest.fixture(scope="module")
def mid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """High resolution as in LLaVA-Mini-HD (64 tokens a frame), at the size of the benchmarks' model."""
    folder = tmp_path_factory.mktemp("hd")
    shape = with_config(MID, folder / "shape", resolution_ratio=2, compressor_size=8, num_hidden_layers=2)
    positions = random_tensor("positions", (64, 256), 9, 0.5)
    write_checkpoint(shape, folder / "made", seed=9, std=0.05, positions=positions)
    return folder / "made"


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("size", [(240, 300), (301, 240), (100, 100), (2, 50), (37, 900), (640, 11)])
@pytest.mark.parametrize("block_pixels", [2**22, 1000])
def test_a_padded_image_equals_the_plain_one_bit_for_bit(
    ratio: int,
    size: tuple[int, int],
    block_pixels: int,
    make_checkpoint: MakeCheckpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = make_checkpoint(image_aspect_ratio="pad", resolution_ratio=ratio)
    monkeypatch.setattr(padding, "BLOCK_PIXELS", block_pixels)
    given = picture(*size)
    prepared = LlavaMini.from_pretrained(folder, parts=("vision",)).preprocess_image(given)
    assert torch.equal(prepared, plain_values(folder, plain_padded(given), ratio)[None])


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("size", [(240, 300), (301, 240), (100, 799)])
def test_an_image_that_is_not_padded_is_cropped_to_its_centre(
    ratio: int, size: tuple[int, int], make_checkpoint: MakeCheckpoint
) -> None:
    folder = make_checkpoint(resolution_ratio=ratio)
    prepared = LlavaMini.from_pretrained(folder, parts=("vision",)).preprocess_image(picture(*size))
    assert torch.equal(prepared, plain_values(folder, picture(*size), ratio)[None])


@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_memory_does_not_grow_with_the_square_of_a_long_side(aspect: str, make_checkpoint: MakeCheckpoint) -> None:
    model = LlavaMini.from_pretrained(make_checkpoint(image_aspect_ratio=aspect), parts=("vision",))
    given = picture(20, 30000)  # 1.8 MB; 2.7 GB as a square; 0.5 GB if enlarged until its short side has 336 px
    tracemalloc.start()
    prepared = model.preprocess_image(given)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert prepared.shape == (1, 1, 3, 56, 56)
    assert peak < 60e6


def test_the_model_sees_the_centre_of_a_very_long_image(make_checkpoint: MakeCheckpoint) -> None:
    model = LlavaMini.from_pretrained(make_checkpoint(), parts=("vision",))
    given = picture(20, 5001)
    start = (5001 - MAX_ASPECT * 20) // 2
    centre = given[:, start : start + MAX_ASPECT * 20]
    assert torch.equal(model.preprocess_image(given), model.preprocess_image(centre))


def test_an_array_that_is_not_an_image_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    model = LlavaMini.from_pretrained(make_checkpoint(resolution_ratio=2), parts=("vision",))
    for given in (picture(1, 9), picture(9, 1), picture(9, 9)[:, :, 0], picture(0, 9)):
        with pytest.raises(InputError, match="2 px"):
            model.preprocess_image(given)
    with pytest.raises(CheckpointError, match="image_aspect_ratio is 'anyres'"):
        LlavaMini.from_pretrained(make_checkpoint(image_aspect_ratio="anyres"))


def test_the_configuration_says_which_frames_the_model_expects(model_a: LlavaMini, mid: Path) -> None:
    high = LlavaMini.from_pretrained(mid, parts=("language",))
    assert (model_a.config.frame_side_px, high.config.frame_side_px) == (336, 672)
    assert (high.config.pictures, high.config.tokens_per_frame) == (5, 64)


@pytest.mark.parametrize("side", [336, 672])
def test_frames_of_336_or_672_px_are_not_squeezed(side: int, mid: Path) -> None:
    model = LlavaMini.from_pretrained(mid, parts=("vision",))
    frames = np.stack([picture(side, side), picture(side, side)[::-1]])
    values = model.preprocess(frames)
    assert values.shape == (2, 5, 3, 224, 224)
    assert torch.equal(values[1], plain_values(mid, frames[1], 2))


def test_other_frames_are_squeezed_to_the_side_that_the_model_expects(mid: Path, model_a: LlavaMini) -> None:
    frames = picture(500, 900)[None]
    high = LlavaMini.from_pretrained(mid, parts=("vision",))
    assert torch.equal(high.preprocess(frames), high.preprocess(squeeze(frames, 672)))
    # A model of 336 px can use a frame stored at 672 px: squeezing it gives the same rows as squeezing the original.
    assert torch.equal(model_a.preprocess(squeeze(frames, 672)), model_a.preprocess(frames))


def test_high_resolution_video_and_image_equal_the_plain_path(mid: Path) -> None:
    model, plain = LlavaMini.from_pretrained(mid), PlainVision.from_pretrained(mid)
    video, image = model.preprocess(picture(672, 672)[None]), model.preprocess_image(picture(500, 900))
    for pixels in (video, image):
        encoded = model.encode(pixels, TEXTS)
        for text, fused in zip(TEXTS, encoded.fused, strict=True):
            tokens, rows = plain.encode_frame(pixels[0], text)
            assert tokens.shape == (64, 512)
            assert_close(encoded.tokens[0], tokens, atol=2e-5, rtol=1e-5)
            assert_close(fused[0], rows, atol=2e-5, rtol=1e-5)
    trace = model.trace(image[0], torch.tensor([[5, -200, 6, 7]]), 2)
    assert_close(trace["inputs_embeds"][1:65], encoded.tokens[0], atol=1e-5, rtol=0)  # the language half gets all 64
