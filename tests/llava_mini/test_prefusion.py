"""Pre-fusion's memory is bounded for any number of texts, and never holds all heads' scores at once."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from llava_mini import prefusion
from llava_mini.errors import InputError
from llava_mini.model import LlavaMini
from tests.llava_mini.test_vision_half import TEXTS, assert_same, pixels


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Measures the largest tensor that any operation makes, in elements."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(
        self, function: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(t.numel() for t in tree_iter(result) if isinstance(t, Tensor))])
        return result


def rows(model: LlavaMini, lengths: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, model.config.hidden_size, generator=generator) for length in lengths]


def fused(model: LlavaMini, frames: int, texts: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    D = model.config.hidden_size
    patches, tokens = rows(model, [frames * 16, frames])
    with torch.no_grad():
        result: tuple[Tensor, list[Tensor]] = model.vision.prefusion(
            patches.view(frames, 16, D), tokens.view(frames, 1, D), texts
        )
    return result


@pytest.mark.parametrize(("text_rows", "mask_cells"), [(1, 1), (16, 40), (9, 100), (400, 2**25)])
def test_smaller_passes_give_the_same_as_one_pass(
    text_rows: int, mask_cells: int, model_a: LlavaMini, model_b: LlavaMini, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in (model_a, model_b):
        images = pixels(model, 3)
        whole = model.encode(images, TEXTS)
        with monkeypatch.context() as smaller:
            smaller.setattr(prefusion, "TEXT_ROWS", max(text_rows, 7))  # the longest text has 7
            smaller.setattr(prefusion, "MASK_CELLS", mask_cells)
            assert_same(model.encode(images, TEXTS), whole)


def test_attention_never_gets_a_mask_and_grouped_heads_together(
    model_a: LlavaMini, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the two together, PyTorch uses the kernel that writes out every head's scores (its sdp_utils)."""
    asked = []

    def watched(queries: Tensor, keys: Tensor, values: Tensor, **options: Any) -> Tensor:
        asked.append((queries.shape[1], keys.shape[1], options.get("enable_gqa", False)))
        return F.scaled_dot_product_attention(queries, keys, values, **options)

    monkeypatch.setattr(prefusion, "F", type("Watched", (), {"scaled_dot_product_attention": staticmethod(watched)}))
    model_a.encode(pixels(model_a, 2), TEXTS)
    text: Any = model_a.config.text
    assert text.num_attention_heads > text.num_key_value_heads
    assert len(asked) > 0
    assert all(heads == kv_heads and not grouped for heads, kv_heads, grouped in asked)


def test_memory_does_not_grow_with_the_number_of_texts(model_a: LlavaMini, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefusion, "TEXT_ROWS", 64)
    largest = []
    for count in (2, 8, 32):
        with Largest() as made:
            fused(model_a, 4, rows(model_a, [8] * count))
        largest.append(made.numbers)
    assert largest[0] == largest[1] == largest[2]


def test_no_tensor_is_as_large_as_the_scores_of_all_heads(model_a: LlavaMini) -> None:
    """4 frames, 4 heads, 300 rows and a context of 317 have 1.5 million scores. The MLP has 4 * 300 * 160 numbers."""
    with Largest() as made:
        fused(model_a, 4, rows(model_a, [300]))
    assert made.numbers <= 4 * 317 * model_a.config.text.intermediate_size


def test_a_text_with_too_many_tokens_is_refused(model_a: LlavaMini, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefusion, "TEXT_ROWS", 20)
    with pytest.raises(InputError, match="21 tokens"):
        fused(model_a, 1, rows(model_a, [21]))


def test_empty_texts_have_empty_fusions(model_a: LlavaMini) -> None:
    images = pixels(model_a, 2)
    encoded = model_a.encode(images, [[], [5, 6], []])
    assert [tuple(text.shape) for text in encoded.fused] == [(2, 0, 64), (2, 2, 64), (2, 0, 64)]
    assert_close(encoded.fused[1], model_a.encode(images, [[5, 6]]).fused[0], atol=1e-5, rtol=0)
    assert model_a.encode(images, [[]]).fused[0].shape == (2, 0, 64)
