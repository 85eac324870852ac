"""The vision half's fast path equals the plain one: one frame at a time, every layer in full (benchmarks/plain.py)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from benchmarks.plain import PlainVision
from llava_mini.errors import InputError, NonFinite
from llava_mini.model import Encoded, LlavaMini
from llava_mini.preprocess import Preprocessor
from llava_mini.prompt import IMAGE_TOKEN_ID
from tests.llava_mini.conftest import MakeCheckpoint
from tests.llava_mini.test_parity import golden

TEXTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 400], [14]]


def pixels(model: LlavaMini, frames: int, seed: int = 0) -> Tensor:
    c = model.config
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(frames, c.pictures, 3, c.side_px, c.side_px, generator=generator)


def assert_same(ours: Encoded, theirs: Encoded, atol: float = 1e-5) -> None:
    assert_close(ours.tokens, theirs.tokens, atol=atol, rtol=0)
    for mine, other in zip(ours.fused, theirs.fused, strict=True):
        assert_close(mine, other, atol=atol, rtol=0)


def assert_equals_plain(folder: Path, frames: int = 2) -> None:
    model = LlavaMini.from_pretrained(folder, parts=("vision",))
    plain = PlainVision.from_pretrained(folder)
    images = pixels(model, frames)
    encoded = model.encode(images, TEXTS)
    for number, image in enumerate(images):
        for text, fused in zip(TEXTS, encoded.fused, strict=True):
            tokens, rows = plain.encode_frame(image, text)
            assert_close(encoded.tokens[number], tokens, atol=2e-5, rtol=1e-5)
            assert_close(fused[number], rows, atol=2e-5, rtol=1e-5)


def test_the_exact_savings_equal_the_plain_path(folder_a: Path, folder_b: Path) -> None:
    assert_equals_plain(folder_a)
    assert_equals_plain(folder_b)


@pytest.mark.parametrize("compressor_size", [3, 8, 12])
def test_up_to_144_tokens_a_frame_equal_the_plain_path(compressor_size: int, make_checkpoint: MakeCheckpoint) -> None:
    assert_equals_plain(make_checkpoint(compressor_size=compressor_size), frames=1)


@pytest.mark.parametrize("compressor_size", [2, 8])
def test_high_resolution_equals_the_plain_path(compressor_size: int, make_checkpoint: MakeCheckpoint) -> None:
    assert_equals_plain(make_checkpoint(resolution_ratio=2, compressor_size=compressor_size))


def test_a_single_prefusion_layer_equals_the_plain_path(make_checkpoint: MakeCheckpoint) -> None:
    assert_equals_plain(make_checkpoint(prefusion_layer_num=1))


def test_high_resolution_splits_a_frame_into_crops_and_the_whole_picture(make_checkpoint: MakeCheckpoint) -> None:
    folder = make_checkpoint(resolution_ratio=2)
    model = LlavaMini.from_pretrained(folder, parts=("vision",))
    image = np.random.default_rng(0).integers(0, 256, (121, 85, 3), dtype=np.uint8)
    crops = [image[:60, :42], image[:60, 42:84], image[60:120, :42], image[60:120, 42:84], image]
    single = Preprocessor(folder / "clip", replace(model.config, resolution_ratio=1))
    expected = torch.cat([single.prepare_image(np.ascontiguousarray(crop)) for crop in crops])
    assert torch.equal(model.preprocess_image(image), expected[None])
    assert model.preprocess(image[None]).shape == (1, 5, 3, 56, 56)


def test_a_trace_at_high_resolution_has_the_right_shapes(make_checkpoint: MakeCheckpoint) -> None:
    model = LlavaMini.from_pretrained(make_checkpoint(resolution_ratio=2, compressor_size=8))
    trace = model.trace(pixels(model, 2), torch.tensor([[5, IMAGE_TOKEN_ID, 6, 7]]), 3)
    shapes = {name: tuple(value.shape) for name, value in trace.items()}
    assert shapes == {
        "pixel_values": (2, 5, 3, 56, 56),
        "input_ids": (1, 4),
        "clip_features": (2, 5, 16, 96),
        "compressor_out": (2, 64, 96),
        "compressor_attn": (2, 64, 64),
        "compressed_prefusion_in": (2, 64, 64),
        "global_prefusion_in": (2, 16, 64),
        "compressed_tokens": (2, 64, 64),
        "fused_text": (2, 4, 64),
        "pooled_text": (4, 64),
        "inputs_embeds": (131, 64),
        "logits_last": (512,),
        "logits_steps": (3, 512),
        "generated_ids": (3,),
    }


def test_many_prompts_in_one_pass_give_the_same_as_one_by_one(model_a: LlavaMini, model_b: LlavaMini) -> None:
    for model in (model_a, model_b):
        images = pixels(model, 3)
        singly = [model.encode(images, [text]) for text in TEXTS]
        together = model.encode(images, TEXTS)
        assert_same(together, Encoded(singly[0].tokens, [single.fused[0] for single in singly]))
        for single in singly:
            assert_close(together.tokens, single.tokens, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_frames", [1, 2, 3, 100])
def test_encoding_in_batches_equals_one_by_one(batch_frames: int, model_a: LlavaMini) -> None:
    images = pixels(model_a, 5)
    singly = [model_a.encode(image[None], TEXTS) for image in images]
    expected = Encoded(
        torch.cat([single.tokens for single in singly]),
        [torch.cat([single.fused[i] for single in singly]) for i in range(len(TEXTS))],
    )
    assert_same(model_a.encode(images, TEXTS, batch_frames), expected)


def test_a_token_does_not_depend_on_any_text(model_a: LlavaMini) -> None:
    images = pixels(model_a, 2)[:, 0]  # (F,3,S,S)
    alone = model_a.encode(images)
    assert alone.fused == []
    assert_close(alone.tokens, model_a.encode(images, TEXTS).tokens, atol=1e-5, rtol=0)


def test_fused_rows_do_not_depend_on_later_tokens(model_a: LlavaMini) -> None:
    images = pixels(model_a, 2)
    shorter, longer = model_a.encode(images, [[5, 6, 7], [5, 6, 7, 8, 9]]).fused
    assert_close(shorter, longer[:, :3], atol=1e-5, rtol=0)


def test_the_placeholder_changes_nothing(model_a: LlavaMini) -> None:
    images = pixels(model_a, 2)
    with_it, without = model_a.encode(images, [[5, 6, IMAGE_TOKEN_ID, 7], [5, 6, 7]]).fused
    assert_close(with_it, without, atol=1e-5, rtol=0)


def test_token_zero_is_hidden_and_keeps_its_raw_embedding(model_a: LlavaMini) -> None:
    case = golden("A_image_id0")
    ids = case["input_ids"][0].tolist()
    fused = model_a.encode(case["pixel_values"], [ids]).fused[0]
    kept = [place for place, i in enumerate(ids) if i != IMAGE_TOKEN_ID]
    assert_close(fused, case["fused_text"][:, kept], atol=2e-5, rtol=1e-5)


def test_eager_attention_equals_the_fused_kernel(folder_a: Path, model_a: LlavaMini) -> None:
    eager = LlavaMini.from_pretrained(folder_a, attention="eager", parts=("vision",))
    images = pixels(eager, 2)
    assert_same(eager.encode(images, TEXTS), model_a.encode(images, TEXTS))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e6])
def test_frames_with_unusable_numbers_are_refused_and_named(bad: float, folder_a: Path) -> None:
    """1e6 is finite in float32, but infinite in a record."""
    model = LlavaMini.from_pretrained(folder_a, parts=("vision",))
    images = pixels(model, 7)
    model.encode(images, TEXTS, batch_frames=2)
    layer: Any = model.vision.prefusion.layers[-1]

    def spoil(_module: nn.Module, _given: object, output: Tensor) -> Tensor:
        return torch.where(torch.arange(len(output))[:, None, None] == 1, bad, output)

    layer.mlp.register_forward_hook(spoil)  # the second frame of each batch of two
    with pytest.raises(NonFinite, match=r"frames 1 .*bfloat16") as caught:
        model.encode(images, TEXTS, batch_frames=2)
    assert caught.value.frames == (1,)
    with pytest.raises(NonFinite) as caught:
        model.encode(images[2:], batch_frames=4)
    assert caught.value.frames == (1,)


def test_a_fusion_with_infinite_numbers_is_refused(folder_a: Path) -> None:
    model = LlavaMini.from_pretrained(folder_a, parts=("vision",))
    images, ids = pixels(model, 2), [5, 6, 7]
    model._embeddings[7] = torch.inf
    assert model.encode(images, [[5, 6]]).tokens.isfinite().all()
    with pytest.raises(NonFinite):
        model.encode(images, [[5, 6], ids])


def test_float16_that_overflows_is_refused(folder_a: Path) -> None:
    model = LlavaMini.from_pretrained(folder_a, parts=("vision",), dtype="float16")
    projector: Any = model.vision.mm_projector
    for layer, factor in ((0, 10), (2, 1e5)):  # each weight is finite, but their sum overflows
        projector[layer].weight.data.mul_(factor)
    assert projector[2].weight.isfinite().all()
    with pytest.raises(NonFinite, match=r"model\.dtype is float16"):
        model.encode(pixels(model, 1))


def test_pictures_and_ids_that_do_not_fit_are_refused(model_a: LlavaMini) -> None:
    images = pixels(model_a, 2)
    with pytest.raises(InputError, match="pixel_values"):
        model_a.encode(images[..., :50])
    with pytest.raises(InputError, match="pixel_values"):
        model_a.encode(images.repeat(1, 5, 1, 1, 1))
    with pytest.raises(InputError, match="pixel_values"):
        model_a.encode(images[:0])
    with pytest.raises(InputError, match="vocabulary"):
        model_a.encode(images, [[512]])
    with pytest.raises(InputError, match="placeholder"):
        model_a.trace(images, torch.tensor([5, 6]), 1)
