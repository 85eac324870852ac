"""The language half: what a question attends to, and answering more than once from one prefix."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from llava_mini import language_half
from llava_mini.errors import InputError, PromptTooLong
from llava_mini.kv_cache import fork
from llava_mini.model import LlavaMini
from tests.llava_mini.conftest import MakeCheckpoint
from tests.llava_mini.test_vision_half import pixels

BEFORE, VISION, QUESTION = 4, 20, 6


@pytest.fixture(scope="module", params=["A", "B"])
def model(request: pytest.FixtureRequest, folder_a: Path, folder_b: Path) -> LlavaMini:
    """A has fewer key/value heads than heads; B has the same number of both."""
    return LlavaMini.from_pretrained(folder_a if request.param == "A" else folder_b, parts=("language",))


@pytest.fixture(scope="module")
def embeds() -> Tensor:
    return torch.randn(BEFORE + VISION + QUESTION, 64, generator=torch.Generator().manual_seed(3))


def test_a_question_gets_the_same_scores_as_from_full_eager_attention(
    model: LlavaMini, embeds: Tensor, folder_a: Path, folder_b: Path
) -> None:
    folder = folder_a if model.config.tokens_per_frame == 1 else folder_b
    eager = LlavaMini.from_pretrained(folder, parts=("language",), attention="eager").language.llm
    with torch.no_grad():
        whole = eager(inputs_embeds=embeds[None], output_attentions=True)
    rows = torch.stack(whole.attentions[1:])[:, 0].mean(1)[:, -QUESTION:]  # (layers, question, S), mean over heads
    expected = rows.sum((0, 1))[BEFORE : BEFORE + VISION]
    cache = model.language.prefill(embeds[:-QUESTION])
    logits, attention = model.language.score(cache, embeds[-QUESTION:], (BEFORE, BEFORE + VISION))
    assert_close(attention, expected, atol=1e-5, rtol=1e-5)
    assert_close(logits, whole.logits[0, -1], atol=2e-5, rtol=1e-5)
    assert cache.get_seq_length() == len(embeds)


def test_scoring_leaves_no_hooks_and_changes_no_logits(model: LlavaMini, embeds: Tensor) -> None:
    language = model.language
    scored, plain = language.prefill(embeds[:-QUESTION]), language.prefill(embeds[:-QUESTION])
    logits, _ = language.score(scored, embeds[-QUESTION:], (BEFORE, BEFORE + VISION))
    assert_close(logits, language.advance(plain, embeds[-QUESTION:]), atol=1e-6, rtol=0)
    assert not any(layer.self_attn._forward_hooks for layer in language.llm.model.layers)


def test_two_questions_share_one_prefix(model: LlavaMini, embeds: Tensor) -> None:
    language = model.language
    first, second = embeds[-QUESTION:], embeds[:QUESTION].flip(0)
    whole = language.advance(language.make_cache(), torch.cat([embeds[:-QUESTION], second]))
    prefix = language.prefill(embeds[:-QUESTION])
    twin = fork(prefix)
    language.advance(twin, first)
    assert prefix.get_seq_length() == BEFORE + VISION
    assert_close(language.advance(fork(prefix), second), whole, atol=1e-5, rtol=0)
    assert twin.get_seq_length() == len(embeds)


def test_a_prefix_can_be_filled_in_pieces(model: LlavaMini, embeds: Tensor) -> None:
    language = model.language
    whole = language.advance(language.make_cache(), embeds)
    cache = language.prefill(embeds[:5])
    assert language.prefill(embeds[5:17], cache) is cache
    assert_close(language.advance(cache, embeds[17:]), whole, atol=1e-5, rtol=0)


def test_a_long_prefix_and_its_scores_are_run_in_pieces(
    model: LlavaMini, embeds: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    language, span = model.language, (BEFORE, BEFORE + VISION)
    logits, attention = language.score(language.prefill(embeds[:-QUESTION]), embeds[-QUESTION:], span)
    rows: list[int] = []
    embedded = language.llm.model.layers[0].register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[1]))
    monkeypatch.setattr(language_half, "PREFILL_POSITIONS", 7)
    monkeypatch.setattr(language_half, "SCORE_CELLS", 2 * 4 * len(embeds))  # two rows of four heads
    pieces = language.score(language.prefill(embeds[:-QUESTION]), embeds[-QUESTION:], span)
    embedded.remove()
    assert rows == [7, 7, 7, 3, QUESTION]
    assert_close(pieces[0], logits, atol=1e-5, rtol=0)
    assert_close(pieces[1], attention, atol=1e-5, rtol=0)


def test_steps_equal_running_the_whole_sequence(model: LlavaMini, embeds: Tensor) -> None:
    language = model.language
    cache = language.prefill(embeds)
    for token_id in (5, 9):
        stepped = language.step(cache, token_id)
    whole = language.advance(language.make_cache(), torch.cat([embeds, language.embed([5, 9])]))
    assert_close(stepped, whole, atol=1e-5, rtol=0)


def test_both_halves_use_the_same_embedding_table(model: LlavaMini) -> None:
    assert torch.equal(model.embed([3, 4, 5]), model.language.embed([3, 4, 5]))
    with pytest.raises(InputError, match="vocabulary"):
        model.language.embed([-200])


def test_the_refusal_of_a_stretch_beyond_the_context_says_what_would_fit(make_checkpoint: MakeCheckpoint) -> None:
    model = LlavaMini.from_pretrained(make_checkpoint(max_position_embeddings=40))  # 4 tokens a frame
    ids = torch.tensor([[5, 6, -200, 7]])
    assert model.config.context == 40
    with pytest.raises(PromptTooLong, match="9 frames would") as caught:
        model.trace(pixels(model, 10), ids, 1)
    assert (caught.value.frames, caught.value.would_fit, caught.value.limit) == (10, 9, 40)
    assert model.trace(pixels(model, 9), ids, 1)["inputs_embeds"].shape == (39, 64)
    model.require_fit(9, text_tokens=3, new_tokens=1)
    with pytest.raises(PromptTooLong, match="shorten the question"):
        model.require_fit(1, text_tokens=50)
