"""Questions packed behind one prefix: each gets what it gets alone, and the prefix stays as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import DynamicCache

from llava_mini import language_half
from llava_mini.errors import DeviceError
from llava_mini.kv_cache import fork
from llava_mini.language_half import LanguageHalf
from llava_mini.model import LlavaMini
from llava_mini.packed_questions import Pack

BEFORE, VISION = 4, 20
SPAN = (BEFORE, BEFORE + VISION)
LENGTHS = (6, 1, 9, 3)


@pytest.fixture(scope="module", params=["A sdpa", "A eager", "B sdpa", "B eager"])
def language(request: pytest.FixtureRequest, folder_a: Path, folder_b: Path) -> LanguageHalf:
    """A has fewer key/value heads than heads; B has the same number of both."""
    name, attention = request.param.split()
    folder = folder_a if name == "A" else folder_b
    return LlavaMini.from_pretrained(folder, parts=("language",), attention=attention).language


@pytest.fixture
def prefix(language: LanguageHalf) -> DynamicCache:
    return language.prefill(draw(BEFORE + VISION, seed=1))


def draw(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, 64, generator=torch.Generator().manual_seed(seed))


QUESTIONS = [draw(length, seed=10 + number) for number, length in enumerate(LENGTHS)]
OWNERS = [number for number, length in enumerate(LENGTHS) for _ in range(length)]


def list_tensors(cache: DynamicCache) -> list[Tensor]:
    layers: Any = cache.layers
    return [part for layer in layers for part in (layer.keys, layer.values)]


def close(one: Tensor, other: Tensor) -> None:
    assert_close(one, other, atol=2e-5, rtol=1e-5)


def test_packed_questions_get_the_logits_and_scores_that_they_get_alone(
    language: LanguageHalf, prefix: DynamicCache
) -> None:
    logits, attention = language.score_packed(Pack(prefix), torch.cat(QUESTIONS), OWNERS, SPAN)
    assert list(logits) == list(attention) == [0, 1, 2, 3]
    for number, question in enumerate(QUESTIONS):
        alone = language.score(fork(prefix), question, SPAN)
        close(logits[number], alone[0])
        close(attention[number], alone[1])


def test_steps_of_some_questions_equal_running_each_one_whole(language: LanguageHalf, prefix: DynamicCache) -> None:
    pack = Pack(prefix)
    language.advance_packed(pack, torch.cat(QUESTIONS), OWNERS)
    said: dict[int, list[int]] = {number: [] for number in range(len(QUESTIONS))}
    for step in ({0: 5, 1: 6, 2: 7, 3: 8}, {0: 9, 2: 5}, {2: 3, 0: 4}, {2: 11}):  # the others have ended
        logits = language.advance_packed(pack, language.embed(list(step.values())), list(step))
        for number, token in step.items():
            said[number].append(token)
            whole = torch.cat([QUESTIONS[number], language.embed(said[number])])
            close(logits[number], language.advance(fork(prefix), whole))


def test_rows_may_come_in_any_portions(language: LanguageHalf, prefix: DynamicCache) -> None:
    rows = torch.cat(QUESTIONS)
    whole = language.score_packed(Pack(prefix), rows, OWNERS, SPAN)
    pack, logits = Pack(prefix), dict[int, Tensor]()
    attention = {number: torch.zeros(VISION) for number in range(len(QUESTIONS))}
    for part in (slice(0, 4), slice(4, 8), slice(8, 19)):
        found, looked = language.score_packed(pack, rows[part], OWNERS[part], SPAN)
        logits |= found
        for number, each in looked.items():
            attention[number] += each
    assert len(pack) == len(rows)
    for number in range(len(QUESTIONS)):
        close(logits[number], whole[0][number])
        close(attention[number], whole[1][number])


def test_scores_computed_a_few_rows_at_a_time_are_the_same(
    language: LanguageHalf, prefix: DynamicCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.cat(QUESTIONS)
    whole = language.score_packed(Pack(prefix), rows, OWNERS, SPAN)[1]
    monkeypatch.setattr(language_half, "SCORE_CELLS", 2 * 4 * (BEFORE + VISION + len(rows)))  # two rows of four heads
    pieces = language.score_packed(Pack(prefix), rows, OWNERS, SPAN)[1]
    for number in whole:
        close(pieces[number], whole[number])


def test_the_prefix_does_not_change(language: LanguageHalf, prefix: DynamicCache) -> None:
    kept = list_tensors(prefix)
    before = [part.clone() for part in kept]
    pack = Pack(prefix)
    assert all(one is other for one, other in zip(list_tensors(pack.cache), kept, strict=True))  # nothing is copied yet
    language.advance_packed(pack, torch.cat(QUESTIONS), OWNERS)
    assert pack.cache.get_seq_length() == BEFORE + VISION + sum(LENGTHS)
    assert all(one is other for one, other in zip(list_tensors(prefix), kept, strict=True))
    assert all(torch.equal(*pair) for pair in zip(kept, before, strict=True))


def test_a_pack_that_was_cut_goes_on_as_before(language: LanguageHalf, prefix: DynamicCache) -> None:
    pack, rows = Pack(prefix), torch.cat(QUESTIONS)
    language.advance_packed(pack, rows[:6], OWNERS[:6])
    expected = language.advance_packed(pack, rows[6:], OWNERS[6:])
    pack.shorten(6)
    again = language.advance_packed(pack, rows[6:], OWNERS[6:])
    assert all(torch.equal(again[number], expected[number]) for number in expected)
    pack.shorten(0)
    assert (len(pack), pack.cache.get_seq_length()) == (0, BEFORE + VISION)


def test_without_masks_a_pack_holds_one_question(
    language: LanguageHalf, prefix: DynamicCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with FlashAttention, which a CPU cannot run."""
    monkeypatch.setattr(language_half, "MASKED", ())
    assert not language.can_pack
    pack = Pack(prefix)
    first = language.advance_packed(pack, QUESTIONS[0], [7] * LENGTHS[0])
    assert torch.equal(first[7], language.advance(fork(prefix), QUESTIONS[0]))
    with pytest.raises(DeviceError, match="one question at a time"):
        language.advance_packed(pack, QUESTIONS[1], [8] * LENGTHS[1])
    pack.shorten(0)
    assert torch.equal(
        language.advance_packed(pack, QUESTIONS[1], [8])[8], language.advance(fork(prefix), QUESTIONS[1])
    )
